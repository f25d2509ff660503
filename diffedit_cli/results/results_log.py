"""`results.jsonl`: what became of each picture of a run, written as it ends and read when the run is started again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from diffedit_cli.errors import OutputError
from diffedit_cli.storage import hashing, paths

NAME = "results.jsonl"
FINISHED = ("done", "skipped")
STATUSES = (*FINISHED, "failed", "withheld")  # of a line about a picture
BEGUN = "begun"  # status of a line about files that are written next, and that nothing else would tell to be ours
BEGUN_PART = re.compile(r"\.results(-\d+-of-\d+)?\.jsonl\.begun")
BEGINS = [f'{{"status": "{one}", "error": '.encode() for one in STATUSES] + [b'{"status": "begun", "digests": {']
PART = re.compile(r"results(-\d+-of-\d+)?\.jsonl")
LATER = """INSERT INTO done VALUES (?, ?, ?, ?) ON CONFLICT (output) DO UPDATE
    SET identity = excluded.identity, digest = excluded.digest, ended = excluded.ended
    WHERE excluded.ended >= ended"""
DIGESTS = "SELECT digest FROM done WHERE output = ? UNION SELECT digest FROM begun WHERE output = ?"


class ResultsLog:
    """What a folder's `results.jsonl`, and that of each part, says: of each output the last line that it was done with.

    Any number of pictures fits in little memory, several processes may write to one folder, and any thread may ask. A
    line that a killed process left torn is passed over. Raises OutputError for a file that cannot be read or written.
    """

    def __init__(self, folder: Path, name: str = NAME, url: str | None = None, *, writes: bool = True) -> None:
        """Lines are written to the file of this name; with `url` they name outputs below it in place of the folder.

        Without `writes` it is only read, and what is written is lost.
        """
        self.folder, self.path, self._url = folder, folder / name, url
        self.begun = folder / f".{name}.begun" if writes else None  # where announcements stand until all is recorded
        self.announced: Callable[[], None] = lambda: None  # called after each announcement
        self._known = sqlite3.connect("", check_same_thread=False)  # a nameless file that ends with it
        self._lock = Lock()
        self._read: dict[tuple[Path, int], tuple[int, str]] = {}  # of each file: bytes, and when the last line ended
        self._known.execute(
            "CREATE TABLE done (output TEXT PRIMARY KEY, identity TEXT, digest TEXT, ended TEXT) WITHOUT ROWID"
        )
        self._known.execute("CREATE TABLE begun (output TEXT, digest TEXT, PRIMARY KEY (output, digest)) WITHOUT ROWID")
        for path in (self.path, self.begun):
            if path is not None:
                _check(path)
        try:
            self._learn()
            self._file = os.open(self.path if writes else os.devnull, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> ResultsLog:
        return self

    def __exit__(self, *_: object) -> None:
        with self.alone(), contextlib.suppress(OSError):
            if self.begun and self._all_recorded():
                self.begun.unlink()
        os.close(self._file)
        with self._lock:
            self._known.close()

    def identity_of(self, output: Path) -> str | None:
        """Of the last run that wrote this output; None if none did."""
        with self._lock:
            row = self._known.execute("SELECT identity FROM done WHERE output = ?", (self._key(output),)).fetchone()
        return None if row is None else str(row[0])

    def digests_of(self, path: Path) -> list[str]:
        """Sha256 (hex) of an output or a mask as runs wrote it last, or were about to, also those that work now."""
        key = self._key(path)
        with self._lock, contextlib.suppress(OSError):
            self._learn()
        with self._lock:
            rows = self._known.execute(DIGESTS, (key, key)).fetchall()
        return [str(digest) for (digest,) in rows if digest]

    def announce(self, digests: Mapping[str, str]) -> None:
        """Says that files of these digests come next, by path. Raises OutputError."""
        if self.begun is None:
            return
        _check(self.begun)
        told = {self._told(path): digest for path, digest in digests.items()}
        try:
            file = os.open(self.begun, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _append(file, json.dumps({"status": BEGUN, "digests": told}))
            finally:
                os.close(file)
        except OSError as error:
            raise self._failed(error) from error
        self.announced()

    def _all_recorded(self) -> bool:
        """Whether each file that was announced is what a line of results tells."""
        with self._lock:
            self._learn()
            left = self._known.execute(
                "SELECT 1 FROM begun LEFT JOIN done USING (output) WHERE begun.digest IS NOT done.digest LIMIT 1"
            )
            return left.fetchone() is None

    def write(self, line: str) -> None:
        """Appends a line in one go. Raises OutputError."""
        try:
            _append(self._file, line)
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

    def _learn(self) -> None:
        """Reads what the files say beyond what was read of them before. Raises OSError."""
        for path in (*parts(self.folder), *begun_parts(self.folder)):
            with contextlib.suppress(FileNotFoundError), paths.open_to_read(path) as file:  # all may be recorded by now
                this = path, os.fstat(file.fileno()).st_ino  # one of the same name may follow it
                read, ended = self._read.get(this, (0, ""))
                file.seek(read)
                for line in paths.lines(file):
                    if (said := parse(line)) is not None:
                        ended = max(ended, paths.as_text(field(said, "ended", str)))  # whatever the clock did
                        self._learn_from(said, ended)
                    if line.endswith(b"\n"):  # else it is being written, or torn
                        self._read[this] = file.tell(), ended

    def _learn_from(self, said: dict[str, Any], ended: str) -> None:
        digests, identity = output_digests(said), paths.as_text(field(said, "identity", str))
        here = {output: self._key(self._local(output)) for output in digests}
        if _tells_begun(said):
            begun = [(here[output], digest) for output, digest in digests.items()]
            self._known.executemany("INSERT OR IGNORE INTO begun VALUES (?, ?)", begun)
        elif said.get("status") == "done" and identity:
            outputs = [one for one in field(said, "outputs", list) if isinstance(one, str)]
            here |= {output: self._key(self._local(output)) for output in outputs}
            done = [(key, identity, digests.get(output), ended) for output, key in here.items()]
            self._known.executemany(LATER, done)

    def _told(self, path: str) -> str:
        inside = self._url and Path(path).is_relative_to(self.folder)
        return f"{self._url}/{Path(path).relative_to(self.folder).as_posix()}" if inside else path

    def _local(self, output: str) -> Path:
        """Where an output is now."""
        if self._url and output.startswith(f"{self._url}/"):
            return self.folder / output[len(f"{self._url}/") :]
        return place_now(self.folder, output)

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
            return hashing.of_content(path) in found
        except OSError:
            return False

    def _in(self, folder: Path) -> dict[str, set[str]]:
        if folder not in self._told:
            told: dict[str, set[str]] = {}
            with contextlib.suppress(OSError):
                for said in (said for path in parts(folder) for said in lines(path)):
                    for output, digest in output_digests(said).items():
                        told.setdefault(output.rpartition("/")[2], set()).add(digest)
            self._told[folder] = told
        return self._told[folder]


def _check(path: Path) -> None:
    """Raises OutputError for what has the name of a results file and is none: lines are only added to our own."""
    remedy = "choose another folder with --out"
    try:
        if paths.is_link(path) or (paths.is_there(path) and not paths.is_file(path)):
            raise OutputError(
                f"{path} is not a file of diffedit's, but a link, a folder, a device or a pipe; {remedy}."
            )
        told = paths.is_there(path) and path.stat().st_size
        if told and not (_is_torn(path) or any(is_result(one) or _tells_begun(one) for one in lines(path))):
            raise OutputError(f"{path} exists and was not made by diffedit; move it away, or {remedy}.")
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}; {remedy}.") from error


def _append(file: int, line: str) -> None:
    """Writes a line in one go; one that anybody left torn, as on a full disk, ends before it. Raises OSError."""
    size = os.fstat(file).st_size
    torn = size and os.pread(file, 1, size - 1) != b"\n"
    data = b"\n" * torn + line.encode() + b"\n"
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_torn(path: Path) -> bool:
    """Whether all there is is the begin of a line of ours, whose writer was ended in it."""
    with paths.open_to_read(path) as file:
        line = file.readline(max(map(len, BEGINS)))
    return any(begin.startswith(line) or line.startswith(begin) for begin in BEGINS) and not line.endswith(b"\n")


def part_name(number: int, count: int) -> str:
    """The file of a part that cannot share one with the others."""
    return NAME if count == 1 else f"results-{number}-of-{count}.jsonl"


def is_part(name: str) -> bool:
    return PART.fullmatch(name) is not None


def parts(folder: Path) -> list[Path]:
    """The files of a folder that tell of results."""
    return sorted(path for path in folder.glob("results*.jsonl") if is_part(path.name))


def begun_parts(folder: Path) -> list[Path]:
    """The files of a folder that tell of files which no result tells of yet."""
    return sorted(path for path in folder.glob(".results*.jsonl.begun") if BEGUN_PART.fullmatch(path.name))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a `results.jsonl`; what is torn or none is passed over. Raises OSError."""
    return (said for line in texts(path) if (said := parse(line)) is not None)


def texts(path: Path) -> Iterator[bytes]:
    """The lines of a file that are not empty, cut where they are too long. Raises OSError."""
    with paths.open_to_read(path) as file:
        yield from (line for line in paths.lines(file) if line.strip())


def parse(line: bytes) -> dict[str, Any] | None:
    """The object of a line, if it is one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def is_result(said: dict[str, Any]) -> bool:
    """Whether it is what we say of a picture: other programs have files of this name, and lines with a status, too."""
    return said.get("status") in STATUSES and isinstance(said.get("input"), str)


def _tells_begun(said: dict[str, Any]) -> bool:
    return said.get("status") == BEGUN and isinstance(said.get("digests"), dict)


def place_now(folder: Path, recorded: str, holds: Callable[[Path], bool] = os.path.lexists) -> Path:
    """Where an output is now: in its folder, also if that was named otherwise or has moved, else as recorded.

    `holds` says which files there are.
    """
    path, inside = Path(recorded), os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    if os.path.abspath(path).startswith(inside) and holds(path):  # noqa: PTH100
        return path
    steps = [part for part in path.parts if part not in (path.anchor, "..")]
    return next(filter(holds, (folder.joinpath(*steps[start:]) for start in range(len(steps)))), path)


T = TypeVar("T", str, list[Any], dict[str, Any])


def field(said: dict[str, Any], name: str, kind: type[T]) -> T:
    """What a line, or a part of it, says, if it is of this kind; else nothing: it may say anything."""
    value = said.get(name)
    return value if isinstance(value, kind) else kind()


def output_digests(said: dict[str, Any]) -> dict[str, str]:
    """Those of the files that a line tells of, by path."""
    return {path: paths.as_text(one) for path, one in field(said, "digests", dict).items() if isinstance(one, str)}
