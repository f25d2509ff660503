"""Separates the pixels of a file of any format, which Pillow decodes, from its metadata."""

from __future__ import annotations

from PIL import Image

from diffedit_cli.images import bmp, boxes, exif, gif, jpeg, jpeg2000, netpbm, png, tiff_layout
from diffedit_cli.images.raw_metadata import RawMetadata

WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")
ONCE = {b"EXIF": "another EXIF block", b"XMP ": "another XMP packet", b"ICCP": "another colour profile"}


def take_apart(data: bytes) -> tuple[bytes, RawMetadata]:
    """Returns the file as Pillow is to read it, and its metadata.

    PNG and JPEG files are reduced to what the pixels need, so that no metadata can make decoding fail. Big-endian
    BigTIFF, which Pillow does not read, becomes a classic TIFF. Other files are returned unchanged.
    """
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if data[4:8] in boxes.SIGNATURES:
        return data, boxes.read(data)
    if data.startswith(tiff_layout.SIGNATURES):
        pixels = exif.encode(exif.read(data)[0], data[8:]) if data.startswith(exif.BIG) else data
        return pixels, tiff_layout.read(data)
    return data, _beside(data)


def _beside(data: bytes) -> RawMetadata:
    """Returns the metadata of a file whose bytes Pillow reads unchanged."""
    stored = RawMetadata()
    if data.startswith(b"BM") or bmp.is_bare(data):
        return bmp.read(data)
    if data.startswith(gif.SIGNATURE):
        return gif.read(data)
    if netpbm.SIGNATURE.match(data):
        return netpbm.read(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _read_webp(stored, data)
    elif data.startswith(jpeg2000.SIGNATURE):
        jpeg2000.read(stored, data)
    return stored


def _read_webp(stored: RawMetadata, data: bytes) -> None:
    """Notes the chunks of a WebP file that Pillow does not report."""
    at, end, seen = 12, 8 + int.from_bytes(data[4:8], "little"), set[bytes]()
    while at + 8 <= min(end, len(data)):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"C2PA":
            stored.note("its content credentials")
        elif kind not in WEBP_CHUNKS:
            stored.note(f"its {kind.decode('latin-1').strip()} data")
        elif kind in ONCE and kind in seen:
            stored.note(ONCE[kind])
        seen.add(kind)
        at += 8 + length + length % 2
    stored.note_rest(data[max(at, end) :])


def file_of(image: Image.Image) -> bytes | None:
    """Returns the bytes of an image's file, or None if there is none or Pillow has read the pixels and closed it."""
    file = getattr(image, "fp", None)
    if file is None or file.closed:
        return None
    at = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(at)
    return data
