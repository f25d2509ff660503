"""Keeps what is made from a model's weights in the cache, so that it is made once: quantised or compiled networks."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffedit_cli.errors import OutputError
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.storage import files, model_locks
from diffedit_cli.storage.cache import Cache


@dataclass
class KeptNetworks:
    """A place in the cache for networks that are made from a model.

    Attributes:
        target: Folder of the networks, which may not exist yet.
        stored: The same folder if it exists, locked in the cache by `held`.
        held: The lock.
    """

    target: Path
    stored: Path | None
    held: object

    @classmethod
    def of(cls, folder: ModelFolder, made: str) -> KeptNetworks:
        """Returns the place for a model and a text with all that the networks depend on beside it."""
        target = Cache(folder.memo.parent).model(hashlib.sha256(f"{folder.digest} {made}".encode()).hexdigest())
        held = model_locks.hold(target)
        return cls(target, target if held else None, held)

    def keep(self, size: int, write: Callable[[Path], object]) -> None:
        """Makes room for `size` bytes and calls `write` with the folder to write into, if the cache has that room.

        Networks that were stored, and could not be used, are replaced, unless another process still reads them.
        """
        cache = Cache(self.target.parent.parent)
        with contextlib.suppress(OSError, OutputError):  # the next command makes them again
            self._discard()
            cache.reserve(size)
            with files.new_folder(self.target) as fresh:
                write(fresh)
            cache.trim(recount=True)

    def _discard(self) -> None:
        self.stored = self.held = None
        with model_locks.unless_held(self.target) as free:
            if free:
                shutil.rmtree(self.target)
