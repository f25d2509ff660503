"""The folder of the cache: what of ours lies in it, how much that is, and what goes when there is no more room."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffedit_cli.errors import OutputError
from diffedit_cli.storage import atomic, files, model_locks, paths

SUFFIX = ".safetensors"
MODELS = "models"  # folders, converted from checkpoints
LOCKS, LOCK_DIGITS = "locks", 3  # so many hexadecimal digits of the key: a file for each
MADE = "made"  # notes of what single commands wrote
DIGESTS = "digests"  # notes of what big files hold
MODEL, NOTE, UNFINISHED = "model", "note", "unfinished"
MARK, USAGE = ".diffedit-cache", ".diffedit-usage"
MARKED = b"diffedit keeps what it may need again in this folder, and removes it by: diffedit cache clear\n"
_HEX = "[0-9a-f]"
OURS = {  # what we put into the folder, and nothing else, by the kind of entry
    "entry": re.compile(rf"[a-z]+/({_HEX}{{2}})/\1{_HEX}{{62}}\{SUFFIX}"),
    MODEL: re.compile(rf"{MODELS}/{_HEX}{{64}}(-[0-9]+)?(-{_HEX}{{16}}){{0,2}}"),
    NOTE: re.compile(rf"{MADE}/{_HEX}{{64}}\.json|{DIGESTS}/{_HEX}{{64}}"),
    UNFINISHED: re.compile(rf"[a-z]+/({_HEX}{{2}}/)?{atomic.OURS.pattern}"),
    "lock": re.compile(rf"{LOCKS}/{_HEX}{{{LOCK_DIGITS}}}\.lock"),
}
MOST, SHARE = 10 * 10**9, 10  # bytes, or one in so many of those that are free: the limit, unless somebody sets it
ROOM = 10  # when it is reached one in so many bytes is made free, so that there is not much to look through for each
BLOCK = 4096  # bytes, of which each file takes whole ones, and its folder one
_limits: dict[Path, int] = {}  # that this process keeps to, by folder


@dataclass(frozen=True)
class Entry:
    """What is kept: its kind, size in bytes, and time of last use in seconds.

    Kinds are those of `artifacts.RANKS`, `model`, `note` for what commands remember, and `unfinished` for what a writer
    that was killed has left.
    """

    path: Path
    kind: str
    size: int
    used: float


class CacheFolder:
    """A folder that is marked as diffedit's and never holds more than its limit, for any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def reserve(self, size: int) -> None:
        """Makes room for so many bytes that will be written, and counts them. Raises OutputError."""
        with self._room(size):
            pass

    def need_home(self) -> None:
        """Raises OutputError where the user has no home to have the folder in."""
        paths.need_home(self.root, "have a cache in", "set HOME, or name one with --cache-dir")

    @property
    def is_marked(self) -> bool:
        """Whether the folder says that it is ours."""
        mark = self.root / MARK
        return paths.is_file(mark) and not paths.is_link(mark)

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Counts so many bytes that are written in here, once what was not used for longest has gone, if need be.

        All processes count in one file of the folder, each while no other does: what lies there is never more than they
        counted. Only when that reaches the limit is the folder looked through. Raises OutputError where there can be no
        room, or the folder cannot be written.
        """
        self.need_home()
        size = _taken(size)
        try:
            if not self.is_marked:
                self.root.mkdir(parents=True, exist_ok=True)
                files.publish(self.root / MARK, MARKED)
            with _counted(self.root / USAGE) as usage:
                if usage.bytes is None:
                    usage.bytes = sum(map(_weight, self._scan()))
                limit = self._limit(usage.bytes)
                wanted = size if size <= limit else 0
                if usage.bytes + wanted > limit:
                    usage.bytes = self._make_room(wanted, limit)
                if usage.bytes + size > limit:
                    raise OutputError(
                        f"The cache {self.root} may hold {limit / 1e6:.1f} MB, too little for {size / 1e6:.1f} more; "
                        "raise --cache-limit."
                    )
                usage.bytes += size
                yield
        except OSError as error:
            raise OutputError(
                f"The cache folder {self.root} cannot be written: {error.strerror}; choose one with --cache-dir."
            ) from error

    def _limit(self, used: int) -> int:
        """How many bytes it may hold, of which so many are used."""
        if self.root not in _limits:
            _limits[self.root] = min(MOST, (shutil.disk_usage(self.root).free + used) // SHARE)
        return _limits[self.root]

    def trim(self, *, recount: bool = False) -> None:
        """Down to its limit, which may be new; `recount` after something was removed, or written of unknown size."""
        with contextlib.suppress(OSError):
            if self.is_marked:
                with _counted(self.root / USAGE) as usage:
                    if usage.bytes is None or recount:
                        usage.bytes = sum(map(_weight, self._scan()))
                    if usage.bytes > (limit := self._limit(usage.bytes)):
                        usage.bytes = self._make_room(0, limit)

    def _make_room(self, size: int, limit: int) -> int:
        """Removes entries until a part of the limit is free beside `size`; how many bytes are left. Raises OSError.

        Models that a process holds stay, however long ago it took them.
        """
        entries = sorted(self._scan(), key=lambda entry: entry.used)
        total, most = sum(map(_weight, entries)), limit - limit // ROOM - size
        for entry in entries if total + size > limit else ():
            if total <= most:
                break
            if entry.kind == UNFINISHED and not atomic.is_left(entry.path):
                continue
            with model_locks.unless_held(entry.path) if entry.kind == MODEL else contextlib.nullcontext(True) as free:
                if free:
                    with contextlib.suppress(FileNotFoundError):
                        remove(entry.path)
                    total -= _weight(entry)
        return total

    def _scan(self) -> Iterator[Entry]:
        """All that is ours in the folder, but for locks, which are empty. Raises OSError where that is not allowed."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.scandir(self.root).close()  # which glob would pass over in silence
        for path in (*self.root.glob("*/*"), *self.root.glob("*/*/*")):
            kind = self._kind(path)
            if kind in (None, "lock"):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                used = max(status.st_atime, status.st_mtime) if kind == "entry" else status.st_mtime
                yield Entry(path, path.parts[-3] if kind == "entry" else kind, _size(path), used)

    def _kind(self, path: Path) -> str | None:
        """What of ours has this name; None for what is not."""
        name = path.relative_to(self.root).as_posix()
        found = (kind for kind, pattern in OURS.items() if pattern.fullmatch(name))
        kind = next(found, None)
        right = {MODEL: paths.is_folder, UNFINISHED: os.path.lexists}.get(kind or "", paths.is_file)
        return kind if right(path) and not paths.is_link(path) else None


@dataclass
class Usage:
    """How many bytes lie in a cache, at most; None where nobody has counted."""

    bytes: int | None


@contextlib.contextmanager
def _counted(path: Path) -> Iterator[Usage]:
    """What the file says, while no other process is in here; what it is changed to is written. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        atomic.lock(descriptor)
        said = os.pread(descriptor, 32, 0).strip()
        usage = Usage(int(said) if said.isdigit() else None)
        os.pwrite(descriptor, b" " * 32, 0)  # until it is known: whoever is killed here leaves it to be counted again
        try:
            yield usage
        finally:
            os.pwrite(descriptor, b"%-32d" % usage.bytes if usage.bytes is not None else b" " * 32, 0)
    finally:
        os.close(descriptor)


def keep_to(root: Path, limit: int | None) -> None:
    """From now on the cache there holds so many bytes at most; None for as many as there is room for."""
    _limits.pop(root, None)
    if limit is not None:
        _limits[root] = limit


def _taken(size: int) -> int:
    """Of the disk, by a file of so many bytes."""
    return -(-size // BLOCK) * BLOCK + BLOCK


def _weight(entry: Entry) -> int:
    return _taken(entry.size)


def _size(path: Path) -> int:
    files = [path] if paths.is_file(path) else [file for file in path.rglob("*") if paths.is_file(file)]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    if not paths.is_folder(path):
        path.unlink()
        return
    with atomic.folder(path) as doomed:
        path.rename(doomed / "old")  # at once: nobody finds half of it
