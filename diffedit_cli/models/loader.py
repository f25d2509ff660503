"""Loads models, and keeps the last one for processes that run several commands."""

from __future__ import annotations

import dataclasses
import gc
import importlib
from collections.abc import Callable
from threading import Lock
from typing import Any

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.networks import fast_imports
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import memory_needed
from diffedit_cli.models.compiled_networks import CompiledNetworks
from diffedit_cli.models.devices import DTYPES, device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.models.quantised_copies import QuantisedCopies

NEEDED = ("kornia.filters", "scipy.ndimage")


class Loader:
    """Loads models; one that keeps them returns the last model again, for as long as nothing of it changes."""

    def __init__(self) -> None:
        self.keeps = self.has_loaded = False
        self._last: tuple[Any, dict[str, Model]] | None = None  # by device, where a run uses several
        self._lock = Lock()  # imports and random numbers of the libraries are those of the process

    def keep(self) -> None:
        """Keeps the last model from now on, and imports all modules that loading and editing need."""
        self.keeps = True
        with fast_imports.quickly():
            from diffedit_cli.engine.networks import families

            for name in NEEDED:
                importlib.import_module(name)
            for family in FAMILIES:
                families.implementation(family)
        gc.freeze()  # libraries stay: the collector need not scan them after each command

    def load(
        self,
        folder: ModelFolder,
        device: str,
        dtype: str,
        memory: OffloadOptions,
        warn: Callable[[str], object] = lambda _: None,
    ) -> Model:
        """Returns the loaded model; calls `warn` with a message before if memory will hardly suffice.

        Raises ModelError if it cannot be read, DeviceError if memory does not suffice.
        """
        with self._lock:
            return self._loaded(folder, device, dtype, memory, warn)

    def _loaded(
        self, folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions, warn: Callable[[str], object]
    ) -> Model:
        key = folder, folder.digest if self.keeps else None, dtype, memory
        models = self._last[1] if self._last is not None and self._last[0] == key else {}
        if device in models and not models[device].vae_overflowed:
            return models[device]
        if models.pop(device, None) is not None or not models:
            self.forget()
        memory_needed.refuse_quantised_files(folder, memory)
        memory_needed.check(folder, device, dtype, memory, warn)
        copies = QuantisedCopies.of(folder, dtype, memory.quantize)
        with fast_imports.quickly(), device_errors(device):
            from diffedit_cli.engine.networks import families

            model = families.load(
                folder.path, device, DTYPES[dtype], folder.name, folder.variant,
                **folder.additions, **dataclasses.asdict(memory), spacing=folder.spacing,
                elsewhere=folder.elsewhere, stored=copies.stored, keep=copies.keep,
                compiled=CompiledNetworks(folder, dtype),
            )  # fmt: skip
        self.has_loaded = True
        if self.keeps:
            self._last = key, {**models, device: model}
        return model

    def forget(self) -> None:
        if self._last is not None:
            self._last = None
            gc.collect()  # a model refers to itself


LOADER = Loader()
"""The loader of this process."""
