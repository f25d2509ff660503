"""The folder of the cache: which files in it are entries, their total size, and eviction at the size limit."""

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
MODELS = "models"  # folders of models converted from checkpoints
LOCKS, LOCK_DIGITS = "locks", 3  # one lock file for each value of the first LOCK_DIGITS hex digits of a key
MADE = "made"  # notes of the outputs of single commands
DIGESTS = "digests"  # notes of the digests of large files
MODEL, NOTE, UNFINISHED = "model", "note", "unfinished"
MARK, USAGE = ".diffedit-cache", ".diffedit-usage"
MARKED = b"diffedit keeps what it may need again in this folder, and removes it by: diffedit cache clear\n"
_HEX = "[0-9a-f]"
OURS = {  # relative paths of all files that diffedit writes into the folder, by the kind of entry
    "entry": re.compile(rf"[a-z]+/({_HEX}{{2}})/\1{_HEX}{{62}}\{SUFFIX}"),
    MODEL: re.compile(rf"{MODELS}/{_HEX}{{64}}(-[0-9]+)?(-{_HEX}{{16}}){{0,2}}"),
    NOTE: re.compile(rf"{MADE}/{_HEX}{{64}}\.json|{DIGESTS}/{_HEX}{{64}}"),
    UNFINISHED: re.compile(rf"[a-z]+/({_HEX}{{2}}/)?{atomic.OURS.pattern}"),
    "lock": re.compile(rf"{LOCKS}/{_HEX}{{{LOCK_DIGITS}}}\.lock"),
}
MOST, SHARE = 10 * 10**9, 10  # default limit: MOST bytes, at most 1/SHARE of the space that is free or in the cache
ROOM = 10  # at the limit 1/ROOM of it is freed at once, so that the folder is not scanned for each write
BLOCK = 4096  # bytes; a file takes whole blocks on disk, and its folder one more
_limits: dict[Path, int] = {}  # bytes, as set or computed in this process, by cache folder


@dataclass(frozen=True)
class Entry:
    """A cache entry: its kind, size in bytes, and time of last use in seconds since the epoch.

    Kinds are those of the cached results (`contrast`, `inversion`, `edit` ...), `model`, `note` for notes of outputs
    and digests, and `unfinished` for the temporary file of a writer, which may have been killed.
    """

    path: Path
    kind: str
    size: int
    used: float


class CacheFolder:
    """A folder that is marked as diffedit's and never exceeds its size limit, for any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def reserve(self, size: int) -> None:
        """Makes room for `size` bytes that will be written, and counts them as used. Raises OutputError."""
        with self._room(size):
            pass

    def need_home(self) -> None:
        """Raises OutputError if the cache would lie in a home folder and the user has none."""
        paths.need_home(self.root, "have a cache in", "set HOME, or name one with --cache-dir")

    @property
    def is_marked(self) -> bool:
        """Whether the folder contains the file that marks it as diffedit's."""
        mark = self.root / MARK
        return paths.is_file(mark) and not paths.is_link(mark)

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Counts `size` bytes that are written within the context, after evicting the oldest entries if needed.

        Entries are evicted by last use. All processes count in one locked file of the folder, so the entries are never
        larger than the count. The folder is scanned only when the count reaches the limit. Raises OutputError if there
        is not enough room, or if the folder cannot be written.
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
                        f"The cache {self.root} is limited to {limit / 1e6:.1f} MB, too little for {size / 1e6:.1f} MB "
                        "more; raise --cache-limit."
                    )
                usage.bytes += size
                yield
        except OSError as error:
            raise OutputError(
                f"The cache folder {self.root} cannot be written: {error.strerror}; choose one with --cache-dir."
            ) from error

    def _limit(self, used: int) -> int:
        """Returns the size limit in bytes for a cache that uses `used` bytes now."""
        if self.root not in _limits:
            _limits[self.root] = min(MOST, (shutil.disk_usage(self.root).free + used) // SHARE)
        return _limits[self.root]

    def trim(self, *, recount: bool = False) -> None:
        """Evicts entries down to the limit, which may be new.

        `recount` scans the folder first, after entries were removed or written with an unknown size.
        """
        with contextlib.suppress(OSError):
            if self.is_marked:
                with _counted(self.root / USAGE) as usage:
                    if usage.bytes is None or recount:
                        usage.bytes = sum(map(_weight, self._scan()))
                    if usage.bytes > (limit := self._limit(usage.bytes)):
                        usage.bytes = self._make_room(0, limit)

    def _make_room(self, size: int, limit: int) -> int:
        """Removes entries until `size` bytes and 1/ROOM of the limit are free. Returns the bytes still used.

        A model that a process holds stays, however long ago the process opened it. Raises OSError.
        """
        entries = sorted(self._scan(), key=lambda entry: entry.used)
        total, most = sum(map(_weight, entries)), limit - limit // ROOM - size
        for entry in entries if total + size > limit else ():
            if total <= most:
                break
            if discard(entry):
                total -= _weight(entry)
        return total

    def _scan(self) -> Iterator[Entry]:
        """Yields all entries in the folder except locks, which are empty. Raises OSError if it may not be read."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.scandir(self.root).close()  # raises where glob would yield nothing
        for path in (*self.root.glob("*/*"), *self.root.glob("*/*/*")):
            kind = self._kind(path)
            if kind in (None, "lock"):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                used = max(status.st_atime, status.st_mtime) if kind == "entry" else status.st_mtime
                yield Entry(path, path.parts[-3] if kind == "entry" else kind, _size(path), used)

    def _kind(self, path: Path) -> str | None:
        """Returns the kind of entry at a path, or None if it is not diffedit's."""
        name = path.relative_to(self.root).as_posix()
        found = (kind for kind, pattern in OURS.items() if pattern.fullmatch(name))
        kind = next(found, None)
        right = {MODEL: paths.is_folder, UNFINISHED: os.path.lexists}.get(kind or "", paths.is_file)
        return kind if right(path) and not paths.is_link(path) else None


@dataclass
class Usage:
    """Upper bound of the bytes in a cache; None before the first count."""

    bytes: int | None


@contextlib.contextmanager
def _counted(path: Path) -> Iterator[Usage]:
    """Yields the usage stored in a file, locked against other processes, and stores its changes. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        atomic.lock(descriptor)
        said = os.pread(descriptor, 32, 0).strip()
        usage = Usage(int(said) if said.isdigit() else None)
        os.pwrite(descriptor, b" " * 32, 0)  # blank meanwhile: after a killed process the next one counts again
        try:
            yield usage
        finally:
            os.pwrite(descriptor, b"%-32d" % usage.bytes if usage.bytes is not None else b" " * 32, 0)
    finally:
        os.close(descriptor)


def keep_to(root: Path, limit: int | None) -> None:
    """Sets the size limit of the cache at `root` in this process, in bytes; None restores the default limit."""
    _limits.pop(root, None)
    if limit is not None:
        _limits[root] = limit


def _taken(size: int) -> int:
    """Returns the bytes on disk that a file of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK + BLOCK


def _weight(entry: Entry) -> int:
    return _taken(entry.size)


def _size(path: Path) -> int:
    files = [path] if paths.is_file(path) else [file for file in path.rglob("*") if paths.is_file(file)]
    return sum(file.stat().st_size for file in files)


def discard(entry: Entry) -> bool:
    """Removes an entry, unless a process is writing it or holds it as its model. Returns whether it is gone.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):  # another process has removed it
        if entry.kind == UNFINISHED:
            atomic.remove_if_left(entry.path)
        elif entry.kind == MODEL:
            with model_locks.unless_held(entry.path) as free:
                if free:
                    remove(entry.path)
        else:
            remove(entry.path)
    return not os.path.lexists(entry.path)


def remove(path: Path) -> None:
    """Removes a file or a folder of the cache. Raises OSError."""
    if not paths.is_folder(path):
        path.unlink()
        return
    with atomic.folder(path) as doomed:
        path.rename(doomed / "old")  # in one step, so that no process reads half of it
