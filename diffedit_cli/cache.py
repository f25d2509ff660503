"""Content-addressed files and folders: a key names what made the entry, so it never changes. Bytes and paths only."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffedit_cli import files, paths, unfinished
from diffedit_cli.errors import OutputError

SUFFIX = ".safetensors"
MODELS = "models"  # folders, converted from checkpoints
LOCKS, LOCK_DIGITS = "locks", 3  # so many hexadecimal digits of the key: a file for each, which is never removed
MADE = "made"  # notes of what single commands wrote
UNFINISHED = "unfinished"
PATIENCE = 0.05  # seconds between two attempts at a lock


@dataclass(frozen=True)
class Entry:
    """What is kept: its kind, size in bytes, and time of last use in seconds.

    Kinds are those of `artefacts.RANKS`, `model`, and `unfinished` for what a writer that was killed has left.
    """

    path: Path
    kind: str
    size: int
    used: float


class Cache:
    """A folder of entries, for any number of processes: entries appear by one rename. Locks only save double work."""

    def __init__(self, root: Path, wait: Callable[[], object] = functools.partial(time.sleep, PATIENCE)) -> None:
        """`wait` is called, again and again, while another makes what is needed."""
        self.root, self._wait = root, wait

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's file, or None. Marks it as used."""
        path = self._path(kind, key)
        if not paths.is_file(path):
            return None
        with contextlib.suppress(OSError):
            os.utime(path, (time.time(), path.stat().st_mtime))
        return path

    def store(self, kind: str, key: str, data: bytes) -> None:
        """Raises OutputError where the folder cannot be written."""
        if self.root == paths.NOWHERE:
            raise OutputError("There is no home folder to have a cache in; set HOME, or name one with --cache-dir.")
        path = self._path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The cache folder {self.root} cannot be written: {error.strerror}.") from error
        files.publish(path, data)

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """While another makes the entry of this key, waits. The system ends the lock with its process.

        Where there can be no lock, two may make the same, and the last one stays.
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
        """The place of a converted model. Marks it as used; what killed processes left beside it goes."""
        path = self.root / MODELS / key
        unfinished.sweep(path.parent)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def entries(self) -> list[Entry]:
        """All entries, least recently used first. Raises OutputError where the folder may not be looked into."""
        try:
            return sorted(self._scan(), key=lambda entry: entry.used)
        except OSError as error:
            raise OutputError(
                f"The cache folder {self.root} cannot be read: {error.strerror}; choose one with --cache-dir."
            ) from error

    def prune(self, keep_bytes: int) -> list[Entry]:
        """Removes what is unfinished, then the least recently used entries until at most `keep_bytes` are left.

        Returns what it removed. Raises OutputError for what cannot be removed.
        """
        entries = sorted(self.entries(), key=lambda entry: entry.kind != UNFINISHED)
        total, removed = sum(entry.size for entry in entries), []
        for entry in entries:
            if total <= keep_bytes and entry.kind != UNFINISHED:
                break
            try:
                (unfinished.remove_if_left if entry.kind == UNFINISHED else _remove)(entry.path)
            except FileNotFoundError:  # another process was quicker
                pass
            except OSError as error:
                raise OutputError(
                    f"{entry.path} cannot be removed: {error.strerror}; check the permissions of the cache folder."
                ) from error
            total -= entry.size
            removed.append(entry)
        if not keep_bytes:
            for beside in (LOCKS, MADE):
                shutil.rmtree(self.root / beside, ignore_errors=True)
        return removed

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / (key + SUFFIX)

    def _scan(self) -> Iterator[Entry]:
        for path in self.root.glob(f"*/*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield Entry(path, path.parts[-3], status.st_size, max(status.st_atime, status.st_mtime))
        for path in self.root.glob(f"{MODELS}/*/"):
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    yield Entry(path, "model", _size(path), path.stat().st_mtime)
        for path in (*self.root.glob("*/.*"), *self.root.glob("*/*/.*")):
            with contextlib.suppress(FileNotFoundError):
                if unfinished.is_left(path):
                    yield Entry(path, UNFINISHED, _size(path), path.stat().st_mtime)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    with unfinished.folder(path) as doomed:
        path.rename(doomed / "old")  # at once: nobody finds half of it


def default_root() -> Path:
    """The user's cache folder for diffedit."""
    return paths.of_user("cache")
