"""Decisions of a review: two job files in the folder OUT/review, which `diffedit run` takes like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from diffedit_cli.errors import OutputError
from diffedit_cli.storage import files, paths
from diffedit_cli.storage.ownership import Ownership

Decision = Literal["open", "accepted", "refused"]
FOLDER = "review"
NAMES: tuple[Decision, Decision] = ("accepted", "refused")
ANOTHER = "choose another folder with --out"
Key = tuple[str, str]
"""The input and the output of a picture, as its row names them."""


class ReviewDecisions:
    """The rows of accepted and of refused pictures: accepted.jsonl and refused.jsonl.

    Each row has the picture as `input`, its result's name below --out as `output`, and its own options, such as the
    corrected `mask`. Rows of pictures that are not reviewed now stay as they are.
    """

    def __init__(self, out: Path, owner: Ownership) -> None:
        """Reads the decisions of an earlier review. Raises OutputError for files of these names that are not ours."""
        self.folder = out / FOLDER
        self._rows: dict[str, dict[Key, dict[str, Any]]] = {name: {} for name in NAMES}
        self._written: dict[str, bytes | None] = {}
        for name in NAMES:
            path = self.path(name)
            owner.check_input(path, ANOTHER)
            self._written[name] = _content(path)
            for line in (self._written[name] or b"").splitlines():
                row = _row(line)
                if row is None:
                    raise OutputError(f"{path} exists and was not made by a review; move it away, or {ANOTHER}.")
                self._rows[name][row["input"], row["output"]] = row

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def decision(self, key: Key) -> Decision:
        return next((name for name in NAMES if key in self._rows[name]), "open")

    def row(self, key: Key) -> Mapping[str, Any] | None:
        """Returns the row of an accepted or refused picture, None for an open one."""
        return next((rows[key] for rows in self._rows.values() if key in rows), None)

    def decide(self, rows: Mapping[Key, Mapping[str, Any]], decision: Decision) -> None:
        """Notes a decision about pictures, given their rows, and writes the changed files whole. Raises OutputError."""
        before = {name: dict(kept) for name, kept in self._rows.items()}
        for key, row in rows.items():
            for kept in self._rows.values():
                kept.pop(key, None)
            if decision != "open":
                self._rows[decision][key] = dict(row)
        try:
            for name in NAMES:
                if self._rows[name] != before[name]:
                    self._save(name)
        except OutputError:
            self._rows = before
            raise

    def _save(self, name: str) -> None:
        path = self.path(name)
        if _content(path) != self._written[name]:
            raise OutputError(f"{path} was changed by another program; move it away, or {ANOTHER}.")
        data = b"".join(json.dumps(row).encode() + b"\n" for row in self._rows[name].values())
        files.make_folder(self.folder, "--out")
        files.publish(path, data)
        self._written[name] = data


def _content(path: Path) -> bytes | None:
    """Returns the content of a file, None if there is none. Raises OutputError for what is not a readable file."""
    try:
        if paths.is_link(path):
            raise OutputError(f"{path} is a link, which diffedit did not make; move it away, or {ANOTHER}.")
        return paths.read(path) if paths.is_there(path) else None
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}; {ANOTHER}.") from error


def _row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line, None for a line that is not one of a review."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    named = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("input", "output"))
    return row if named else None
