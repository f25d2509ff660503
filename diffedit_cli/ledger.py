"""`results.jsonl`: what became of each picture of a run, written as it ends and read when the run is started again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from diffedit_cli import paths
from diffedit_cli.errors import OutputError

NAME = "results.jsonl"
BEGIN = b'{"status": "'  # of each of its lines
PART = re.compile(r"results(-\d+-of-\d+)?\.jsonl")
LATER = """INSERT INTO done VALUES (?, ?, ?, ?) ON CONFLICT (output) DO UPDATE
    SET identity = excluded.identity, digest = excluded.digest, ended = excluded.ended
    WHERE excluded.ended >= ended"""


class Ledger:
    """What a folder's `results.jsonl`, and that of each part, says: of each output the last line that it was done with.

    Any number of pictures fits in little memory, and several processes may write to one folder. A line that a killed
    process left torn is passed over. Raises OutputError for a file that cannot be read or written.
    """

    def __init__(self, folder: Path, name: str = NAME, url: str | None = None, *, writes: bool = True) -> None:
        """Lines are written to the file of this name; with `url` they name outputs below it in place of the folder.

        Without `writes` it is only read, and what is written is lost.
        """
        self.folder, self.path, self._url = folder, folder / name, url
        self._known = sqlite3.connect("")  # a nameless file that ends with it
        self._known.execute(
            "CREATE TABLE done (output TEXT PRIMARY KEY, identity TEXT, digest TEXT, ended TEXT) WITHOUT ROWID"
        )
        _check(self.path)
        try:
            self._known.executemany(LATER, self._done())
            self._file = os.open(self.path if writes else os.devnull, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._end_torn_line()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._known.close()

    def identity_of(self, output: Path) -> str | None:
        """Of the last run that wrote this output; None if none did."""
        return self._said("identity", output)

    def digest_of(self, path: Path) -> str | None:
        """Sha256 (hex) of an output or a mask as the last run wrote it, where that is told."""
        return self._said("digest", path)

    def _said(self, what: str, output: Path) -> str | None:
        found = self._known.execute(f"SELECT {what} FROM done WHERE output = ?", (self._key(output),)).fetchone()
        return None if found is None or found[0] is None else str(found[0])

    def write(self, line: str) -> None:
        """Appends a line in one go. Raises OutputError."""
        data = line.encode() + b"\n"
        try:
            if os.write(self._file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._failed(error) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits while another process is in here: what it reads of the file then, the last one to come reads whole.

        Where there can be no lock it does not wait.
        """
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _done(self) -> Iterator[tuple[str, str, str | None, str]]:
        for path in parts(self.folder):
            ended = ""
            for said in lines(path):
                ended = max(ended, paths.as_text(_known(said, "ended", str)))  # a later line is, whatever the clock did
                identity = paths.as_text(_known(said, "identity", str))
                if said.get("status") == "done" and identity:
                    digests = told_digests(said)
                    outputs = [one for one in _known(said, "outputs", list) if isinstance(one, str)]
                    for output in dict.fromkeys([*outputs, *digests]):
                        yield self._key(self._local(output)), identity, digests.get(output), ended

    def _local(self, output: str) -> Path:
        """Where an output is now: in this folder, also if that was named otherwise or has moved, else as recorded."""
        if self._url and output.startswith(f"{self._url}/"):
            return self.folder / output[len(f"{self._url}/") :]
        path, folder = Path(output), os.path.abspath(self.folder)  # noqa: PTH100
        if os.path.lexists(path) and os.path.abspath(path).startswith(folder + os.sep):  # noqa: PTH100
            return path
        inside = (self.folder.joinpath(*path.parts[start:]) for start in range(1, len(path.parts)))
        return next(filter(os.path.lexists, inside), path)

    def _end_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def _key(self, output: Path) -> str:
        """The same from wherever the run is started."""
        return paths.as_text(os.path.relpath(output, self.folder))

    def _failed(self, error: OSError) -> OutputError:
        path = error.filename or self.path
        return OutputError(f"{path} cannot be written: {error.strerror}; choose another folder with --out.")


class Results:
    """What the results files of folders tell of, wherever these have been moved since: pictures by name and digest."""

    def __init__(self) -> None:
        self._told: dict[Path, dict[str, set[str]]] = {}  # by folder

    def tell_of(self, path: Path) -> bool:
        """Whether a picture is, as it is now, what a run wrote into its folder or one around it."""
        folders = Path(os.path.abspath(path)).parents  # noqa: PTH100  # as it is named: links are not followed
        found = [digest for folder in folders for digest in self._in(folder).get(path.name, ())]
        if not found:
            return False
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() in found
        except OSError:
            return False

    def _in(self, folder: Path) -> dict[str, set[str]]:
        if folder not in self._told:
            told: dict[str, set[str]] = {}
            with contextlib.suppress(OSError):
                for said in (said for path in parts(folder) for said in lines(path)):
                    for output, digest in told_digests(said).items():
                        told.setdefault(output.rpartition("/")[2], set()).add(digest)
            self._told[folder] = told
        return self._told[folder]


def _check(path: Path) -> None:
    """Raises OutputError for what has the name of a results file and is none: lines are only added to our own."""
    remedy = "choose another folder with --out"
    try:
        if paths.is_link(path) or (paths.is_there(path) and not paths.is_file(path)):
            raise OutputError(f"{path} is no file of diffedit's, but a link, a folder, a device or a pipe; {remedy}.")
        told = paths.is_there(path) and path.stat().st_size
        if told and not (_begun(path) or any("status" in one for one in lines(path))):
            raise OutputError(f"{path} exists and was not made by diffedit; move it away, or {remedy}.")
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}; {remedy}.") from error


def _begun(path: Path) -> bool:
    """Whether all there is is the begin of a line of ours, whose writer was ended in it."""
    with paths.opened(path) as file:
        line = file.readline(len(BEGIN))
    return BEGIN.startswith(line) and not line.endswith(b"\n")


def part_name(number: int, count: int) -> str:
    """The file of a part that cannot share one with the others."""
    return NAME if count == 1 else f"results-{number}-of-{count}.jsonl"


def is_part(name: str) -> bool:
    return PART.fullmatch(name) is not None


def parts(folder: Path) -> list[Path]:
    """The files of a folder that tell of results."""
    return sorted(path for path in folder.glob("results*.jsonl") if is_part(path.name))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a `results.jsonl`; what is torn or none is passed over. Raises OSError."""
    return (said for line in texts(path) if (said := parsed(line)) is not None)


def texts(path: Path) -> Iterator[bytes]:
    """The lines of a file that are not empty, in parts where they are too long. Raises OSError."""
    with paths.opened(path) as file:
        yield from (line for line in paths.lines(file) if line.strip())


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line, if it is one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


T = TypeVar("T", str, list[Any], dict[str, Any])


def _known(said: dict[str, Any], name: str, kind: type[T]) -> T:
    """What a line says, if it is of this kind; else nothing."""
    value = said.get(name)
    return value if isinstance(value, kind) else kind()


def told_digests(said: dict[str, Any]) -> dict[str, str]:
    """Those of the files that a line tells of, by path."""
    return {path: paths.as_text(one) for path, one in _known(said, "digests", dict).items() if isinstance(one, str)}
