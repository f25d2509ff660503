"""AVIF, HEIC and JPEG 2000 files: what their boxes say that decoders do not tell, and colours put into an AVIF."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diffedit_cli.images.raw_metadata import RawMetadata

DEEPEST = 4
CONTAINERS = (b"meta", b"iprp", b"ipco", b"iinf", b"jp2h")
SIGNATURES = (b"ftyp", b"jP  ")  # from the fourth byte on
RESTRICTED, ANY = 2, 3  # methods by which a JPEG 2000 has a profile
EXIF, XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
CREDENTIALS = b"\xd8\xfe\xc3\xd6\x1b\x0e\x48\x3c\x92\x97\x58\x28\x87\x7e\xc4\x81"
GAIN_MAPS, DEPTHS = (b"hdrgainmap", b"tmap"), (b":auxid:2", b"auxiliary:depth")
COLOURS = b"colrnclx"
EXIF_ITEM = re.compile(rb"(infe[\2\3].{7,9})Exif", re.DOTALL)


def read(data: bytes) -> RawMetadata:
    """Colours by number, of a JPEG 2000 all that lies beside the pixels, and what an edited picture leaves out."""
    stored, found = RawMetadata(), dict[bytes, tuple[int, int]]()
    for kind, start, end in _boxes(data, 0, len(data), 0):
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 10 and stored.cicp is None:
            stored.cicp = _pair(data, start + 4)
        found.setdefault(kind, (start, end))
        if kind == b"uuid" and data[start : start + 16] == CREDENTIALS:
            stored.left_out.append("its content credentials")
        if kind == b"xml ":
            stored.left_out.append("its XML")
        if data[4:8] == b"jP  ":
            _sort(stored, kind, data[start:end])
    meta = data[slice(*found.get(b"meta", (0, 0)))]
    if any(mark in meta for mark in GAIN_MAPS):
        stored.left_out.append("its gain map")
    if any(mark in meta for mark in DEPTHS):
        stored.left_out.append("its depth map")
    if b"mpvd" in found:
        stored.left_out.append("its video")
    return stored


def _sort(stored: RawMetadata, kind: bytes, body: bytes) -> None:
    """A box of a JPEG 2000, of which Pillow tells nothing."""
    if kind == b"colr" and body[:1] in (bytes([RESTRICTED]), bytes([ANY])):
        stored.icc_profile = body[3:]
    elif kind == b"uuid" and body.startswith(XMP):
        stored.xmp = body[len(XMP) :]
    elif kind == b"uuid" and body.startswith(EXIF):
        stored.exif = body[len(EXIF) :]


def _boxes(data: bytes, at: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of what each box holds, those within others among them."""
    while at + 8 <= end:
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or end - at
        if length < head or at + length > end:
            return
        yield kind, at + head, at + length
        if kind in CONTAINERS and depth < DEEPEST:
            inside = at + head + (4 if kind == b"meta" else 0)
            yield from _boxes(data, inside, at + length, depth + 1)
        at += length


def _pair(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")


def without_exif(avif: bytes) -> bytes:
    """A file in which no reader finds EXIF, for where it cannot be read."""
    return EXIF_ITEM.sub(rb"\1exif", avif, count=1)


def with_cicp(avif: bytes, cicp: tuple[int, int]) -> bytes:
    """A file that Pillow wrote, with other primaries and transfer characteristics."""
    at = avif.find(COLOURS)
    if at < 0:
        return avif
    said = b"".join(value.to_bytes(2, "big") for value in cicp)
    return avif[: at + len(COLOURS)] + said + avif[at + len(COLOURS) + 4 :]
