"""Converted models that are being read: they stay in the cache for as long as anybody reads them."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from diffedit_cli.storage import atomic, paths


class Held:
    """A folder that stays for as long as this object is there; locked with others who read it."""

    def __init__(self, model: Path) -> None:
        """Raises OSError where it is not there."""
        import fcntl

        self._descriptor = os.open(model, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        weakref.finalize(self, os.close, self._descriptor)

    def is_still(self, model: Path) -> bool:
        """Whether the folder that was locked is the one of this name: nobody removed it before."""
        return os.path.samestat(os.fstat(self._descriptor), model.stat())


_here: weakref.WeakValueDictionary[Path, Held] = weakref.WeakValueDictionary()  # where there are no locks


def hold(model: Path) -> Held | None:
    """What keeps the folder of a model; None where it is not there."""
    with contextlib.suppress(OSError):
        held = Held(model)
        if paths.is_folder(model) and held.is_still(model):
            _here[model] = held
            return held
    return None


@contextlib.contextmanager
def unless_held(model: Path) -> Iterator[bool]:
    """Whether nobody reads the folder; in here nobody begins to."""
    if model in _here:
        yield False
        return
    try:
        descriptor = os.open(model, os.O_RDONLY)
    except OSError:  # it has gone
        yield False
        return
    try:
        yield atomic.lock(descriptor, wait=False)
    finally:
        os.close(descriptor)
