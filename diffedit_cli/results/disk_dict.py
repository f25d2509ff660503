"""A mapping of JSON values in a nameless temporary file, so that any number of entries fits in little memory."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import ItemsView, Iterator, MutableMapping
from typing import Any


class DiskDict(MutableMapping[str, Any]):
    """Keys are strings, values whatever JSON can say. Iterates in the order of insertion, as a dict does.

    Not for several threads. Iterate over one DiskDict while writing to another, not to the same one.
    """

    def __init__(self) -> None:
        # SQLite removes the file when the connection is closed, by whichever thread collects the garbage
        self._database = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._database.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
        self._database.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, key TEXT UNIQUE, value TEXT)")

    def __getitem__(self, key: str) -> Any:
        row = self._database.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def __setitem__(self, key: str, value: Any) -> None:
        self._database.execute(
            "INSERT INTO entries (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(value)),
        )

    def __delitem__(self, key: str) -> None:
        if not self._database.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._database.execute("SELECT key FROM entries ORDER BY number"):
            yield key  # a generator, which keeps the mapping and its file for as long as it runs

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    def items(self) -> ItemsView[str, Any]:
        """One statement for all entries, in place of one for each."""
        return _Items(self)


class _Items(ItemsView[str, Any]):
    _mapping: DiskDict

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        rows = self._mapping._database.execute("SELECT key, value FROM entries ORDER BY number")
        for key, value in rows:
            yield key, json.loads(value)
