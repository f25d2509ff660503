"""What AVIF, HEIC and JPEG 2000 files hold beside the pixels in boxes of their own."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import icc
import pytest
from metadata_files import picture, saved, written, xmp
from PIL import Image

from diffedit_cli.images import boxes, codecs

CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def test_what_a_jpeg_2000_holds_comes_out(tmp_path: Path) -> None:
    data = saved(picture(), "JPEG2000")
    whole, colours = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    (length,), (before,) = struct.unpack_from(">I", data, whole), struct.unpack_from(">I", data, colours)
    profile = box(b"colr", b"\2\0\0" + icc.WIDE)
    data = data[:colours] + profile + data[colours + before :]
    data = data[:whole] + struct.pack(">I", length + len(profile) - before) + data[whole + 4 :]
    exif = b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x010F, 2, 4, b"Mak\0", 0)
    data += box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + xmp())
    data += box(b"uuid", b"JpgTiffExif->JP2" + exif)
    result, said = written(tmp_path, data, ".jp2", ".png")
    assert said == ""
    with Image.open(io.BytesIO(result)) as image:
        assert image.info["icc_profile"] == icc.WIDE
        assert image.getexif()[0x010F] == "Mak"
        assert b"a title of XMP" in image.info["xmp"]


@pytest.mark.parametrize(("kind", "words"), [(b"mpvd", "its video"), (b"uuid", "its content credentials")])
@pytest.mark.parametrize("suffix", [".avif", ".heic"])
def test_what_else_boxes_hold_is_named(tmp_path: Path, kind: bytes, words: str, suffix: str) -> None:
    data = saved(picture(), codecs.EXTENSIONS[suffix]) + box(kind, CREDENTIALS + b"moov")
    result, said = written(tmp_path, data, suffix)
    assert words in said
    assert CREDENTIALS not in result


@pytest.mark.parametrize(
    ("urn", "words"),
    [
        (b"urn:com:apple:photo:2020:aux:hdrgainmap", "its gain map"),
        (b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", "its depth map"),
        (b"urn:mpeg:hevc:2015:auxid:2", "its depth map"),
        (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", ""),
    ],
)
def test_pictures_beside_a_heic_are_named(urn: bytes, words: str) -> None:
    properties = box(b"ipco", box(b"auxC", bytes(4) + urn + b"\0"))
    data = box(b"ftyp", b"heic") + box(b"meta", bytes(4) + box(b"iprp", properties))
    assert boxes.read(data).left_out == ([words] if words else [])
