"""Keeps the networks that OpenVINO compiled for a model in the cache, so that each is compiled once."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    _places: dict[str, KeptNetworks] = field(default_factory=dict)

    def find(self, made_for: str) -> Path | None:
        stored = None if self.folder.loras else self._place(made_for).stored
        return stored / FILE if stored else None

    def keep(self, made_for: str, compiled: memoryview) -> None:
        if not self.folder.loras:
            self._place(made_for).keep(len(compiled), lambda folder: (folder / FILE).write_bytes(compiled))

    def _place(self, made_for: str) -> KeptNetworks:
        if made_for not in self._places:
            versions = " ".join(metadata.version(library) for library in MADE_BY)
            self._places[made_for] = KeptNetworks.of(self.folder, f"{self.dtype} {versions} {RULES} {made_for}")
        return self._places[made_for]
