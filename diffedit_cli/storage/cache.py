"""Content-addressed cache of files and folders: a key is the digest of an entry's inputs, so an entry never changes.

It deals with bytes and paths only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.storage import atomic, files, paths
from diffedit_cli.storage.cache_folder import (
    LOCK_DIGITS,
    LOCKS,
    MODELS,
    NOTE,
    SUFFIX,
    UNFINISHED,
    CacheFolder,
    Entry,
    discard,
)

PATIENCE = 0.05  # seconds between two attempts at a lock


class Cache(CacheFolder):
    """Cache folder for any number of processes: entries appear by one rename, and locks only avoid double work."""

    def __init__(self, root: Path, wait: Callable[[], object] = functools.partial(time.sleep, PATIENCE)) -> None:
        """Opens the cache at `root`; `wait` is called repeatedly while another process or edit computes an entry."""
        super().__init__(root)
        self._wait = wait

    def find(self, kind: str, key: str) -> Path | None:
        """Returns the path of an entry and marks the entry as used; None if there is no entry."""
        path = self._path(kind, key)
        if not paths.is_file(path):
            return None
        with contextlib.suppress(OSError):
            os.utime(path, (time.time(), path.stat().st_mtime))
        return path

    def store(self, kind: str, key: str, data: bytes) -> None:
        """Writes an entry. Raises OutputError if the folder cannot be written."""
        self.put(self._path(kind, key), data)

    def put(self, path: Path, data: bytes) -> None:
        """Makes room for a file and writes it below the folder. Raises OutputError."""
        with self._room(len(data)):  # locks the count until the file is written
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and (paths.is_link(path) or not paths.is_file(path)):
                raise OutputError(f"{path} is not a file of diffedit's; move it away, or choose another --cache-dir.")
            files.publish(path, data)

    @contextlib.contextmanager
    def exclusively(self, key: str) -> Iterator[None]:
        """Exclusive lock for computing the entry of this key; waits while another process or edit holds it.

        The system releases the lock when its process ends. On file systems without locks two processes may compute the
        same entry, and the entry written last stays.
        """
        from filelock import FileLock, Timeout

        def taken() -> bool:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return False
            return True

        lock = FileLock(self.root / LOCKS / f"{key[:LOCK_DIGITS]}.lock")
        try:
            (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
            while not taken():
                self._wait()
        except (OSError, NotImplementedError):
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def model(self, key: str) -> Path:
        """Returns the folder of a converted model, marks it as used and sweeps the folder around it.

        A reader must call `model_locks.hold` first, or the model may be removed while it is read.
        """
        path = self.root / MODELS / key
        atomic.sweep(path.parent)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def entries(self) -> list[Entry]:
        """Returns all entries, least recently used first, without notes and files that are still being written.

        Raises OutputError if the folder cannot be read.
        """
        try:
            shown = [entry for entry in self._scan() if entry.kind != NOTE]
        except OSError as error:
            raise OutputError(
                f"The cache folder {self.root} cannot be read: {error.strerror}; choose one with --cache-dir."
            ) from error
        return sorted((one for one in shown if one.kind != UNFINISHED or _is_left(one.path)), key=lambda one: one.used)

    def prune(self, keep_bytes: int) -> list[Entry]:
        """Removes unfinished files, then the least recently used entries until at most `keep_bytes` are left.

        Files that a process is writing and models that it holds stay. With `keep_bytes` 0 also removes notes and unused
        locks. Returns the removed entries. Raises OutputError if an entry cannot be removed, UsageError if the folder
        is not marked as diffedit's.
        """
        if not self.is_marked:
            if paths.is_folder(self.root) and any(self.root.iterdir()):
                raise UsageError(
                    f"{self.root} is not marked as a cache of diffedit's, so nothing was removed; "
                    "choose one with --cache-dir."
                )
            return []
        entries = sorted(self.entries(), key=lambda entry: entry.kind != UNFINISHED)
        total, removed = sum(entry.size for entry in entries), []
        for entry in entries:
            if keep_bytes and total <= keep_bytes and entry.kind != UNFINISHED:
                break
            try:
                if not discard(entry):
                    continue
            except OSError as error:
                raise OutputError(
                    f"{entry.path} cannot be removed: {error.strerror}; check the permissions of the cache folder."
                ) from error
            total -= entry.size
            removed.append(entry)
        if not keep_bytes:
            for path in self.root.glob(f"{LOCKS}/*"):
                if self._kind(path) == "lock":
                    _remove_lock(path)
            for entry in self._scan():
                if entry.kind == NOTE:
                    with contextlib.suppress(OSError):
                        entry.path.unlink()
        self.trim(recount=True)
        return removed

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / (key + SUFFIX)


def _is_left(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return atomic.is_left(path)
    return False


def _remove_lock(path: Path) -> None:
    """Removes a lock file, unless a process holds it: a second process could then take a new lock beside it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if atomic.lock(descriptor, wait=False):
                path.unlink()
        finally:
            os.close(descriptor)


def default_root() -> Path:
    """Returns the user's cache folder for diffedit."""
    return paths.of_user("cache")
