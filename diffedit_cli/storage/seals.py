"""The seal of a file: a digest of all its other bytes, stored in its record, that shows whether it was changed."""

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
TRIED = 8  # seals tried per file: a file may also hold seals that were copied from other files
PNG = b"\x89PNG\r\n\x1a\n"


def text_with_room(record: Mapping[str, Any]) -> str:
    """Returns a record as JSON with room for the seal in front, where formats that split long texts keep it whole."""
    return f'{{"{KEY}": "{BLANK.decode()}", {json.dumps(record, sort_keys=True)[1:]}'


def seal(data: bytes) -> bytes:
    """Returns a file's bytes with the seal filled in, or unchanged if they have no room for one."""
    at = data.find(BLANK)
    return data if at < 0 else b"".join(_pieces(data, at, _digest(data, at)))


def is_whole(data: bytes) -> bool | None:
    """Whether a file is unchanged since it was sealed; None if it has no seal."""
    found = list(itertools.islice(SEAL.finditer(data), TRIED))
    return any(_digest(data, seal.start()) == seal[1] for seal in found) if found else None


def _digest(data: bytes, at: int) -> bytes:
    total = hashlib.sha256()
    for piece in _pieces(data, at, b"0" * DIGITS):
        total.update(piece)
    return total.hexdigest().encode()


def _pieces(data: bytes, at: int, digits: bytes) -> list[memoryview | bytes]:
    """Returns the file with these digits in the seal, in pieces; only the digits and a PNG chunk's CRC are copies."""
    start, view = at + len(PREFIX), memoryview(data)
    pieces: list[memoryview | bytes] = [view[:start], digits]
    if (chunk := _chunk(data, at)) is None:
        return [*pieces, view[start + DIGITS :]]
    kind, end = chunk
    between = view[start + DIGITS : end]
    crc = zlib.crc32(between, zlib.crc32(digits, zlib.crc32(view[kind:start])))
    return [*pieces, between, crc.to_bytes(4, "big"), view[end + 4 :]]


def _chunk(data: bytes, at: int) -> tuple[int, int] | None:
    """Returns the offsets of the type and the CRC of the PNG chunk that contains `at`; None for other files."""
    start = len(PNG)
    while data.startswith(PNG) and start < at:
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if at < end <= len(data) - 4:
            return start + 4, end
        start = end + 4
    return None
