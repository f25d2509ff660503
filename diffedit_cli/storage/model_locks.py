"""Converted models that are being read: they stay in the cache until their readers end, whatever else needs room."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from diffedit_cli.storage import atomic, paths

_held: dict[Path, int] = {}  # descriptors of the folders that this process reads, each locked with others who read it


def hold(model: Path) -> bool:
    """Whether the folder is there, which then stays until this process ends. Of folders without locks only this
    process knows."""
    import fcntl

    with contextlib.suppress(OSError):
        if model not in _held or not os.path.samestat(os.fstat(_held[model]), model.stat()):
            descriptor = os.open(model, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if (before := _held.pop(model, None)) is not None:
                os.close(before)
            _held[model] = descriptor
        return paths.is_folder(model)  # nobody removed it before it was locked
    return False


@contextlib.contextmanager
def unless_held(model: Path) -> Iterator[bool]:
    """Whether nobody reads the folder; in here nobody begins to."""
    if model in _held:
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
