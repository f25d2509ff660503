"""Reads the comments of PBM, PGM and PPM files, and notes what follows the picture."""

from __future__ import annotations

import re

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = re.compile(rb"P([1-6]|0CMYK|yP|yRGBA|yCMYK)\s")
ANOTHER = re.compile(rb"P[1-7]\s")
CHANNELS = {b"5": 1, b"6": 3, b"0CMYK": 4, b"yP": 1, b"yRGBA": 4, b"yCMYK": 4}
BITS, PLAIN = b"4", (b"1", b"2", b"3")
PART = re.compile(rb"(\s+)|#([^\r\n]*)|([^\s#]+)")
BETWEEN_NUMBERS = re.compile(rb"#([^\r\n]*)|[^\s\d]")


def read(data: bytes) -> RawMetadata:
    stored, found = RawMetadata(), SIGNATURE.match(data)
    kind = found[1] if found else b""
    numbers, at = list[int](), len(kind) + 1
    while len(numbers) < (2 if kind in (b"1", BITS) else 3):
        part = PART.match(data, at)
        if part is None or (part[3] and not (part[3].isdigit() and len(part[3]) < 11)):
            return stored  # not a picture
        if part[2]:
            stored.comments.append(part[2].strip())
        numbers += [int(part[3])] if part[3] else []
        at = part.end()
    width, height, *most = numbers
    if kind in PLAIN:
        _read_plain(stored, data, at)
        return stored
    row = (width + 7) // 8 if kind == BITS else width * CHANNELS[kind] * (2 if most[0] > 255 else 1)
    rest = data[at + 1 + row * height :]
    if ANOTHER.match(rest):
        stored.several = True
    else:
        stored.note_rest(rest)
    return stored


def _read_plain(stored: RawMetadata, data: bytes, at: int) -> None:
    """Reads a plain (ASCII) picture: stores the comments between its numbers, and notes any other text after it."""
    for part in BETWEEN_NUMBERS.finditer(data, at):
        if part[1] is None:
            stored.note_rest(data[part.start() :])
            return
        stored.comments.append(part[1].strip())
