"""Files and folders while they are made: hidden, locked by whoever makes them, and swept away when that was killed."""

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

ABANDONED = 3600.0  # seconds without a change, after which nobody on another machine makes it any more
PACE = 60.0  # seconds until a process looks into the same folder again
OURS = re.compile(r"\..*\.diffedit-(?P<kernel>[0-9a-f]*)-\w{8}\.part")

_swept: dict[tuple[int, int], float] = {}  # when, by device and inode


@contextlib.contextmanager
def file(path: Path, move: Callable[[Path, Path], object] = Path.replace) -> Iterator[int]:
    """The descriptor of a file beside `path` to write, which gets that name by `move` when whole; else nothing stays.

    What killed processes left in the folder goes. Raises OSError.
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
    """An empty folder beside `path`, for a while. What killed processes left there goes. Raises OSError."""
    sweep(path.parent)
    descriptor, temporary = _begun(path, _make_folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Exclusive advisory lock on the folder; does nothing on file systems without locks."""
    with contextlib.ExitStack() as left:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            left.callback(os.close, descriptor)
            lock(descriptor)
        yield


def elsewhere() -> contextlib.AbstractContextManager[Path]:
    """An empty folder where the system keeps what is temporary, as `folder` makes one."""
    return folder(Path(tempfile.gettempdir()) / "files")


def sweep(parent: Path) -> None:
    """Removes what killed processes left in a folder, and nothing that may still be written."""
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
    """Whether nobody makes this hidden file or folder any more. Raises OSError where it has gone."""
    with _nobodys(path) as left:
        return left


def remove_if_left(path: Path) -> None:
    """Raises OSError where it cannot be removed, or has gone."""
    with _nobodys(path) as left:
        if left and path.is_dir():
            shutil.rmtree(path)
        elif left:
            path.unlink()


@contextlib.contextmanager
def _nobodys(path: Path) -> Iterator[bool]:
    """Whether it is left; in here nobody can begin to write it.

    The system ends a lock with its process, and all processes of one kernel, also those in containers, see it. Another
    machine's may not be seen, so that what was begun on one is left only when it has not changed for long.
    """
    ours = OURS.fullmatch(path.name)
    if ours is None or not ours["kernel"] or ours["kernel"] != _kernel():
        yield not _changed_since(path, time.time() - ABANDONED)
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks what can be written
    try:
        yield lock(descriptor, wait=False)
    finally:
        os.close(descriptor)


def _changed_since(path: Path, moment: float) -> bool:
    """Whether it has changed, or anything in it: a folder does not when a file in it is written. Raises OSError."""
    left = [path]
    while left:
        status = (one := left.pop()).lstat()
        if status.st_mtime >= moment:
            return True
        if stat.S_ISDIR(status.st_mode):
            left += one.iterdir()
    return False


def _begun(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[int, Path]:
    """The descriptor and the path of what `make` made beside `path`, locked."""
    while True:
        descriptor, name = make(dir=path.parent, prefix=f".{path.name[:40]}.diffedit-{_kernel()}-", suffix=".part")
        lock(descriptor)
        if os.path.lexists(name):
            return descriptor, Path(name)
        os.close(descriptor)  # somebody swept it before it was locked


def _make_file(dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
    """As tempfile does, but with the user's umask, which cannot be asked for without setting it for all threads."""
    while True:
        path = dir / f"{prefix}{secrets.token_hex(4)}{suffix}"
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), str(path)


def _make_folder(**name: Any) -> tuple[int, str]:
    while True:
        path = tempfile.mkdtemp(**name)
        with contextlib.suppress(FileNotFoundError):  # somebody swept it before it was opened
            return os.open(path, os.O_RDONLY), path


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Whether it is locked now: where there are no locks never, so that nothing is taken for left."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@functools.cache
def _kernel() -> str:
    """Of this machine since it was started; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "").strip()[:12]
    except OSError:
        return ""
