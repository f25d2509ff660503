"""A picture of a run and what is said of it alone, and the job files that say so: JSONL, CSV and TOML."""

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

MARK = "utf-8-sig"  # UTF-8, with or without the mark that Windows puts first


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture of a run, and what its job file says of it alone."""

    input: Path
    place: Path  # below its source: what is mirrored into the output folder
    given: Mapping[str, Any] = field(default_factory=dict)  # options, by their long names without dashes
    where: str = ""  # in which line, for messages
    problem: DiffEditError | None = None  # why it can only fail
    url: str = ""  # where the picture has to be fetched from

    @property
    def name(self) -> str:
        return self.url or str(self.input)

    @property
    def reads(self) -> list[Path]:
        """The files of this machine that are read for it, as far as its row names them."""
        named = [Path(value) for name, value in self.given.items() if name != "output" and isinstance(value, str)]
        return named if self.url else [self.input, *named]


def row_of_name(name: str, **more: Any) -> Row:
    """A row of a path or a URL; an empty name fails, as of a variable that is not set."""
    if not name:
        return Row(input=Path(name), place=Path("nothing"), problem=UsageError("A picture's name is empty."), **more)
    try:
        if remote.is_url(name := remote.local(name)):
            place = Path(remote.name(name))
            return Row(input=place, place=place, url=name, **more)
    except UsageError as error:
        return Row(input=Path(name), place=Path(name), url=name, problem=error, **more)
    return Row(input=Path(name), place=_mirrored(Path(name)), **more)


def unusable(where: str, problem: str) -> Row:
    return Row(input=Path(where), place=Path(where), where=where, problem=UsageError(problem))


def _mirrored(path: Path) -> Path:
    """The folders of a relative path are made again in the output folder, so that a list has no two of one name."""
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path


def _row(said: Any, where: str) -> Iterator[Row]:
    """The row of a table; none of an empty one. What is wrong with it fails this row alone."""
    if not isinstance(said, Mapping):
        yield unusable(where, f"{where} is not a table of options.")
        return
    given = {_option(name): value for name, value in said.items() if _option(name) and not _is_empty(value)}
    name = given.pop("input", None)
    if isinstance(name, str):
        yield row_of_name(name, given=given, where=where)
    elif given or name is not None:
        yield unusable(where, f"{where} names no picture as input.")


def _option(column: object) -> str:
    """The option that a column is; empty for one without a name, as of a spreadsheet's numbers of rows."""
    return str(column).strip().removeprefix("--").replace("_", "-")


def _is_empty(value: Any) -> bool:
    """Whether a cell says nothing: NaN is what pandas makes of an empty one."""
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
                f"The job file {path} has no column input; its first line names the columns, with commas or "
                "semicolons between."
            )
        for number, cells, wrong in records:
            where = f"{path} line {number}"
            if wrong:
                yield unusable(where, f"{where} {wrong}.")
            elif any(cell.strip() for cell in cells[len(columns) :]):
                yield unusable(where, f"{where} has more cells than columns.")
            elif twice := _contradiction(columns, cells):
                yield unusable(where, f"{where} says {twice} twice, and not the same; leave one of the columns out.")
            else:
                yield from _row(dict(zip(columns, cells, strict=False)), where)


def _contradiction(columns: list[str], cells: list[str]) -> str | None:
    """The option that two columns of one name have different cells for, if there is one."""
    said: dict[str, str] = {}
    for name, cell in zip(map(_option, columns), cells, strict=False):
        if name and said.setdefault(name, cell) != cell:
            return name
    return None


class _Lines(Iterator[str]):
    """The lines of a file, of which those behind a broken one can be had again."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file, self._again, self._record = file, deque[str](), list[str]()
        self.number = 0  # of the last one

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._record.append(line)
        self.number += 1
        return line

    def delimiter(self) -> str:
        """What stands between the columns: Excel writes semicolons where numbers have commas. Asked first."""
        while (line := next(self._file, None)) is not None and not line.strip():
            self.number += 1
        if line is None:
            return ","
        self._again.append(line)
        return ";" if ";" in line and "," not in line else ","

    def begin(self) -> int:
        """A record begins; the number of its first line."""
        self._record = []
        return self.number + 1

    @property
    def is_cut(self) -> bool:
        """Whether a line of the record is too long, so that its end is missing."""
        return any(len(line) > paths.LONGEST for line in self._record)

    def give_up(self) -> None:
        """Of the record only its first line is lost."""
        self._again.extendleft(reversed(self._record[1:]))
        self.number -= len(self._record[1:])
        self._record = self._record[:1]


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Of each record the number of its first line, its cells, and what is wrong with it, if anything is."""
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
            cells, wrong = [], f"fits no CSV table: {error}; save the file again as UTF-8"
        except UnicodeEncodeError:
            cells, wrong = [], "fits no CSV table: it holds bytes that are not text; save the file again as UTF-8"
        if lines.is_cut:
            lines.give_up()
            cells, wrong = [], _too_long()
        yield number, cells, wrong


def _toml(path: Path) -> Iterator[Row]:
    """`[[job]]` tables; what stands before them counts for all."""
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
        raise UsageError(f"The job file {path} holds no [[job]]; write one for each picture.")
    for number, job in enumerate(jobs, start=1):
        yield from _row({**said, **job} if isinstance(job, Mapping) else job, f"{path} job {number}")


READERS = {".jsonl": _json_lines, ".csv": _csv, ".toml": _toml}
