"""Path queries and reads that do not fail or block on invalid names, pipes and folders without access."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, Literal

from diffedit_cli.errors import OutputError, UsageError

NAME_MAX = 255  # bytes of a file name on POSIX systems
LONGEST = 10**7  # bytes or characters of a line, at most
NOWHERE = Path(os.devnull) / "diffedit"
"""A path that cannot exist: nothing can be read or written there."""


# These use os.path because Path's own methods raise for invalid names and in folders without access.
def is_file(path: Path | str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path | str) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def is_link(path: Path | str) -> bool:
    return os.path.islink(path)  # noqa: PTH114


def flaw(path: Path | str) -> str | None:
    """Returns the reason why no file can have this name, or None for a valid name."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError as error:
        return str(error)
    if b"\0" in name:
        return "it holds a zero byte"
    longest = max(map(len, name.split(b"/")))
    return (
        f"a name of {longest} bytes is longer than the {NAME_MAX} that file systems allow"
        if longest > NAME_MAX
        else None
    )


def as_text(path: Path | str) -> str:
    """Returns a path or other text as valid UTF-8 for a database, with the bytes that are not text escaped."""
    return str(path).encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


def open_to_read(path: Path) -> BinaryIO:
    """Opens a regular file for reading.

    Raises OSError, also for a folder, for a pipe or a device (a reader may wait for ever), and for an invalid name.
    """
    if wrong := flaw(path):
        raise OSError(errno.EINVAL, wrong, str(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))


def check_working_folder() -> None:
    """Raises UsageError if the working folder was removed: no relative path and no library is found from there."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise UsageError(
            f"The current working folder no longer exists ({error.strerror}); change to another folder."
        ) from None


def lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yields the lines of a file; a line longer than LONGEST is cut to LONGEST + 1, which tells the caller so."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and line[-1:] not in ("\n", b"\n"):  # discards the rest of a cut line
            line = file.readline(LONGEST + 1)


def read(path: Path) -> bytes:
    """Returns the content of a file. Raises OSError as `open_to_read` does."""
    with open_to_read(path) as file:
        return file.read()


def of_user(kind: Literal["cache", "config"]) -> Path:
    """Returns the user's cache or configuration folder for diffedit, or NOWHERE if there is no home folder."""
    import platformdirs

    try:
        found = platformdirs.user_cache_path if kind == "cache" else platformdirs.user_config_path
        return found("diffedit", appauthor=False)
    except RuntimeError:
        return NOWHERE


def shown_path(path: Path) -> str:
    """Returns a path as messages show it; a path below NOWHERE is described as lying in the missing home folder."""
    if not path.is_relative_to(NOWHERE):
        return str(path)
    home = "your home folder (there is none; set HOME)"
    return home if path == NOWHERE else f"{path.name} in {home}"


def need_home(path: Path, use: str, remedy: str = "set HOME") -> None:
    """Raises OutputError for a path below NOWHERE, which needs the missing home folder."""
    if path.is_relative_to(NOWHERE):
        raise OutputError(f"There is no home folder to {use}; {remedy}.")
