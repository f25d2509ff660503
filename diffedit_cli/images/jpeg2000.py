"""Reads the comments of a JPEG 2000 codestream and finds its end."""

from __future__ import annotations

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = b"\xff\x4f\xff\x51"
COMMENT, TILE, END = b"\xff\x64", b"\xff\x90", b"\xff\xd9"
COMMENT_HEAD, LENGTH_AT = 6, 6  # bytes before a comment's text, and before a tile-part's length


def read(stored: RawMetadata, data: bytes) -> None:
    """Stores the comments of data that begins with a codestream, and notes bytes after it."""
    at = 2
    while data[at : at + 2] not in (TILE, END, b""):
        end = at + 2 + max(2, _number(data[at + 2 : at + 4]))
        if data[at : at + 2] == COMMENT:
            stored.comments.append(data[at + COMMENT_HEAD : end])
        at = end
    while data[at : at + 2] == TILE:
        length = _number(data[at + LENGTH_AT : at + LENGTH_AT + 4])
        at = at + max(length, 12) if length else data.rfind(END, at)  # only the last tile-part may have no length
        if at < 0:
            return
    stored.note_rest(data[at + len(END) :])


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
