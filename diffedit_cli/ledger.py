"""`results.jsonl`: what became of each picture of a run, written as it ends and read when the run is started again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from diffedit_cli import paths
from diffedit_cli.errors import OutputError

NAME = "results.jsonl"
PART = re.compile(r"results(-\d+-of-\d+)?\.jsonl")
LATER = """INSERT INTO done VALUES (?, ?, ?) ON CONFLICT (output) DO UPDATE
    SET identity = excluded.identity, ended = excluded.ended WHERE excluded.ended >= ended"""


class Ledger:
    """What a folder's `results.jsonl`, and that of each part, says: of each output the last line that it was done with.

    Any number of pictures fits in little memory, and several processes may write to one folder. A line that a killed
    process left torn is passed over. Raises OutputError for a file that cannot be read or written.
    """

    def __init__(self, folder: Path, name: str = NAME, url: str | None = None) -> None:
        """Lines are written to the file of this name; with `url` they name outputs below it in place of the folder."""
        self.folder, self.path, self._url = folder, folder / name, url
        self._known = sqlite3.connect("")  # a nameless file that ends with it
        self._known.execute("CREATE TABLE done (output TEXT PRIMARY KEY, identity TEXT, ended TEXT) WITHOUT ROWID")
        self._known.execute("CREATE TABLE claimed (output TEXT PRIMARY KEY, input TEXT) WITHOUT ROWID")
        try:
            self._known.executemany(LATER, self._done())
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
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
        found = self._known.execute("SELECT identity FROM done WHERE output = ?", (self._key(output),)).fetchone()
        return None if found is None else str(found[0])

    def claim(self, outputs: Iterable[Path], claimant: str) -> tuple[Path, str] | None:
        """Marks outputs as this picture's; gives the first that is another's already, and whose."""
        for output in outputs:
            key = self._key(output)
            if self._known.execute("INSERT OR IGNORE INTO claimed VALUES (?, ?)", (key, _text(claimant))).rowcount == 0:
                other = self._known.execute("SELECT input FROM claimed WHERE output = ?", (key,)).fetchone()
                return output, str(other[0])
        return None

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

    def _done(self) -> Iterator[tuple[str, str, str]]:
        for path in parts(self.folder):
            ended = ""
            for said in lines(path):
                ended = max(
                    ended, _text(_known(said, "ended", str))
                )  # a later line is later, though the clock went back
                identity = _text(_known(said, "identity", str))
                if said.get("status") == "done" and identity:
                    for output in _known(said, "outputs", list):
                        if isinstance(output, str):
                            yield self._key(self._local(output)), identity, ended

    def _local(self, output: str) -> Path:
        below = self._url and output.startswith(f"{self._url}/")
        return self.folder / output[len(f"{self._url}/") :] if below else Path(output)

    def _end_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def _key(self, output: Path) -> str:
        """The same from wherever the run is started."""
        return _text(os.path.relpath(output, self.folder))

    def _failed(self, error: OSError) -> OutputError:
        path = error.filename or self.path
        return OutputError(f"{path} cannot be written: {error.strerror}; choose another folder with --out.")


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
    with paths.opened(path) as file:
        for line in file:
            if (said := parsed(line)) is not None:
                yield said


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line, if it is one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


T = TypeVar("T", str, list[Any])


def _known(said: dict[str, Any], name: str, kind: type[T]) -> T:
    """What a line says, if it is of this kind; else nothing."""
    value = said.get(name)
    return value if isinstance(value, kind) else kind()


def _text(said: str | Path) -> str:
    """Names of any bytes, and whatever else a line says, as text that a database takes."""
    return str(said).encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
