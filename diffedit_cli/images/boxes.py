"""Reads metadata in the boxes of AVIF, HEIC and JPEG 2000 files that decoders do not report; sets an AVIF's colours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from diffedit_cli.images import jpeg2000
from diffedit_cli.images.raw_metadata import RawMetadata

DEEPEST = 4
CONTAINERS = (b"meta", b"iprp", b"ipco", b"iinf", b"jp2h")
SIGNATURES = (b"ftyp", b"jP  ")  # at byte offset 4
RESTRICTED, ANY = b"\2", b"\3"  # methods of a colour box that embed an ICC profile
EXIF, XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
CREDENTIALS = b"\xd8\xfe\xc3\xd6\x1b\x0e\x48\x3c\x92\x97\x58\x28\x87\x7e\xc4\x81"
IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
KINDS = (b"ftyp", b"free", b"skip", b"uuid", b"xml ")
OF_JPEG_2000 = (b"jP  ", b"jp2h", b"jp2c", b"rreq")
OF_HEIF = (b"styp", b"meta", b"mdat", b"idat", b"moov", b"moof", b"mfra", b"sidx", b"pdin", b"wide", b"mpvd")
GAIN_MAPS, DEPTHS = (b"hdrgainmap", b"tmap"), (b":auxid:2", b"auxiliary:depth")
COLOURS = b"colrnclx"
EXIF_ITEM = re.compile(rb"(infe[\2\3].{7,9})Exif", re.DOTALL)


def read(data: bytes) -> RawMetadata:
    """Returns CICP code points, all metadata of a JPEG 2000 file, and notes of what an edited picture loses."""
    stored, found, items, behind = RawMetadata(), dict[bytes, tuple[int, int]](), Counter[bytes](), 0
    is_jpeg_2000 = data[4:8] == b"jP  "
    for kind, start, end, depth in _boxes(data, 0, len(data), 0):
        if not depth:
            behind = end
            if kind not in (*KINDS, *(OF_JPEG_2000 if is_jpeg_2000 else OF_HEIF)):
                stored.note(f"the box {kind.decode('latin-1')}")
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 10 and stored.cicp is None:
            stored.cicp = _pair(data, start + 4)
        found.setdefault(kind, (start, end))
        if kind == b"xml ":
            stored.note("its XML")
        elif kind == b"uuid":
            _sort(stored, data[start:end], is_jpeg_2000)
        elif kind == b"infe":
            at = start + (10 if data[start : start + 1] == b"\3" else 8)
            items[data[at : at + 4]] += 1
        elif kind == b"jp2c":
            jpeg2000.read(stored, data[start:end])
        elif kind == b"colr" and is_jpeg_2000 and data[start : start + 1] in (RESTRICTED, ANY):
            stored.put("icc_profile", data[start + 3 : end])
    stored.note_rest(data[behind:])
    stored.several = not is_jpeg_2000 and b"moov" in found
    meta = data[slice(*found.get(b"meta", (0, 0)))]
    if any(mark in meta for mark in GAIN_MAPS):
        stored.note("its gain map")
    if any(mark in meta for mark in DEPTHS):
        stored.note("its depth map")
    if items[b"Exif"] > 1:
        stored.note("another EXIF block")
    if items[b"mime"] > 1 and not stored.left_out:  # else it belongs to a gain map or depth map
        stored.note("another XMP packet")
    if b"mpvd" in found:
        stored.note("its video")
    return stored


def _sort(stored: RawMetadata, body: bytes, is_jpeg_2000: bool) -> None:
    """Stores or notes a uuid box, which begins with the 16 bytes of its type."""
    if is_jpeg_2000 and body.startswith(XMP):
        stored.put("xmp", body[len(XMP) :])
    elif is_jpeg_2000 and body.startswith(EXIF):
        stored.put("exif", body[len(EXIF) :])
    else:
        words = {CREDENTIALS: "its content credentials", IPTC: "its IPTC"}
        stored.note(words.get(body[:16], f"the box {body[:16].hex()}"))


def _boxes(data: bytes, at: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yields kind, start and end of the content, and nesting depth of each box, including boxes within boxes."""
    while at + 8 <= end:
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or end - at
        if length < head or at + length > end:
            return
        yield kind, at + head, at + length, depth
        if kind in CONTAINERS and depth < DEEPEST:
            counted = (6 if data[at + head : at + head + 1] == b"\0" else 8) if kind == b"iinf" else 0
            inside = at + head + (4 if kind == b"meta" else counted)
            yield from _boxes(data, inside, at + length, depth + 1)
        at += length


def _pair(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")


def without_exif(avif: bytes) -> bytes:
    """Returns the file with its EXIF item renamed, so that no reader fails on EXIF that it cannot read."""
    return EXIF_ITEM.sub(rb"\1exif", avif, count=1)


def with_cicp(avif: bytes, cicp: tuple[int, int]) -> bytes:
    """Returns a file written by Pillow with these ITU-T H.273 primaries and transfer characteristics."""
    at = avif.find(COLOURS)
    if at < 0:
        return avif
    said = b"".join(value.to_bytes(2, "big") for value in cicp)
    return avif[: at + len(COLOURS)] + said + avif[at + len(COLOURS) + 4 :]
