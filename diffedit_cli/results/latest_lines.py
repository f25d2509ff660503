"""The newest line of results.jsonl for each edit, read from all parts of a run."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffedit_cli.errors import InputError
from diffedit_cli.results import results_log
from diffedit_cli.results.disk_dict import DiskDict
from diffedit_cli.results.results_log import FINISHED, field
from diffedit_cli.storage import paths

Line = dict[str, Any]
REMEDY = "name a folder that diffedit run wrote into with --out"


class LatestLines:
    """The last line of each output, and of each edit without an output, in the order of the lines.

    A success replaces the earlier failure of the same edit, and a failure its earlier success. A line with status
    skipped holds fewer values than the earlier line of the finished edit: the values that it lacks are kept.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the results files of `folder`; lines of several files are merged by the time they were written.

        Raises InputError if there is no such file, it cannot be read, or holds no results.
        """
        if not paths.is_folder(folder):
            raise InputError(f"There is no folder {folder}; {REMEDY}.")
        self.unreadable = 0  # number of lines that are not results, such as a torn last line
        self._lines, self._keys = DiskDict(), DiskDict()  # line by key; key of the output by edit
        parts = results_log.parts(folder) or [folder / results_log.NAME]
        try:
            for line in heapq.merge(*map(self._results, parts), key=lambda line: field(line, "ended", str)):
                self._add(line)
        except FileNotFoundError:
            raise InputError(f"The folder {folder} holds no {results_log.NAME}; {REMEDY}.") from None
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read: {error.strerror}; check that it is a readable file."
            ) from None
        if self.unreadable and not self._lines:
            raise InputError(f"{folder / results_log.NAME} holds no results of diffedit run; {REMEDY}.")

    def __iter__(self) -> Iterator[Line]:
        return (line for _, line in self._lines.items())

    def _results(self, path: Path) -> Iterator[Line]:
        for text in results_log.texts(path):
            line = results_log.parse(text)
            if line is not None and results_log.is_result(line):
                yield line
            else:
                self.unreadable += 1

    def _add(self, line: Line) -> None:
        edit = [field(line, name, str) for name in ("input", "from", "to")]
        seeded = json.dumps([*edit, repr(line.get("seed"))])
        output, skipped = field(line, "output", str), line["status"] == "skipped"
        edit_key = json.dumps(edit)
        key = json.dumps([output]) if output else self._keys.get(seeded, edit_key) if skipped else edit_key
        before = self._lines.pop(key, {})
        if output:
            self._lines.pop(edit_key, None)
            self._keys[seeded] = key
        elif key == edit_key and seeded in self._keys:
            self._lines.pop(self._keys.pop(seeded), None)
        if skipped and before.get("status") in FINISHED:
            line = before | {name: value for name, value in line.items() if value not in (None, [], {})}
        self._lines[key] = line
