"""Rows of a run (a picture and its own options), and the readers of job files: JSONL, CSV and TOML."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.errors import DiffEditError, UsageError
from diffedit_cli.storage import paths, remote

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MARK = "utf-8-sig"  # UTF-8, with or without the byte order mark of Windows programs


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of a run, with the options that its job file sets for this picture alone."""

    input: Path
    place: Path  # path relative to its source, mirrored into the output folder
    given: Mapping[str, Any] = field(default_factory=dict)  # options, by their long names without dashes in front
    where: str = ""  # the line of the job file, for messages
    problem: DiffEditError | None = None  # the error with which the row fails
    url: str = ""  # source of a remote picture

    @property
    def name(self) -> str:
        return self.url or str(self.input)

    @property
    def reads(self) -> list[Path]:
        """Local paths that the row may read: its picture and every text option except the output."""
        named = [Path(value) for name, value in self.given.items() if name != "output" and isinstance(value, str)]
        return named if self.url else [self.input, *named]


def row_of_name(name: str, **more: Any) -> Row:
    """Returns the row of a path or a URL. An empty name, for instance of an unset variable, gives a row that fails."""
    if not name:
        return Row(
            input=Path(name),
            place=Path("nothing"),
            problem=UsageError("A picture's name is empty; give a path or a URL."),
            **more,
        )
    try:
        if remote.is_url(name := remote.local(name)):
            place = Path(remote.name(name))
            return Row(input=place, place=place, url=name, **more)
    except UsageError as error:
        return Row(input=Path(name), place=Path(name), url=name, problem=error, **more)
    return Row(input=Path(name), place=_mirrored(Path(name)), **more)


def unusable(where: str, problem: str) -> Row:
    """Returns a row that fails with a UsageError."""
    return Row(input=Path(where), place=Path(where), where=where, problem=UsageError(problem))


def _mirrored(path: Path) -> Path:
    """Returns the place of a path: a relative path keeps its folders, so that equal file names in a list stay apart."""
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path


def _row(said: Any, where: str) -> Iterator[Row]:
    """Yields the row of a table of options, or nothing for an empty table. An error in it fails this row alone."""
    if not isinstance(said, Mapping):
        yield unusable(where, f"{where} is not a table of options; write one for each picture.")
        return
    given = {_option(name): value for name, value in said.items() if _option(name) and not _is_empty(value)}
    name = given.pop("input", None)
    if isinstance(name, str):
        yield row_of_name(name, given=given, where=where)
    elif given or name is not None:
        yield unusable(where, f"{where} has no input; give the path or URL of a picture as input.")


def _option(column: object) -> str:
    """Returns the option of a column; empty for a column without a name, such as a spreadsheet's row numbers."""
    return str(column).strip().removeprefix("--").replace("_", "-")


def _is_empty(value: Any) -> bool:
    """Whether a cell is empty: None, blank text, or NaN, which pandas writes for an empty cell."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _json_lines(path: Path) -> Iterator[Row]:
    with paths.open_to_read(path) as file:
        for number, line in enumerate(paths.lines(file), start=1):
            where = f"{path} line {number}"
            if len(line) > paths.LONGEST:
                yield unusable(where, f"{where} {_too_long()}.")
                continue
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                yield from _row(json.loads(text), where)
            except (ValueError, RecursionError) as error:
                yield unusable(where, f"{where} is not a JSON object ({error}).")


def _too_long() -> str:
    return f"has more than {paths.LONGEST} characters; make it shorter"


def _csv(path: Path) -> Iterator[Row]:
    with io.TextIOWrapper(paths.open_to_read(path), encoding=MARK, errors="surrogateescape", newline="") as file:
        lines = _Lines(paths.lines(file))
        records = _records(lines, lines.delimiter())
        _, columns, wrong = next((one for one in records if one[1] or one[2]), (0, [], ""))
        if wrong:
            raise UsageError(f"The job file {path} has a first line that {wrong}.")
        if "input" not in map(_option, columns):
            raise UsageError(
                f"The job file {path} has no column input; its first line must name the columns, separated by commas "
                "or semicolons."
            )
        for number, cells, wrong in records:
            where = f"{path} line {number}"
            if wrong:
                yield unusable(where, f"{where} {wrong}.")
            elif any(cell.strip() for cell in cells[len(columns) :]):
                yield unusable(where, f"{where} has more cells than columns.")
            elif twice := _contradiction(columns, cells):
                yield unusable(where, f"{where} says {twice} twice, with different values; remove one of the columns.")
            else:
                yield from _row(dict(zip(columns, cells, strict=False)), where)


def _contradiction(columns: list[str], cells: list[str]) -> str | None:
    """Returns the option for which two columns have different cells, or None."""
    said: dict[str, str] = {}
    for name, cell in zip(map(_option, columns), cells, strict=False):
        if name and said.setdefault(name, cell) != cell:
            return name
    return None


class _Lines(Iterator[str]):
    """Lines of a file, in which those behind the first line of a broken record can be read again."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file, self._again, self._record = file, deque[str](), list[str]()
        self.number = 0  # of the line read last

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._record.append(line)
        self.number += 1
        return line

    def delimiter(self) -> str:
        """Returns the column delimiter, from the first line that is not blank; call it before reading any line.

        Excel writes semicolons in languages with decimal commas.
        """
        while (line := next(self._file, None)) is not None and not line.strip():
            self.number += 1
        if line is None:
            return ","
        self._again.append(line)
        return ";" if ";" in line and "," not in line else ","

    def begin(self) -> int:
        """Begins a record and returns the number of its first line."""
        self._record = []
        return self.number + 1

    @property
    def is_cut(self) -> bool:
        """Whether a line of the record was too long, so that its end is missing."""
        return any(len(line) > paths.LONGEST for line in self._record)

    def give_up(self) -> None:
        """Gives the record up: all its lines except the first are read again."""
        self._again.extendleft(reversed(self._record[1:]))
        self.number -= len(self._record[1:])
        self._record = self._record[:1]


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Yields for each record the number of its first line, its cells, and its error or an empty text."""
    while True:
        number = lines.begin()
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
            "".join(cells).encode()
            wrong = ""
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_up()
            cells, wrong = [], f"is not valid CSV: {error}; save the file again as UTF-8"
        except UnicodeEncodeError:
            cells, wrong = [], "is not valid CSV: it holds bytes that are not text; save the file again as UTF-8"
        if lines.is_cut:
            lines.give_up()
            cells, wrong = [], _too_long()
        yield number, cells, wrong


def _toml(path: Path) -> Iterator[Row]:
    """Yields the rows of the `[[job]]` tables; the keys before them are defaults for all rows."""
    if path.stat().st_size > 10 * paths.LONGEST:
        raise UsageError(
            f"The job file {path} has more than {10 * paths.LONGEST} bytes, too many for TOML; use JSONL or CSV."
        )
    try:
        said = tomllib.loads(paths.read(path).decode(MARK))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The job file {path} is not valid TOML: {error}; fix it.") from error
    jobs = said.pop("job", None)
    if not isinstance(jobs, list):
        raise UsageError(f"The job file {path} holds no [[job]] table; write one for each picture.")
    for number, job in enumerate(jobs, start=1):
        yield from _row({**said, **job} if isinstance(job, Mapping) else job, f"{path} job {number}")


READERS = {".jsonl": _json_lines, ".csv": _csv, ".toml": _toml}
