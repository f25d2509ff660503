"""Rules for the files that a command may write: no input, no file twice, and no foreign file without --force."""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
import sys
import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.storage import files, hashing, paths, remote, seals
from diffedit_cli.storage.files import STANDARD_STREAM

LARGEST = 2**31  # bytes; a file of this size or more was not written by diffedit
INPUT = "is also an input; inputs are never replaced"


@dataclass(frozen=True)
class Target:
    """A file to write, and the option that sets its path; `remedy` is the advice for a path that no option sets."""

    path: Path
    option: str = "-o"
    remedy: str = ""


class Book(Protocol):
    """Log of the digests of files that cannot carry a seal."""

    def announce(self, digests: Mapping[str, str]) -> None:
        """Records the digests, by path, of files that are written next. Raises OutputError."""

    def digests_of(self, path: Path) -> Collection[str]:
        """Returns all digests announced for a path."""


class Ownership:
    """Inputs and outputs of one command. Any number of paths needs little memory, and any thread may use it."""

    def __init__(self, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
        self._force, self._lock = force, Lock()
        self.book: Book | None = None
        self._known = sqlite3.connect("", check_same_thread=False)  # an unnamed temporary file
        weakref.finalize(self, self._known.close)
        self._known.execute("CREATE TABLE inputs (file TEXT PRIMARY KEY) WITHOUT ROWID")
        self._known.execute("CREATE TABLE claimed (path TEXT PRIMARY KEY, claimant TEXT) WITHOUT ROWID")
        self._known.execute("CREATE TABLE written (path TEXT PRIMARY KEY, digest TEXT) WITHOUT ROWID")
        self.reads(inputs)

    def reads(self, inputs: Iterable[Path]) -> None:
        """Registers input files: neither the file nor a link to it is then replaced, under any name."""
        for path in inputs:
            if path != STANDARD_STREAM:
                with self._lock:
                    self._known.executemany("INSERT OR IGNORE INTO inputs VALUES (?)", [(one,) for one in _same(path)])

    def reads_url(self, url: str) -> None:
        """Registers the URL of an input."""
        if (one := remote.identity(url)) is not None:
            with self._lock:
                self._known.execute("INSERT OR IGNORE INTO inputs VALUES (?)", (paths.as_text(one),))

    def claim(self, target: Target, claimant: str, remedy: str, *, shared: bool = False) -> None:
        """Claims a target for `claimant`.

        Raises UsageError if it is claimed already, except by the same claimant with `shared`, and OutputError if it is
        an input or no file can have its name.
        """
        path = target.path
        if path == STANDARD_STREAM:
            return
        another = target.remedy or f"choose another with {target.option}"
        if wrong := paths.flaw(path):
            raise OutputError(f"The output {str(path)!r} is not a valid file name: {wrong}; {another}.")
        self.check_input(path, another)
        key, claimant = _key(path), paths.as_text(claimant)
        with self._lock:
            if self._known.execute("INSERT OR IGNORE INTO claimed VALUES (?, ?)", (key, claimant)).rowcount:
                return
            (other,) = self._known.execute("SELECT claimant FROM claimed WHERE path = ?", (key,)).fetchone()
        if other == claimant and not shared:
            remedy = "name it once, or give each result a name of its own"
            raise UsageError(f"{other} is named twice, and would write {path} both times; {remedy}.")
        if other != claimant:
            raise UsageError(f"{other} and {claimant} would both write {path}; {remedy}.")

    def check(self, target: Target) -> None:
        """Raises OutputError if the target may not be written at the moment, UsageError if it is a terminal."""
        path, another = target.path, target.remedy or f"choose another with {target.option}"
        if path == STANDARD_STREAM:
            if sys.stdout.isatty():
                raise UsageError(
                    f"A picture cannot be shown on a terminal; send it to a file with {target.option} or >."
                )
            return
        if not _is_there(path, another):
            return
        self.check_input(path, another)
        if not self._force and (reason := _foreign(target, self.book)):
            raise OutputError(f"{path} {reason}; {another}, or add --force.")

    def check_input(self, path: Path, remedy: str) -> None:
        """Raises OutputError if the path is an input of the command."""
        if self._is_read(_same(path)):
            raise OutputError(f"The output {path} {INPUT}: {remedy}.")

    def check_url(self, url: str, remedy: str) -> None:
        """Raises OutputError if the URL is an input of the command."""
        if self._is_read({paths.as_text(remote.identity(url) or "")}):
            raise OutputError(f"The output {url} {INPUT}: {remedy}.")

    def _is_read(self, names: Iterable[str]) -> bool:
        asked = "SELECT 1 FROM inputs WHERE file = ?"
        with self._lock:
            return any(self._known.execute(asked, (one,)).fetchone() for one in names)

    def publish(self, written: Mapping[Target, bytes]) -> dict[str, str]:
        """Checks all targets, then writes each file whole and sealed. Returns the SHA-256 (hex) digests by path.

        A file that appeared or changed after the first check is detected when it would be replaced. Raises OutputError.
        """
        for target in written:
            self.check(target)
        whole = {target: seals.seal(data) for target, data in written.items()}
        bare = {
            str(target.path): hashing.of_bytes(data) for target, data in whole.items() if seals.is_whole(data) is None
        }
        if self.book and bare:
            self.book.announce(bare)
        return {str(target.path): self._put(target, data) for target, data in whole.items()}

    def _put(self, target: Target, data: bytes) -> str:
        digest, key = hashing.of_bytes(data), _key(target.path)
        if target.path == STANDARD_STREAM:
            files.publish(target.path, data)
            return digest
        with self._lock:
            earlier = self._known.execute("SELECT digest FROM written WHERE path = ?", (key,)).fetchone()
        if earlier and earlier != (digest,):
            raise OutputError(
                f"{target.path} is what this command wrote for another picture; choose another with {target.option}."
            )
        files.publish(target.path, data, functools.partial(self._move, target=target, digest=digest))
        with self._lock:
            self._known.execute("INSERT OR REPLACE INTO written VALUES (?, ?)", (key, digest))
        return digest

    def _move(self, whole: Path, path: Path, *, target: Target, digest: str) -> None:
        """Gives a file its name: directly if the name is free, else after checking that the file may be replaced."""
        try:
            os.link(whole, path)  # unlike a rename, a link never replaces a file
            return
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not os.path.lexists(path):
                whole.rename(path)
                return
        if _holds(path, digest):  # another process may have written the same content
            os.utime(path)
            return
        self.check(target)
        whole.replace(path)


def _is_there(path: Path, another: str) -> bool:
    """Whether a file or a link of this name exists. Raises OutputError if no file can be written there."""
    if wrong := paths.flaw(path):
        raise OutputError(f"The output {str(path)!r} is not a valid file name: {wrong}; {another}.")
    if paths.is_folder(path):
        raise OutputError(f"The output {path} is a folder; name a file.")
    folder = path.parent
    if not paths.is_folder(folder):
        raise OutputError(f"The folder {folder} for the output does not exist; create it or {another}.")
    there = True
    try:
        path.lstat()
    except FileNotFoundError:
        there = False
    except OSError as error:  # the name is too long, or the folder may not be entered
        raise OutputError(f"The output {path} cannot be written: {error.strerror}; {another}.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} cannot be written to; {another}.")
    if there and paths.is_there(path) and not paths.is_file(path):
        raise OutputError(f"The output {path} is a device or a pipe, not a file; name a file.")
    return there


def _foreign(target: Target, book: Book | None) -> str | None:
    """Returns why the existing file was not written by diffedit; None if it was, or if there is no file."""
    try:
        status = target.path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return "is a link, which diffedit did not make"
        data = target.path.read_bytes() if status.st_size < LARGEST else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if whole := seals.is_whole(data):
        return None
    told = book.digests_of(target.path) if book else ()
    if hashing.of_bytes(data) in told:
        return None
    if whole is None and not told:
        return "exists, and nothing shows that diffedit made it"
    return "was changed since diffedit made it"


def _holds(path: Path, digest: str) -> bool:
    """Whether the path is a regular file, not a link, whose content has this digest."""
    try:
        status = path.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < LARGEST
        return small and hashing.of_content(path) == digest
    except OSError:
        return False


def _same(path: Path) -> set[str]:
    """Returns device and inode, which identify a file under any name; for a link its own and those of its target."""
    found = set()
    for look in (os.stat, os.lstat):
        try:
            status = look(path)
        except (OSError, ValueError):  # there is no such file
            continue
        found.add(f"{status.st_dev} {status.st_ino}")
    return found


def _key(path: Path) -> str:
    """Returns the path as text, the same from any working folder and through any link to a parent folder."""
    return paths.as_text(files.resolve(path.parent) / path.name)
