"""Keeps the quantised weights of a model in the cache, so that they are made once from the full-size ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit_cli.engine.networks.model_formats import LIBRARIES
from diffedit_cli.models import weights
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.kept_networks import KeptNetworks

if TYPE_CHECKING:
    from torch import nn

RULES = 1
"""Version of the rules of quantisation; weights stored by an earlier version are made again."""


@dataclass(frozen=True)
class QuantisedCopies:
    """The quantised weights of a model; `place` is where they are kept, None if they are not."""

    place: KeptNetworks | None = None

    @classmethod
    def of(cls, folder: ModelFolder, dtype: str, kind: str) -> QuantisedCopies:
        """Returns those of a model, a number format and a kind of quantisation.

        Kept are int8 and nf4 of models without adapters: fp8 is a plain rounding, as quick as reading, and each
        combination of LoRAs would take the room of a model.
        """
        library = LIBRARIES.get(kind)
        if library is None or folder.loras or folder.embeddings or folder.is_quantised:
            return cls()
        with contextlib.suppress(metadata.PackageNotFoundError):
            return cls(KeptNetworks.of(folder, f"{dtype} {kind} {library} {metadata.version(library)} {RULES}"))
        return cls()

    @property
    def stored(self) -> Path | None:
        """The folder of the weights, if it exists."""
        return self.place.stored if self.place else None

    def keep(self, networks: Mapping[str, nn.Module]) -> None:
        """Writes the weights of quantised networks, if the cache has room for them."""
        from diffedit_cli.engine.networks import quantisation

        def write(folder: Path) -> None:
            with weights.writing():
                for part, network in networks.items():
                    quantisation.write(network, folder / (part + quantisation.SUFFIX))

        if self.place is not None:
            self.place.keep(sum(map(quantisation.size, networks.values())), write)
