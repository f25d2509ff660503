"""Keeps the networks that OpenVINO compiled for a model in the cache, so that each is compiled once."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.kept_networks import KeptNetworks

RULES = 1
"""Version of what is compiled; networks of an earlier version are compiled again."""
FILE = "network.blob"
MADE_BY = ("openvino", "torch", "diffusers")


@dataclass(frozen=True)
class CompiledNetworks:
    """The `openvino_runtime.Store` of a model in a number format. Networks that LoRAs changed are not kept."""

    folder: ModelFolder
    dtype: str

    def find(self, made_for: str) -> tuple[Path, object] | None:
        place = self._place(made_for)
        return (place.stored / FILE, place.held) if place and place.stored else None

    def keep(self, made_for: str, compiled: memoryview) -> None:
        if place := self._place(made_for):
            place.keep(len(compiled), lambda folder: (folder / FILE).write_bytes(compiled))

    def _place(self, made_for: str) -> KeptNetworks | None:
        if not self.folder.loras:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions = " ".join(metadata.version(library) for library in MADE_BY)
                return KeptNetworks.of(self.folder, f"{self.dtype} {versions} {RULES} {made_for}")
        return None
