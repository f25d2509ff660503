"""Small pictures of what a file showed before lie in many places of it: none of them is in the result."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import metadata_files as given
import numpy as np
import pytest
import tifffile
from metadata_files import SUFFIX, picture, saved, segment, with_chunks, with_segments, written

BEFORE = b"thumbnail of before"
SMALL = with_segments(saved(picture().resize((16, 16)), "JPEG"), segment(0xFE, BEFORE))


def exif(order: str) -> bytes:
    """A block whose second table is that of a thumbnail."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    first = struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, 1, 0, 26)
    second = struct.pack(f"{order}HHHIHH", 3, 0x0103, 3, 1, 6, 0)
    second += struct.pack(f"{order}HHIIHHIII", 0x0201, 4, 1, 68, 0x0202, 4, 1, len(SMALL), 0)
    return start + first + second + SMALL


def jpeg_with(start: bytes) -> bytes:
    """A JPEG whose first segment (JFIF's) is another, or several."""
    plain = saved(picture(), "JPEG")
    return plain[:2] + start + plain[4 + struct.unpack_from(">H", plain, 4)[0] :]


def jfif(size: int) -> bytes:
    return segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1" + bytes([size, size]) + (BEFORE * 99)[: 3 * size * size])


def tiff(inner: bool) -> bytes:
    """With a smaller picture of the same below the first, or behind it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        pixels, small = np.asarray(picture()), np.asarray(picture().resize((8, 8)))
        writer.write(pixels, photometric="rgb", subifds=int(inner), metadata=None)
        writer.write(small, photometric="rgb", subfiletype=1, metadata=None, description=BEFORE.decode())
    return buffer.getvalue()


XMP = given.xmp("", f'<xmp:Thumbnails xmpGImg:image="{BEFORE.decode()}"/>', used=("xmp", "xmpGImg"))
PLACES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "EXIF in JPEG": ("JPEG", lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + exif("<")))),
    "EXIF of the other order": ("JPEG", lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + exif(">")))),
    "EXIF in PNG": ("PNG", lambda: with_chunks(saved(picture(), "PNG"), (b"eXIf", exif("<")))),
    "EXIF in WebP": ("WEBP", lambda: saved(picture(), "WEBP", exif=exif("<"), lossless=True)),
    "EXIF in HEIC": ("HEIF", lambda: saved(picture(), "HEIF", exif=exif("<"))),
    "XMP": ("JPEG", lambda: saved(picture(), "JPEG", xmp=XMP)),
    "Photoshop's blocks in JPEG": ("JPEG", lambda: given.full("JPEG")),
    "Photoshop's blocks in TIFF": ("TIFF", lambda: given.full("TIFF")),
    "JFIF": ("JPEG", lambda: jpeg_with(jfif(16))),
    "JFIF's extension": ("JPEG", lambda: jpeg_with(jfif(0) + segment(0xE0, b"JFXX\0\x10" + SMALL))),
    "below the picture in TIFF": ("TIFF", lambda: tiff(inner=True)),
    "behind the picture in TIFF": ("TIFF", lambda: tiff(inner=False)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", SUFFIX)
def test_no_result_shows_what_was_there_before(tmp_path: Path, place: str, to: str) -> None:
    kind, make = PLACES[place]
    data = make()
    assert BEFORE in data
    assert BEFORE not in written(tmp_path, data, SUFFIX[kind], SUFFIX[to])[0]
