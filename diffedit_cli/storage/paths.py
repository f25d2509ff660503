"""What lies at a path, asked so that no odd name, no pipe and no folder of somebody else's ends a command."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, Literal

from diffedit_cli.errors import OutputError, UsageError

NAME_MAX = 255  # bytes, of POSIX systems
LONGEST = 10**7  # bytes or characters of a line
NOWHERE = Path(os.devnull) / "diffedit"
"""A folder that there cannot be: nothing is read there, and nothing can be kept."""


# Path's own methods raise for names that no file can have, and in folders that may not be entered.
def is_file(path: Path | str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path | str) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def is_link(path: Path | str) -> bool:
    return os.path.islink(path)  # noqa: PTH114


def flaw(path: Path | str) -> str | None:
    """Why no file can be called so, if none can."""
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
    """Names of any bytes, and whatever else is said, as text that a database takes."""
    return str(path).encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


def open_to_read(path: Path) -> BinaryIO:
    """A file to read. Raises OSError, also for a folder, for a pipe or a device, of which a reader may wait for ever,
    and for a name that no file can have."""
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
    """Raises UsageError where it has been removed: neither names nor libraries are found from there."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise UsageError(f"The folder that this is started in is gone ({error.strerror}); go to another one.") from None


def lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines of a file; of one with more than LONGEST bytes or characters the beginning, which has more, too."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and line[-1:] not in ("\n", b"\n"):  # the rest of it is no line
            line = file.readline(LONGEST + 1)


def read(path: Path) -> bytes:
    """The whole of a file. Raises OSError as `opened` does."""
    with open_to_read(path) as file:
        return file.read()


def of_user(kind: Literal["cache", "config"]) -> Path:
    """The user's own folder for diffedit; where there is no home to have it in, NOWHERE."""
    import platformdirs

    try:
        found = platformdirs.user_cache_path if kind == "cache" else platformdirs.user_config_path
        return found("diffedit", appauthor=False)
    except RuntimeError:
        return NOWHERE


def shown_path(path: Path) -> str:
    """A path as people are told it: of what would lie in a home folder, where there is none, that."""
    if not path.is_relative_to(NOWHERE):
        return str(path)
    home = "your home folder (there is none; set HOME)"
    return home if path == NOWHERE else f"{path.name} in {home}"


def need_home(path: Path, use: str, remedy: str = "set HOME") -> None:
    """Raises OutputError for what would lie in a home folder, where there is none."""
    if path.is_relative_to(NOWHERE):
        raise OutputError(f"There is no home folder to {use}; {remedy}.")
