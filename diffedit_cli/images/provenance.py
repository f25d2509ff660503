"""Reads diffedit's record of how a file was made, from the file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffedit_cli.images import codecs
from diffedit_cli.storage import paths
from diffedit_cli.storage.artifacts import UNREADABLE, read_packed_record


def has_record(path: Path) -> bool:
    """Returns whether the file holds a record of diffedit."""
    return paths.is_file(path) and read_record(path) is not None


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns the record in a mask, latents file or edited picture, or None."""
    try:
        return read_packed_record(path)
    except UNREADABLE:
        return codecs.read_record(path)
