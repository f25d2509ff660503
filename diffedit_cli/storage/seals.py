"""The seal of a file: a digest, in its own record, of all its other bytes, by which it is still what was written."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

KEY = "seal"
DIGITS = 64
PREFIX = b"diffedit-sha256-"
BLANK = PREFIX + b"0" * DIGITS
SEAL = re.compile(PREFIX + rb"([0-9a-f]{64})")
TRIED = 8  # a file may hold others, which its maker copied from somewhere
PNG = b"\x89PNG\r\n\x1a\n"


def text_with_room(record: Mapping[str, Any]) -> str:
    """A record as JSON with room for the seal, in front: formats that cut long texts in pieces leave it whole."""
    return f'{{"{KEY}": "{BLANK.decode()}", {json.dumps(record, sort_keys=True)[1:]}'


def seal(data: bytes) -> bytes:
    """The same file with its seal, if it has room for one."""
    at = data.find(BLANK)
    return data if at < 0 else b"".join(_pieces(data, at, _digest(data, at)))


def is_whole(data: bytes) -> bool | None:
    """Whether a file is as it was sealed; None where it bears no seal."""
    found = list(itertools.islice(SEAL.finditer(data), TRIED))
    return any(_digest(data, seal.start()) == seal[1] for seal in found) if found else None


def _digest(data: bytes, at: int) -> bytes:
    total = hashlib.sha256()
    for piece in _pieces(data, at, b"0" * DIGITS):
        total.update(piece)
    return total.hexdigest().encode()


def _pieces(data: bytes, at: int, digits: bytes) -> list[memoryview | bytes]:
    """The file with these digits at the seal, uncopied but for them and the sum that a PNG has of each chunk."""
    start, view = at + len(PREFIX), memoryview(data)
    pieces: list[memoryview | bytes] = [view[:start], digits]
    if (chunk := _chunk(data, at)) is None:
        return [*pieces, view[start + DIGITS :]]
    kind, end = chunk
    between = view[start + DIGITS : end]
    crc = zlib.crc32(between, zlib.crc32(digits, zlib.crc32(view[kind:start])))
    return [*pieces, between, crc.to_bytes(4, "big"), view[end + 4 :]]


def _chunk(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the kind and the sum of the chunk begin that holds a place of a PNG; None in other files."""
    start = len(PNG)
    while data.startswith(PNG) and start < at:
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if at < end <= len(data) - 4:
            return start + 4, end
        start = end + 4
    return None
