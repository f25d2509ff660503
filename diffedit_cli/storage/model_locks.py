"""Locks on converted models, so that the cache keeps a model for as long as a process reads it."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from diffedit_cli.storage import atomic, paths


class ModelLock:
    """A shared lock on a model's folder, held for as long as this object exists."""

    def __init__(self, model: Path) -> None:
        """Opens and locks the folder. Raises OSError if it does not exist."""
        import fcntl

        self._descriptor = os.open(model, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        weakref.finalize(self, os.close, self._descriptor)

    def is_still(self, model: Path) -> bool:
        """Whether the locked folder is the one at this path, that is, was not removed before it was locked."""
        return os.path.samestat(os.fstat(self._descriptor), model.stat())


_here: weakref.WeakValueDictionary[Path, ModelLock] = weakref.WeakValueDictionary()  # for file systems without locks


def hold(model: Path) -> ModelLock | None:
    """Returns a lock that keeps a model's folder, or None if the folder does not exist."""
    with contextlib.suppress(OSError):
        held = ModelLock(model)
        if paths.is_folder(model) and held.is_still(model):
            _here[model] = held
            return held
    return None


@contextlib.contextmanager
def unless_held(model: Path) -> Iterator[bool]:
    """Yields whether no process reads the folder; if so, none can begin to within the context."""
    if model in _here:
        yield False
        return
    try:
        descriptor = os.open(model, os.O_RDONLY)
    except OSError:  # the folder is gone
        yield False
        return
    try:
        yield atomic.lock(descriptor, wait=False)
    finally:
        os.close(descriptor)
