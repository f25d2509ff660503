"""The main memory that a process may use: the computer's, or less where control groups (containers) limit it.

psutil reports the computer's memory alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Limit:
    """Bytes that the processes of a control group may have in memory, and how many more of them, and of swap."""

    most: int
    left: int
    swap: int


def whole() -> int:
    """Returns the bytes of memory that this process may use at most."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit.most for limit in _limits())])


def free() -> tuple[int, int]:
    """Returns the free bytes, and the same with what the system can move to the disk."""
    import psutil

    available, swap = int(psutil.virtual_memory().available), int(psutil.swap_memory().free)
    left, more = available, available + swap
    for limit in _limits():
        left, more = min(left, limit.left), min(more, limit.left + limit.swap)
    return left, more


def _limits() -> Iterator[_Limit]:
    """Yields the limits of the control groups that this process is in, of version 2 and 1."""
    told = ""
    with contextlib.suppress(OSError):
        told = OWN.read_text(encoding="utf-8", errors="replace")
    for line in told.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "memory"):
            yield from _limits_of(GROUPS / controllers, path, _of_version_1 if controllers else _of_version_2)


def _limits_of(root: Path, path: str, read: Callable[[Path], _Limit]) -> Iterator[_Limit]:
    """Yields the limits of a group and of those around it; a container may see its own group as the root."""
    inside = PurePosixPath(path.lstrip("/"))
    for group in dict.fromkeys((inside, *inside.parents, PurePosixPath())):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
            yield read(root / group)


def _of_version_2(group: Path) -> _Limit:
    most, used = _number(group / "memory.max"), _number(group / "memory.current")
    swap = 0
    with contextlib.suppress(OSError, ValueError):
        swap = max(0, _number(group / "memory.swap.max") - _number(group / "memory.swap.current"))
    return _Limit(most, max(0, most - used + _statistic(group, "inactive_file")), swap)


def _of_version_1(group: Path) -> _Limit:
    most, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    return _Limit(most, max(0, most - used + _statistic(group, "total_inactive_file")), 0)


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _statistic(group: Path, name: str) -> int:
    """Returns a line of memory.stat; what the system keeps of files, and can drop, counts as used."""
    for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
