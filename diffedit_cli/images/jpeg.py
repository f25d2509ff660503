"""Reads and writes the metadata segments of JPEG files.

Pillow is given the pixels alone, so that no metadata can make decoding fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = b"\xff\xd8\xff"
EXIF, PACKET, EXTENSION = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
TIFF_HEADERS = (b"II*\0", b"MM\0*")
PROFILE, PHOTOSHOP, SEVERAL = b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"MPF\0"
GAIN_MAPS = (b"hdrgm:", b"urn:iso:std:iso:ts:21496", b"HDRGainMap")
START_OF_SCAN, END, COMMENT, ADOBE = 0xDA, 0xD9, 0xFE, 0xEE
LONGEST = 65533  # bytes in a segment
# A marker among coded pixels that is neither a stuffed byte nor a restart marker.
MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
# Other thumbnails and encoder settings: they do not hold for edited pixels, and are dropped without a note.
PASSING = (b"JFXX\0", b"Ducky", b"JFIF")


def read(data: bytes) -> tuple[bytes, RawMetadata]:
    """Returns the file with only the segments that the pixels need, and the metadata in the others."""
    stored, kept, profile, blocks = RawMetadata(), [data[:2]], list[bytes](), list[list[bytes]]()
    at = 2
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            stored.dpi = _density(body)
            if body[7] == 0 and body[8:10] != body[10:12]:
                stored.note("its pixel aspect ratio")
            kept.append(data[start:end])  # also states how colours are coded
        elif marker == 0xE1 and body.startswith(EXIF):
            block = body[len(EXIF) :]
            if block.startswith(TIFF_HEADERS) or not blocks:
                blocks.append([])
            blocks[-1].append(block)  # a long block continues in the next segment
        elif marker == COMMENT or (0xE0 <= marker <= 0xEF and not (marker == ADOBE and body.startswith(b"Adobe"))):
            _sort(stored, marker, body, profile)
        else:
            kept.append(data[start:end])
        at = end
    stored.icc_profile = _joined(profile, stored)
    for block in map(b"".join, blocks):
        stored.put("exif", block)
    kept.append(data[at:])
    _look_behind(stored, data[_end(stored, data, at) :])
    return b"".join(kept), stored


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of each complete segment before the coded pixels."""
    at = 2
    while found := MARKER.match(data, at):
        marker, start = found[1][0], found.end() - 2
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (START_OF_SCAN, END) or end > len(data) or end < start + 4:
            return
        yield marker, start, end
        at = end


def _end(stored: RawMetadata, data: bytes, at: int) -> int:
    """Returns the offset of the picture's end; stores or notes metadata segments from `at` on, among coded pixels."""
    while found := MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            return at
        if marker == 0x01:
            continue
        start, at = at + 2, at + max(2, int.from_bytes(data[at : at + 2], "big"))
        if marker == COMMENT:
            stored.comments.append(data[start:at])
        elif 0xE0 <= marker <= 0xEF:
            stored.note(f"the block APP{marker & 15} after its pixels")
    return len(data)


def _sort(stored: RawMetadata, marker: int, body: bytes, profile: list[bytes]) -> None:
    if marker == COMMENT:
        stored.comments.append(body)
    elif marker == 0xE1 and body.startswith(PACKET):
        stored.put("xmp", body[len(PACKET) :])
    elif marker == 0xE1 and body.startswith(EXTENSION):
        stored.note("its extended XMP")
    elif marker == 0xE2 and body.startswith(PROFILE):
        profile.append(body[len(PROFILE) :])
    elif marker == 0xE2 and body.startswith(SEVERAL):
        stored.several = True
    elif marker == 0xE2 and body.startswith(GAIN_MAPS[1]):
        stored.note("its gain map")
    elif marker == 0xED and body.startswith(PHOTOSHOP):
        stored.resources += body[len(PHOTOSHOP) :]
    elif marker == 0xEB:
        stored.note("its content credentials (APP11)")
    elif not body.startswith(PASSING):
        stored.note(f"the block APP{marker & 15}")


def _density(jfif: bytes) -> tuple[float, float] | None:
    inch = {1: 1.0, 2: 2.54}.get(jfif[7])
    across, down = (int.from_bytes(jfif[at : at + 2], "big") for at in (8, 10))
    return (across * inch, down * inch) if inch and across and down else None


def _joined(parts: list[bytes], stored: RawMetadata) -> bytes:
    """Returns the colour profile joined from its numbered parts; empty, with a note, if parts are missing."""
    parts.sort(key=lambda part: part[:1])
    if not all(len(part) > 2 for part in parts) or (parts and parts[0][1] != len(parts)):
        stored.note("a colour profile that cannot be read, as parts of it are missing")
        return b""
    return b"".join(part[2:] for part in parts)


def _look_behind(stored: RawMetadata, rest: bytes) -> None:
    """Notes what follows the picture in the file: a gain map, a video, further pictures or other bytes."""
    about = stored.xmp + rest[: 2**18] if rest else b""
    gain = any(mark in about for mark in GAIN_MAPS)
    if gain:
        stored.note("its gain map")
    if b"ftyp" in rest and (b"moov" in rest or b"mdat" in rest):
        stored.note("its video")
    elif not gain and rest.startswith(SIGNATURE):
        stored.several = True
    elif not gain:
        stored.note_rest(rest)
    stored.several = stored.several and not gain


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body


def resources(data: bytes) -> bytes:
    """Returns the segments that hold Photoshop resources."""
    step = LONGEST - len(PHOTOSHOP)
    return b"".join(segment(0xED, PHOTOSHOP + data[at : at + step]) for at in range(0, len(data), step))


def comments(texts: tuple[bytes, ...]) -> bytes:
    return b"".join(segment(COMMENT, text) for text in texts)
