"""JPEG 2000's coded pixels: the comments in their header, and where they end."""

from __future__ import annotations

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = b"\xff\x4f\xff\x51"
COMMENT, TILE, END = b"\xff\x64", b"\xff\x90", b"\xff\xd9"
COMMENT_HEAD, LENGTH_AT = 6, 6  # bytes before a comment's words, and before a part's length


def read(stored: RawMetadata, data: bytes) -> None:
    """Of what begins with coded pixels."""
    at = 2
    while data[at : at + 2] not in (TILE, END, b""):
        end = at + 2 + max(2, _number(data[at + 2 : at + 4]))
        if data[at : at + 2] == COMMENT:
            stored.comments.append(data[at + COMMENT_HEAD : end])
        at = end
    while data[at : at + 2] == TILE:
        length = _number(data[at + LENGTH_AT : at + LENGTH_AT + 4])
        at = at + max(length, 12) if length else data.rfind(END, at)  # without a length it is the last
        if at < 0:
            return
    stored.note_rest(data[at + len(END) :])


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
