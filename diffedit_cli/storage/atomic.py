"""Temporary files and folders: hidden, locked by the process that writes them, and swept away if it was killed."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ABANDONED = 3600.0  # seconds without a change, after which a file of another machine counts as abandoned
PACE = 60.0  # seconds until a process sweeps the same folder again
OURS = re.compile(r"\..*\.diffedit-(?P<kernel>[0-9a-f]*)-\w{8}\.part")

_swept: dict[tuple[int, int], float] = {}  # time of the last sweep of a folder, by device and inode


@contextlib.contextmanager
def file(path: Path, move: Callable[[Path, Path], object] = Path.replace) -> Iterator[int]:
    """Yields the descriptor of a temporary file beside `path`; at the end of the block `move` gives it that name.

    After an error the temporary file is removed. Also sweeps the folder. Raises OSError.
    """
    sweep(path.parent)
    descriptor, temporary = _begun(path, _make_file)
    try:
        yield descriptor
        move(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, removed at the end. Also sweeps there. Raises OSError."""
    sweep(path.parent)
    descriptor, temporary = _begun(path, _make_folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Exclusive advisory lock on the folder; does nothing on file systems without locks."""
    with contextlib.ExitStack() as left:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            left.callback(os.close, descriptor)
            lock(descriptor)
        yield


def elsewhere() -> contextlib.AbstractContextManager[Path]:
    """Returns the context of `folder` for an empty folder among the system's temporary files."""
    return folder(Path(tempfile.gettempdir()) / "files")


def sweep(parent: Path) -> None:
    """Removes the temporary files of killed processes from a folder, but none that may still be written."""
    with contextlib.suppress(OSError):
        status, now = parent.stat(), time.monotonic()
        key = status.st_dev, status.st_ino
        if now - _swept.get(key, -PACE) < PACE:
            return
        _swept[key] = now
        with os.scandir(parent) as found:
            left = [Path(one.path) for one in found if OURS.fullmatch(one.name)]
        for path in left:
            with contextlib.suppress(OSError):
                remove_if_left(path)


def is_left(path: Path) -> bool:
    """Whether no process writes this temporary file or folder any more. Raises OSError if it is gone."""
    with _nobodys(path) as left:
        return left


def remove_if_left(path: Path) -> None:
    """Removes a temporary file or folder that no process writes. Raises OSError if it cannot be removed or is gone."""
    with _nobodys(path) as left:
        if left and path.is_dir():
            shutil.rmtree(path)
        elif left:
            path.unlink()


@contextlib.contextmanager
def _nobodys(path: Path) -> Iterator[bool]:
    """Yields whether no process writes the file or folder; within the context none can begin to.

    The system releases a lock when its process ends, and all processes of one kernel, also in containers, see the lock.
    A lock of another machine may not be seen, so a file of another machine counts as abandoned only after ABANDONED
    seconds without a change.
    """
    ours = OURS.fullmatch(path.name)
    if ours is None or not ours["kernel"] or ours["kernel"] != _kernel():
        yield not _changed_since(path, time.time() - ABANDONED)
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only writable descriptors
    try:
        yield lock(descriptor, wait=False)
    finally:
        os.close(descriptor)


def _changed_since(path: Path, moment: float) -> bool:
    """Whether the path or anything below it has changed since `moment`. Raises OSError.

    All files are checked, because the time of a folder does not change when a file in it is written.
    """
    left = [path]
    while left:
        status = (one := left.pop()).lstat()
        if status.st_mtime >= moment:
            return True
        if stat.S_ISDIR(status.st_mode):
            left += one.iterdir()
    return False


def _begun(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[int, Path]:
    """Creates a temporary file or folder beside `path` with `make`, locks it and returns its descriptor and path."""
    while True:
        descriptor, name = make(dir=path.parent, prefix=f".{path.name[:40]}.diffedit-{_kernel()}-", suffix=".part")
        lock(descriptor)
        if os.path.lexists(name):
            return descriptor, Path(name)
        os.close(descriptor)  # another process swept it before it was locked


def _make_file(dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
    """Creates a file like `tempfile.mkstemp`, but with the permissions of the user's umask.

    The umask is left to os.open, as it cannot be read without setting it for all threads.
    """
    while True:
        path = dir / f"{prefix}{secrets.token_hex(4)}{suffix}"
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), str(path)


def _make_folder(**name: Any) -> tuple[int, str]:
    while True:
        path = tempfile.mkdtemp(**name)
        with contextlib.suppress(FileNotFoundError):  # another process swept it before it was opened
            return os.open(path, os.O_RDONLY), path


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Locks a descriptor exclusively and returns whether it succeeded.

    Returns False on file systems without locks, so that nothing there counts as abandoned.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@functools.cache
def _kernel() -> str:
    """Returns 12 digits of the boot ID, which differs between machines and restarts; empty if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "").strip()[:12]
    except OSError:
        return ""
