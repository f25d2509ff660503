"""The record of how a file of ours was made, which lies in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffedit_cli import __version__

KEY = "diffedit"
FORMAT = 1
PARTS, LISTS = ("mask", "latents", "edit"), ("lora", "embedding", "size")


def record(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a file of ours."""
    return {"tool": KEY, "version": __version__, "format": FORMAT, "kind": kind, **body}


def body(about: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what all of them say."""
    return {key: value for key, value in about.items() if key not in record("", {})}


def is_sound(record: Any) -> bool:
    """Whether it is built like a record of ours; a stranger's file may say anything of itself."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("kind", ""), str)
        and all(isinstance(record.get(part, {}), dict) for part in PARTS)
        and all(isinstance(record.get(name, []), list) for name in LISTS)
    )
