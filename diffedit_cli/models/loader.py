"""Loading a model, and keeping the last one where a process does one command after the other."""

from __future__ import annotations

import dataclasses
import gc
import importlib
from typing import Any

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.networks import fast_imports
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models.devices import DTYPES, device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions

NEEDED = ("kornia.filters", "scipy.ndimage")


class Loader:
    """Loads models. One that keeps gives the same model again, as long as nothing of it is another."""

    def __init__(self) -> None:
        self.keeps = False
        self._last: tuple[Any, Model] | None = None

    def keep(self) -> None:
        """From now on the last model is kept. All that loading and editing import is imported now."""
        self.keeps = True
        with fast_imports.quickly():
            from diffedit_cli.engine.networks import families

            for name in NEEDED:
                importlib.import_module(name)
            for family in FAMILIES:
                families.implementation(family)
        gc.freeze()  # libraries stay: not to be looked through after each command

    def load(self, folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions) -> Model:
        """Raises ModelError for a model that cannot be read, DeviceError for lack of memory."""
        key = folder, folder.digest if self.keeps else None, device, dtype, memory
        if self._last is not None and self._last[0] == key and not self._last[1].vae_overflowed:
            return self._last[1]
        self.forget()
        with fast_imports.quickly(), device_errors(device):
            from diffedit_cli.engine.networks import families

            model = families.load(
                folder.path, device, DTYPES[dtype], folder.name, folder.variant,
                **folder.additions, **dataclasses.asdict(memory),
            )  # fmt: skip
        if self.keeps:
            self._last = key, model
        return model

    def forget(self) -> None:
        self._last = None


LOADER = Loader()
"""That of this process."""
