"""Finds the pictures of a run in folders, patterns, names, lists on standard input and job files."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.images import codecs
from diffedit_cli.jobs.rows import READERS, Row, row_of_name, unusable
from diffedit_cli.storage import files, paths, remote
from diffedit_cli.storage.remote import is_hidden

EXTENSIONS = (*codecs.EXTENSIONS, *codecs.READ_ONLY)
CHUNK = 1 << 16
LONGEST = 1 << 16  # bytes of a path in a list; no system allows longer paths
FOLDERS = "**"  # in a pattern: any number of folders
NAMED = 3  # names shown per kind of skipped file: more would hide the message


@dataclass
class SkippedFiles:
    """Counts of the files in folders and patterns that are not edited, by reason."""

    others: Counter[str] = field(default_factory=Counter)  # files that are not pictures, by extension
    made: int = 0
    hidden: int = 0
    folders: int = 0
    links: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Returns `no pictures by their names: 3 (.mov, .txt), hidden: 1`, or an empty text if none was skipped."""
        said = {
            "no pictures by their names": (self.others.total(), f" ({_few(self.others)})"),
            "made by diffedit": (self.made, ""),
            "hidden": (self.hidden, ""),
            "folders": (self.folders, " (--recursive looks into them)"),
            "linked folders": (len(self.links), f" ({_few(self.links)}: name them to look into them)"),
        }
        return ", ".join(f"{what}: {count}{more}" for what, (count, more) in said.items() if count)


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED]) + (", ..." if len(ordered) > NAMED else "")


@dataclass(frozen=True)
class _Picker:
    """Decides which files of a folder or a pattern are edited, and counts the skipped files."""

    skip: Callable[[Path], bool]
    passed: SkippedFiles

    def takes(self, path: Path, *, url: str = "") -> bool:
        """Whether a file is edited. With `url` only the name is checked, because `path` is not a local file."""
        if path.suffix.lower() not in EXTENSIONS:
            self.passed.others[path.suffix.lower() or "no ending"] += 1
            return False
        made = not url and self.skip(path)
        self.passed.made += made
        return not made

    def shown(self, names: Iterable[str]) -> list[str]:
        """Returns the names that are not hidden, sorted."""
        shown, hidden = [], 0
        for name in names:
            if is_hidden(name):
                hidden += 1
            else:
                shown.append(name)
        self.passed.hidden += hidden
        return sorted(shown)


def list_rows(
    sources: Iterable[str], *, recursive: bool, skip: Callable[[Path], bool], passed: SkippedFiles | None = None
) -> Iterator[Row]:
    """Yields a row for each picture of folders, patterns and names, in order.

    `skip` leaves out some files of folders and patterns; `passed` counts all skipped files. A source without pictures,
    a folder that may not be read and a URL that cannot be reached yield rows that fail.
    """
    picker = _Picker(skip, passed or SkippedFiles())
    for said in sources:
        try:
            yield from _of_source(said, recursive, picker)
        except DiffEditError as error:
            yield Row(input=Path(said), place=Path(said), url=said if remote.is_url(said) else "", problem=error)


def _of_source(said: str, recursive: bool, picker: _Picker) -> Iterator[Row]:
    """Yields the rows of one source.

    Raises InputError for a folder or a pattern without pictures, UsageError for an empty name and for a URL of an
    unknown file system.
    """
    source = Path(said)
    if not said:  # else it would mean the working folder
        raise UsageError("A picture's name is empty; name a picture, a folder, a pattern or a list.")
    if remote.is_url(said):
        yield from _some(_at_url(said, recursive, picker), f"{said} holds no pictures", recursive)
    elif paths.is_folder(source):
        yield from _some(_in_folder(source, recursive, picker), f"The folder {source} holds no pictures", recursive)
    elif _fixed(source)[1]:
        yield from _some(_matching(source, picker), f"No picture is called {source}")
    else:
        yield Row(input=source, place=Path(source.name))


def stream_rows(sources: Iterable[Path], *, null: bool) -> Iterator[Row]:
    """Yields the rows of job files, and of the list of paths on standard input for `-`, while reading them.

    Paths of a list end with a line break, or with a zero byte if `null`. Raises InputError for a file that cannot be
    read, UsageError for a file that is not a valid table.
    """
    for source in sources:
        what = "list of paths" if source == files.STANDARD_STREAM else "job file"
        try:
            if source == files.STANDARD_STREAM:
                yield from _in_list(sys.stdin.buffer, null)
            else:
                files.check_readable(source, what)
                yield from READERS[source.suffix.lower()](source)
        except OSError as error:
            raise files.unread(source, what, error) from error


def peek_rows(sources: Iterable[Path]) -> Iterator[Row]:
    """Yields the rows that `stream_rows` will read from job files, before the run begins.

    Skips standard input. A file that cannot be read ends there without an error.
    """
    for source in sources:
        if source != files.STANDARD_STREAM:
            with contextlib.suppress(DiffEditError):
                yield from stream_rows([source], null=False)


def is_stream(source: Path) -> bool:
    """Whether `stream_rows` reads the source: standard input or a job file."""
    return source == files.STANDARD_STREAM or (source.suffix.lower() in READERS and not paths.is_folder(source))


def _at_url(url: str, recursive: bool, picker: _Picker) -> Iterator[Row]:
    for one, place in remote.list_folder(url, recursive=recursive):
        if one == url or picker.takes(Path(place), url=one):
            yield Row(input=Path(place), place=Path(place), url=one)


def _some(rows: Iterable[Row], complaint: str, recursive: bool = True) -> Iterator[Row]:
    """Yields the rows. Raises InputError with `complaint` if there are none."""
    row = None
    for row in rows:
        yield row
    if row is None:
        below = "" if recursive else "; --recursive looks into its folders, too"
        raise InputError(f"{complaint} ({', '.join(EXTENSIONS)}){below}.")


def _in_folder(folder: Path, recursive: bool, picker: _Picker) -> Iterator[Row]:
    refused: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=refused.append):
        yield from _refused(refused)
        inner = picker.shown(folders)
        linked = [name for name in inner if paths.is_link(Path(place) / name)]
        if recursive:
            picker.passed.links += [str(Path(place) / name) for name in linked]
        else:
            picker.passed.folders += len(inner)
        folders[:] = [name for name in inner if name not in linked] if recursive else []
        for name in picker.shown(names):
            path = Path(place) / name
            if picker.takes(path):
                yield Row(input=path, place=path.relative_to(folder))
    yield from _refused(refused)


def _refused(errors: list[OSError]) -> Iterator[Row]:
    """Yields failing rows for folders that cannot be read, and empties the list."""
    while errors:
        error = errors.pop(0)
        folder = Path(os.fsdecode(error.filename))
        problem = InputError(f"The folder {folder} cannot be read: {error.strerror}; check its permissions.")
        yield Row(input=folder, place=folder, problem=problem)


def _fixed(source: Path) -> tuple[Path, list[str]]:
    """Returns the leading part of a source that is a literal path, and the parts of the pattern behind it.

    A part that exists is literal, even if it contains the characters of patterns.
    """
    root, parts = Path(), list(source.parts)
    while parts and (paths.is_there(root / parts[0]) or not any(sign in parts[0] for sign in remote.PATTERN)):
        root /= parts.pop(0)
    return root, parts


def _matching(pattern: Path, picker: _Picker) -> Iterator[Row]:
    """Yields the pictures that match a pattern; their place is the path below its literal part."""
    root, parts = _fixed(pattern)
    if parts[-1] == FOLDERS:
        parts.append("*")
    refused: list[OSError] = []
    for path in sorted(set(_expanded(root, parts, picker, refused))):
        if paths.is_file(path) and picker.takes(path):
            yield Row(input=path, place=path.relative_to(root))
    yield from _refused(refused)


def _expanded(folder: Path, parts: Sequence[str], picker: _Picker, refused: list[OSError]) -> Iterator[Path]:
    """Yields the paths that match a pattern below a folder. As in a shell, only a leading dot matches hidden names."""
    if not parts:
        yield folder
        return
    part, *rest = parts
    try:
        names = [path.name for path in folder.iterdir()]
    except PermissionError as error:
        refused.append(error)
        return
    except OSError:  # not a folder: a pattern may match files here
        return
    if part == FOLDERS:
        yield from _expanded(folder, rest, picker, refused)
        for name in picker.shown(name for name in names if paths.is_folder(folder / name)):
            if paths.is_link(folder / name):
                picker.passed.links.append(str(folder / name))
            else:
                yield from _expanded(folder / name, parts, picker, refused)
        return
    literal = not any(sign in part for sign in remote.PATTERN)
    found = [name for name in names if name == part or (not literal and fnmatch.fnmatchcase(name, part))]
    for name in found if part.startswith(".") else picker.shown(found):
        yield from _expanded(folder / name, rest, picker, refused)


def _in_list(stream: Any, null: bool) -> Iterator[Row]:
    """Yields the rows of a list of paths, which may contain any byte except the terminator.

    In a list of lines, the byte order mark of Windows editors is dropped, and so is a carriage return at the end of a
    line unless a file of that name exists.
    """
    for number, line in enumerate(_cut(stream, b"\0" if null else b"\n"), start=1):
        name = line.removeprefix(BOM_UTF8) if number == 1 and not null else line
        if not null and name.endswith(b"\r") and not paths.is_there(os.fsdecode(name)):
            name = name[:-1]
        if len(name) > LONGEST:
            yield unusable(f"line {number}", f"Line {number} of standard input is longer than any path.")
        elif name if null else name.strip():
            yield row_of_name(os.fsdecode(name))


def _cut(stream: Any, end: bytes) -> Iterator[bytes]:
    """Splits a stream at each terminator; of a piece longer than LONGEST only the beginning is kept. Raises OSError."""
    left = b""
    while data := stream.read1(CHUNK):
        *whole, left = (left + data).split(end)
        yield from whole
        left = left[: LONGEST + 1]
    if left:
        yield left
