"""Keeps the quantised weights of a model in the cache, so that they are made once from the full-size ones."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit_cli.engine.networks.model_formats import LIBRARIES
from diffedit_cli.errors import OutputError
from diffedit_cli.models import weights
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.storage import files, model_locks
from diffedit_cli.storage.cache import Cache

if TYPE_CHECKING:
    from torch import nn

RULES = 1
"""Version of the rules of quantisation; weights stored by an earlier version are made again."""


@dataclass(frozen=True)
class QuantisedCopies:
    """The place of a model's quantised weights in the cache.

    Attributes:
        target: Folder of the weights, which may not exist yet. None: they are not kept.
        stored: The same folder if it exists, locked in the cache by `held`.
        held: The lock.
    """

    target: Path | None = None
    stored: Path | None = None
    held: object = None

    @classmethod
    def of(cls, folder: ModelFolder, dtype: str, kind: str) -> QuantisedCopies:
        """Returns the place for a model, a number format and a kind of quantisation.

        Kept are int8 and nf4 of models without adapters: fp8 is a plain rounding, as quick as reading, and each
        combination of LoRAs would take the room of a model.
        """
        library = LIBRARIES.get(kind)
        if library is None or folder.loras or folder.embeddings or folder.is_quantised:
            return cls()
        with contextlib.suppress(metadata.PackageNotFoundError):
            said = f"{folder.digest} {dtype} {kind} {library} {metadata.version(library)}"
            target = Cache(folder.memo.parent).model(f"{hashlib.sha256(said.encode()).hexdigest()}-{RULES}")
            held = model_locks.hold(target)
            return cls(target, target if held else None, held)
        return cls()

    def keep(self, networks: Mapping[str, nn.Module]) -> None:
        """Writes the weights of quantised networks, if the cache has room for them."""
        from diffedit_cli.engine.networks import quantisation

        if self.target is None:
            return
        cache = Cache(self.target.parent.parent)
        with contextlib.suppress(OSError, OutputError):  # the next command makes them again
            cache.reserve(sum(map(quantisation.size, networks.values())))
            with files.new_folder(self.target) as fresh, weights.writing():
                for part, network in networks.items():
                    quantisation.write(network, fresh / (part + quantisation.SUFFIX))
            cache.trim(recount=True)
