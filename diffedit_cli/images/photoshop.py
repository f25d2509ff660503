"""Photoshop resource blocks, in which JPEG and TIFF files store IPTC: selects those that an edited picture keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator

IPTC = 0x0404
THUMBNAILS = (0x0409, 0x040C)
COPIES = {
    0x040F: "colour profile",
    0x0422: "EXIF",
    0x0423: "EXIF",
    0x0424: "XMP",
}  # copies of metadata that the file stores elsewhere
SHAPES = frozenset({0x0408, 0x041A, *range(0x07D0, 0x0BB8)})  # guides, slices and paths


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the number and the bytes of each block, up to the first that is incomplete."""
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


def clean(data: bytes, turned: bool, elsewhere: Collection[str]) -> tuple[bytes, list[str]]:
    """Returns the blocks that an edited picture keeps, and descriptions of what is lost.

    Thumbnails and copies are dropped, and if `turned` shapes, too. `elsewhere` names the metadata that the file stores
    outside the blocks: a copy of any other is reported as lost.
    """
    kept, lost, whole = list[bytes](), dict[str, None](), 0
    for number, block in blocks(data):
        whole += len(block)
        if number in SHAPES and turned:
            lost["Photoshop's guides, slices and paths, since the pixels were rotated upright"] = None
        elif number in COPIES and COPIES[number] not in elsewhere:
            lost[f"the {COPIES[number]} stored in Photoshop's resources"] = None
        elif number not in (*THUMBNAILS, *COPIES):
            kept.append(block + b"\0" * (len(block) & 1))
    if data[whole:].strip(b"\0"):
        lost["Photoshop resources that cannot be read"] = None
    return b"".join(kept), list(lost)


def block(number: int, content: bytes) -> bytes:
    head = b"8BIM" + number.to_bytes(2, "big") + b"\0\0" + len(content).to_bytes(4, "big")
    return head + content + b"\0" * (len(content) & 1)


def holds_iptc(data: bytes) -> bool:
    return any(number == IPTC for number, _ in blocks(data))
