"""Where the pictures of a run come from: folders, patterns, names, lists on standard input, and job files."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffedit_cli import files, formats, remote
from diffedit_cli.errors import DiffEditError, InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTENSIONS = (*formats.EXTENSIONS, ".gif")
CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture of a run, and what its job file says of it alone."""

    input: Path
    place: Path  # below its source: what is mirrored into the output folder
    given: Mapping[str, Any] = field(default_factory=dict)  # options, by their long names without dashes
    where: str = ""  # in which line, for messages
    problem: str | None = None  # why it can only fail
    url: str = ""  # where the picture has to be fetched from

    @property
    def name(self) -> str:
        return self.url or str(self.input)

    @property
    def reads(self) -> list[Path]:
        """The files of this machine that are read for it, as far as its row names them."""
        named = [Path(value) for name, value in self.given.items() if name != "output" and isinstance(value, str)]
        return named if self.url else [self.input, *named]


def listed(sources: Iterable[str], *, recursive: bool, skip: Callable[[Path], bool]) -> Iterator[Row]:
    """The pictures of folders, patterns and names, in order; `skip` leaves out some that a folder or pattern holds.

    Raises InputError for a folder or a pattern without any, UsageError for a URL of no known file system.
    """
    for said in sources:
        source = Path(said)
        if remote.is_url(said):
            yield from _some(_at_url(said, recursive), f"{said} holds no pictures", recursive)
        elif source.is_dir():
            yield from _some(_in_folder(source, recursive, skip), f"The folder {source} holds no pictures", recursive)
        elif _is_pattern(source):
            yield from _some(_matching(source, skip), f"No picture is called {source}")
        else:
            yield Row(input=source, place=Path(source.name))


def streamed(sources: Iterable[Path], *, null: bool) -> Iterator[Row]:
    """The rows of job files, and of the list of paths on standard input for `-`, as they are read.

    Paths of a list end with a line break, or with a zero byte if `null`. Raises InputError for a file that cannot be
    read, UsageError for one that is no table.
    """
    for source in sources:
        if source == files.STANDARD_STREAM:
            for path in _paths(sys.stdin.buffer, b"\0" if null else b"\n"):
                yield _named(path)
        else:
            files.check_readable(source, "job file")
            yield from READERS[source.suffix.lower()](source)


def foretold(sources: Iterable[Path]) -> Iterator[Row]:
    """What `streamed` will read of job files, before any of it is done; nothing of standard input, or of a bad file."""
    for source in sources:
        if source != files.STANDARD_STREAM:
            with contextlib.suppress(DiffEditError):
                yield from streamed([source], null=False)


def is_streamed(source: Path) -> bool:
    return source == files.STANDARD_STREAM or (source.suffix.lower() in READERS and not source.is_dir())


def _at_url(url: str, recursive: bool) -> Iterator[Row]:
    for one, place in remote.listed(url, recursive=recursive):
        if one == url or Path(one).suffix.lower() in EXTENSIONS:
            yield Row(input=Path(place), place=Path(place), url=one)


def _is_pattern(source: Path) -> bool:
    return any(sign in str(source) for sign in remote.PATTERN) and not source.exists()


def _some(rows: Iterable[Row], complaint: str, recursive: bool = True) -> Iterator[Row]:
    row = None
    for row in rows:
        yield row
    if row is None:
        below = "" if recursive else "; --recursive looks into its folders, too"
        raise InputError(f"{complaint} ({', '.join(EXTENSIONS)}){below}.")


def _in_folder(folder: Path, recursive: bool, skip: Callable[[Path], bool]) -> Iterator[Row]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in EXTENSIONS and not skip(path):
                yield Row(input=path, place=path.relative_to(folder))


def _matching(pattern: Path, skip: Callable[[Path], bool]) -> Iterator[Row]:
    """`**` is any number of folders; what lies below the first sign of a pattern is mirrored."""
    fixed = list(pattern.parts)
    while any(sign in part for part in fixed for sign in remote.PATTERN):
        fixed.pop()
    root = Path(*fixed)
    rest = str(pattern.relative_to(root)) if fixed else str(pattern)
    for path in sorted(root.glob(rest)):
        if path.is_file() and path.suffix.lower() in EXTENSIONS and not skip(path):
            yield Row(input=path, place=path.relative_to(root))


def _paths(stream: Any, end: bytes) -> Iterator[str]:
    """Any bytes but the end may stand in a name."""
    left = b""
    while data := stream.read1(CHUNK):
        *whole, left = (left + data).split(end)
        yield from (os.fsdecode(name) for name in whole if name)
    if left:
        yield os.fsdecode(left)


def _named(name: str, **more: Any) -> Row:
    """A row of a path or a URL."""
    if remote.is_url(name := remote.local(name)):
        place = Path(remote.name(name))
        return Row(input=place, place=place, url=name, **more)
    return Row(input=Path(name), place=_mirrored(Path(name)), **more)


def _row(said: Any, where: str) -> Row:
    """A row of a table. What is wrong with it fails this row alone."""
    if not isinstance(said, Mapping):
        return _unusable(where, f"{where} is no table of options.")
    given = {
        str(name).removeprefix("--").replace("_", "-"): value for name, value in said.items() if value not in (None, "")
    }
    name = given.pop("input", None)
    if not isinstance(name, str):
        return _unusable(where, f"{where} names no picture as input.")
    return _named(name, given=given, where=where)


def _unusable(where: str, problem: str) -> Row:
    return Row(input=Path(where), place=Path(where), where=where, problem=problem)


def _mirrored(path: Path) -> Path:
    """The folders of a relative path are made again in the output folder, so that a list has no two of one name."""
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path} line {number}"
            if not line.strip():
                continue
            try:
                yield _row(json.loads(line), where)
            except (ValueError, RecursionError) as error:
                yield _unusable(where, f"{where} is no JSON object ({error}).")


def _csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns: Sequence[str] = reader.fieldnames or ()
            if "input" not in columns:
                raise UsageError(
                    f"The job file {path} has no column input; its first line names the columns, with commas between."
                )
            for said in reader:
                extra = said.pop(None, None)
                where = f"{path} line {reader.line_num}"
                row = _row(said, where)
                yield replace(row, problem=f"{where} has more cells than columns.") if extra else row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"The job file {path} is no CSV table: {error}; save it again as UTF-8.") from error


def _toml(path: Path) -> Iterator[Row]:
    """`[[job]]` tables; what stands before them counts for all."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The job file {path} is no TOML: {error}; mend it.") from error
    jobs = said.pop("job", None)
    if not isinstance(jobs, list):
        raise UsageError(f"The job file {path} holds no [[job]]; write one for each picture.")
    for number, job in enumerate(jobs, start=1):
        yield _row({**said, **job} if isinstance(job, Mapping) else job, f"{path} job {number}")


READERS = {".jsonl": _json_lines, ".csv": _csv, ".toml": _toml}
