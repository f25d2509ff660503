"""Reads and writes `results.jsonl`: a line per picture, appended as it ends and read when the run is restarted."""

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
STATUSES = (*FINISHED, "failed", "withheld")  # statuses of result lines
BEGUN = "begun"  # status of a line that announces files to be written, which nothing else shows to be ours
BEGUN_PART = re.compile(r"\.results(-\d+-of-\d+)?\.jsonl\.begun")
# How the lines that diffedit writes begin.
BEGINS = [f'{{"status": "{one}", "error": '.encode() for one in STATUSES] + [b'{"status": "begun", "digests": {']
PART = re.compile(r"results(-\d+-of-\d+)?\.jsonl")
LATER = """INSERT INTO done VALUES (?, ?, ?, ?) ON CONFLICT (output) DO UPDATE
    SET identity = excluded.identity, digest = excluded.digest, ended = excluded.ended
    WHERE excluded.ended >= ended"""
DIGESTS = "SELECT digest FROM done WHERE output = ? UNION SELECT digest FROM begun WHERE output = ?"


class ResultsLog:
    """The `results.jsonl` of a folder and of each shard: for each output, the last line with status done.

    Memory use is small for any number of pictures, several processes may write to one folder, and any thread may query.
    A line torn by a killed process is skipped. Raises OutputError for a file that cannot be read or written.
    """

    def __init__(self, folder: Path, name: str = NAME, url: str | None = None, *, writes: bool = True) -> None:
        """Opens the log to append to the file `name`; with `url`, lines name outputs below it in place of the folder.

        Without `writes` the log is only read, and lines written to it are discarded.
        """
        self.folder, self.path, self._url = folder, folder / name, url
        self.announcements = (
            folder / f".{name}.begun" if writes else None
        )  # announcements, until all files are recorded
        self.announced: Callable[[], None] = lambda: None  # called after each announcement
        self._known = sqlite3.connect("", check_same_thread=False)  # a temporary file, deleted on close
        self._lock = Lock()
        self._read: dict[tuple[Path, int], tuple[int, str]] = {}  # (file, inode) -> bytes read, latest `ended`
        self._known.execute(
            "CREATE TABLE done (output TEXT PRIMARY KEY, identity TEXT, digest TEXT, ended TEXT) WITHOUT ROWID"
        )
        self._known.execute("CREATE TABLE begun (output TEXT, digest TEXT, PRIMARY KEY (output, digest)) WITHOUT ROWID")
        for path in (self.path, self.announcements):
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
        with self.exclusively(), contextlib.suppress(OSError):
            if self.announcements and self._all_recorded():
                self.announcements.unlink()
        os.close(self._file)
        with self._lock:
            self._known.close()

    def identity_of(self, output: Path) -> str | None:
        """Returns the identity (`plan.identity`) of the edit that last wrote this output, or None if none did."""
        with self._lock:
            row = self._known.execute("SELECT identity FROM done WHERE output = ?", (self._key(output),)).fetchone()
        return None if row is None else str(row[0])

    def digests_of(self, path: Path) -> list[str]:
        """Returns the sha256 digests (hex) of a file as runs, also those in progress, last wrote or announced it."""
        key = self._key(path)
        with self._lock, contextlib.suppress(OSError):
            self._learn()
        with self._lock:
            rows = self._known.execute(DIGESTS, (key, key)).fetchall()
        return [str(digest) for (digest,) in rows if digest]

    def announce(self, digests: Mapping[str, str]) -> None:
        """Records the digests, by path, of files about to be written. Raises OutputError."""
        if self.announcements is None:
            return
        _check(self.announcements)
        told = {self._told(path): digest for path, digest in digests.items()}
        try:
            file = os.open(self.announcements, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _append(file, json.dumps({"status": BEGUN, "digests": told}))
            finally:
                os.close(file)
        except OSError as error:
            raise self._failed(error) from error
        self.announced()

    def _all_recorded(self) -> bool:
        """Returns whether a result line records each announced file with the announced digest."""
        with self._lock:
            self._learn()
            left = self._known.execute(
                "SELECT 1 FROM begun LEFT JOIN done USING (output) WHERE begun.digest IS NOT done.digest LIMIT 1"
            )
            return left.fetchone() is None

    def write(self, line: str) -> None:
        """Appends a line in a single write. Raises OutputError."""
        try:
            _append(self._file, line)
        except OSError as error:
            raise self._failed(error) from error

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Holds an exclusive lock on the file, so that the last process that enters reads all lines of the others.

        Does not wait on file systems without locks.
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
        """Reads the lines that were appended to the files since the last call. Raises OSError."""
        for path in (*parts(self.folder), *begun_parts(self.folder)):
            with contextlib.suppress(FileNotFoundError), paths.open_to_read(path) as file:  # gone once all is recorded
                this = path, os.fstat(file.fileno()).st_ino  # another file may get the name
                read, ended = self._read.get(this, (0, ""))
                file.seek(read)
                for line in paths.lines(file):
                    if (said := parse(line)) is not None:
                        ended = max(ended, paths.as_text(field(said, "ended", str)))  # also if the clock was set back
                        self._learn_from(said, ended)
                    if line.endswith(b"\n"):  # otherwise it is still being written, or torn
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
        """Returns where an output is now."""
        if self._url and output.startswith(f"{self._url}/"):
            return self.folder / output[len(f"{self._url}/") :]
        return current_path(self.folder, output)

    def _key(self, output: Path) -> str:
        """Returns the path relative to the folder, which does not depend on the working folder."""
        return paths.as_text(os.path.relpath(output, self.folder))

    def _failed(self, error: OSError) -> OutputError:
        path = error.filename or self.path
        return OutputError(f"{path} cannot be written: {error.strerror}; choose another folder with --out.")


class Results:
    """Recognises the results of runs by name and digest, from the results files of folders, also of moved ones."""

    def __init__(self) -> None:
        self._told: dict[Path, dict[str, set[str]]] = {}  # folder -> file name -> digests

    def is_recorded_result(self, path: Path) -> bool:
        """Returns whether the results of its folder, or of one above it, record a picture with its present content."""
        folders = Path(os.path.abspath(path)).parents  # noqa: PTH100  # does not follow links
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
    """Raises OutputError for a file with the name of a results file that is not ours, as lines are appended to it."""
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
    """Appends a line in a single write, after ending a torn line, such as a full disk leaves. Raises OSError."""
    size = os.fstat(file).st_size
    torn = size and os.pread(file, 1, size - 1) != b"\n"
    data = b"\n" * torn + line.encode() + b"\n"
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_torn(path: Path) -> bool:
    """Returns whether the file begins with an incomplete line of ours, whose writer was killed."""
    with paths.open_to_read(path) as file:
        line = file.readline(max(map(len, BEGINS)))
    return any(begin.startswith(line) or line.startswith(begin) for begin in BEGINS) and not line.endswith(b"\n")


def part_name(number: int, count: int) -> str:
    """Returns the name of the results file of a shard that cannot share one with the others, as at a URL."""
    return NAME if count == 1 else f"results-{number}-of-{count}.jsonl"


def is_part(name: str) -> bool:
    return PART.fullmatch(name) is not None


def parts(folder: Path) -> list[Path]:
    """Returns the results files of a folder, one per shard."""
    return sorted(path for path in folder.glob("results*.jsonl") if is_part(path.name))


def begun_parts(folder: Path) -> list[Path]:
    """Returns the files of a folder that hold announcements of files without a result line."""
    return sorted(path for path in folder.glob(".results*.jsonl.begun") if BEGUN_PART.fullmatch(path.name))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Returns the JSON objects of a `results.jsonl`; torn and invalid lines are skipped. Raises OSError."""
    return (said for line in texts(path) if (said := parse(line)) is not None)


def texts(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file that are not empty, cut off if they are too long (`paths.LONGEST`). Raises OSError."""
    with paths.open_to_read(path) as file:
        yield from (line for line in paths.lines(file) if line.strip())


def parse(line: bytes) -> dict[str, Any] | None:
    """Returns the JSON object of a line, or None if the line is not one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def is_result(said: dict[str, Any]) -> bool:
    """Returns whether an object is a result of diffedit: other programs, too, write such files with a `status`."""
    return said.get("status") in STATUSES and isinstance(said.get("input"), str)


def _tells_begun(said: dict[str, Any]) -> bool:
    return said.get("status") == BEGUN and isinstance(said.get("digests"), dict)


def current_path(folder: Path, recorded: str, holds: Callable[[Path], bool] = os.path.lexists) -> Path:
    """Returns where an output is now: in `folder`, even if that was renamed or moved, else as recorded.

    `holds` says which files exist.
    """
    path, inside = Path(recorded), os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    if os.path.abspath(path).startswith(inside) and holds(path):  # noqa: PTH100
        return path
    steps = [part for part in path.parts if part not in (path.anchor, "..")]
    return next(filter(holds, (folder.joinpath(*steps[start:]) for start in range(len(steps)))), path)


T = TypeVar("T", str, list[Any], dict[str, Any])


def field(said: dict[str, Any], name: str, kind: type[T]) -> T:
    """Returns a field of a line, or an empty value if it is not of this type: a line may hold anything."""
    value = said.get(name)
    return value if isinstance(value, kind) else kind()


def output_digests(said: dict[str, Any]) -> dict[str, str]:
    """Returns the digests of the files that a line records, by path."""
    return {path: paths.as_text(one) for path, one in field(said, "digests", dict).items() if isinstance(one, str)}
