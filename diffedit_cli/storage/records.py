"""The record that diffedit stores in each file it writes: how the file was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffedit_cli import __version__

KEY = "diffedit"
FORMAT = 1
PARTS, LISTS = ("mask", "latents", "edit"), ("lora", "embedding", "size")


def record(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of a file: tool, version, format version, kind and the entries of `body`."""
    return {"tool": KEY, "version": __version__, "format": FORMAT, "kind": kind, **body}


def body(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record without the keys that every record has."""
    return {key: value for key, value in about.items() if key not in record("", {})}


def is_sound(record: Any) -> bool:
    """Whether a value has the structure of a record. The metadata of foreign files may hold any value."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("kind", ""), str)
        and all(isinstance(record.get(part, {}), dict) for part in PARTS)
        and all(isinstance(record.get(name, []), list) for name in LISTS)
    )
