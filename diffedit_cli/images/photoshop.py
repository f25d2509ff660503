"""Photoshop's resource blocks, in which JPEG and TIFF files keep IPTC: which of them an edited picture keeps."""

from __future__ import annotations

from collections.abc import Iterator

IPTC = 0x0404
THUMBNAILS = (0x0409, 0x040C)
COPIES = (0x040F, 0x0422, 0x0423, 0x0424)  # of profile, EXIF and XMP, which stand elsewhere in the file
SHAPES = (0x0408, 0x041A, *range(0x07D0, 0x0BB8))  # guides, slices and paths


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and whole block, as far as they are whole."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        length_at = at + 7 + data[at + 6]
        length_at += length_at - at & 1
        end = length_at + 4 + int.from_bytes(data[length_at : length_at + 4], "big")
        if end > len(data):
            return
        end += end - length_at & 1
        yield int.from_bytes(data[at + 4 : at + 6], "big"), data[at:end]
        at = end


def clean(data: bytes, turned: bool) -> bytes:
    """Without thumbnails and copies, and, of a picture that is turned, without shapes."""
    outdated = (*THUMBNAILS, *COPIES, *(SHAPES if turned else ()))
    return b"".join(block + b"\0" * (len(block) & 1) for number, block in blocks(data) if number not in outdated)


def block(number: int, content: bytes) -> bytes:
    head = b"8BIM" + number.to_bytes(2, "big") + b"\0\0" + len(content).to_bytes(4, "big")
    return head + content + b"\0" * (len(content) & 1)


def holds_iptc(data: bytes) -> bool:
    return any(number == IPTC for number, _ in blocks(data))
