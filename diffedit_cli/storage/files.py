"""Reads and writes whole files and folders: each appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from diffedit_cli.errors import InputError, OutputError
from diffedit_cli.storage import atomic, paths, streams

STANDARD_STREAM = Path("-")
MAX_PIXELS = 200_000_000  # of a picture, by default
CHUNK = 2**26  # bytes
REPLACED = ".diffedit-replaced"  # suffix of an old folder until the new one has its name


def read(path: Path, what: str, most: int | None = None) -> bytes:
    """Returns the content of a file, or of standard input for `-`, of at most `most` bytes.

    Raises InputError, also for a terminal; `what` is the kind of file for its message, such as "picture".
    """
    chunks, size = [], 0
    if path != STANDARD_STREAM:
        check_readable(path, what)
    elif sys.stdin.isatty():
        raise InputError(f"Standard input is a terminal; send a {what} to it: diffedit ... - < FILE.")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == STANDARD_STREAM else paths.open_to_read(path) as file:
            while chunk := file.read(CHUNK):  # memory grows with the data, not with the limit
                chunks.append(chunk)
                size += len(chunk)
                if most is not None and size > most:
                    name = "Standard input" if path == STANDARD_STREAM else path
                    raise InputError(
                        f"{name} is larger than {most / 1e9:.2f} GB, the limit of a {what}; make it smaller first."
                    )
    except OSError as error:
        raise unread(path, what, error) from error
    return b"".join(chunks)


def unread(path: Path, what: str, error: OSError) -> InputError:
    """Returns the InputError for a file, or for standard input (`-`), that cannot be read."""
    if path == STANDARD_STREAM:
        return InputError(f"Standard input cannot be read: {streams.reason(error)}; send a {what} to it.")
    return InputError(f"The {what} {path} cannot be read: {error.strerror}; check its permissions.")


def resolve(path: Path) -> Path:
    """Returns the absolute path with links resolved as far as they exist; an invalid name is returned unchanged."""
    try:
        return Path(os.path.realpath(path))  # unlike Path.resolve, accepts circular links
    except ValueError:
        return path


def check_readable(path: Path, what: str) -> None:
    """Raises InputError unless the file can be opened for reading; `what` is the kind of file for its message."""
    try:
        if not stat.S_ISDIR(mode := path.stat().st_mode) and not stat.S_ISREG(mode):  # opening a pipe may never return
            raise InputError(
                f"{path} is a pipe or a device, not a {what}; send it to standard input and name it -, or save it as "
                "a file."
            )
        path.open("rb").close()
    except FileNotFoundError:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # of whose two slashes Path keeps one
            url = str(path).replace(":/", "://", 1)
            raise InputError(f"{url} is a URL, and only diffedit run takes these; download the {what} first.") from None
        raise InputError(f"There is no {what} {path}; check the name.") from None
    except IsADirectoryError:
        many = ", or edit all of it with diffedit run" if what == "picture" else ""
        raise InputError(f"{path} is a folder, not a {what}; name a file in it{many}.") from None
    except OSError as error:
        raise unread(path, what, error) from None
    except ValueError as error:  # a zero byte
        raise InputError(f"The {what} {str(path)!r} is not a valid file name: {error}; check the name.") from None


def make_folder(path: Path, option: str) -> None:
    """Creates a folder and its parents. Raises OutputError, whose message names `option` to choose another folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        wrong = paths.flaw(path) if isinstance(error, ValueError) else error.strerror
        raise OutputError(f"The folder {path} cannot be made: {wrong}; choose another with {option}.") from error


def publish(path: Path, data: bytes, move: Callable[[Path, Path], object] = Path.replace) -> None:
    """Writes a temporary file beside `path`, then moves it there; `-` is standard output.

    Raises OutputError, and what `move` raises.
    """
    if path == STANDARD_STREAM:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if lost := streams.stdout_error():
                raise lost
        except OSError as error:
            raise OutputError(
                f"Standard output cannot be written: {streams.reason(error)}; name a file with -o."
            ) from error
        return
    try:
        with atomic.file(path, move) as descriptor:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; free some space, or choose another folder."
        ) from error


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `path` at the end of the block, or removed after an error.

    A folder that exists at `path` by then is kept, unless `replace`: then it is renamed with the suffix REPLACED and
    removed, or left under that name if the new folder cannot take its place. `check` is called before and may raise.
    Raises OutputError.
    """
    old = path.with_name(path.name + REPLACED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.folder(path) as temporary:
            fresh = temporary / "new"
            fresh.mkdir()
            yield fresh
            with atomic.exclusive_lock(path.parent):
                check()
                _take_place(fresh, path, old if replace else None)
    except OSError as error:
        kept = (
            f" The previous folder is now {old}."
            if replace and paths.is_there(old) and not paths.is_there(path)
            else ""
        )
        raise OutputError(
            f"The folder {path} cannot be written: {error.strerror}; free some space, or choose another.{kept}"
        ) from error


def _take_place(fresh: Path, path: Path, old: Path | None) -> None:
    """Renames `fresh` to `path`; an existing folder is replaced by way of the name `old`, or kept if `old` is None.

    The replaced folder is moved beside `fresh`, to be removed with the temporary folder around both; under the name
    `old` it is always complete. Raises OSError.
    """
    if old and paths.is_there(path):
        if paths.is_there(old):
            old.rename(fresh.with_name("older"))
        path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        if not paths.is_folder(path):  # else another process has published the same folder
            if old and paths.is_there(old):
                old.rename(path)
            raise
    if old and paths.is_there(old):
        old.rename(fresh.with_name("old"))


def amount(size: int) -> str:
    """Returns a number of bytes as text in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e8 else 1}f} MB"
