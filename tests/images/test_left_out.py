"""What only some formats hold and an edited picture does not is said; what an upright picture turns is true."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image

from diffedit_cli.images import codecs
from diffedit_cli.images.pictures import Picture


def coded(format: str, **more: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB" if format != "GIF" else "P", (12, 8), 40).save(out, format, **more)
    return out.getvalue()


def webp_with(kind: bytes) -> bytes:
    data = coded("WEBP", lossless=True) + kind + (3).to_bytes(4, "little") + b"abc\0"
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def gif_with(mark: bytes) -> bytes:
    data = coded("GIF")
    colours = 13 + 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 13
    return data[:colours] + b"!\xff\x0b" + mark + b"\3abc\0" + data[colours:]


def png_with(kind: bytes, body: bytes) -> bytes:
    data = coded("PNG")
    chunk = len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return data[:33] + chunk + data[33:]


def jpeg_with_density(unit: int, across: int, down: int) -> bytes:
    data = coded("JPEG")
    at = data.index(b"JFIF\0") + 7
    return data[:at] + bytes([unit, 0, across, 0, down]) + data[at + 5 :]


def loaded(data: bytes, folder: Path) -> Picture:
    path = folder / "picture"
    path.write_bytes(data)
    return codecs.load(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (webp_with(b"C2PA"), "its content credentials"),
        (webp_with(b"abCD"), "its abCD data"),
        (gif_with(b"ICCRGBG1012"), "its colour profile"),
        (gif_with(b"XMP DataXMP"), "its XMP"),
        (png_with(b"pHYs", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\0"), "how wide its pixels are"),
        (jpeg_with_density(0, 2, 1), "how wide its pixels are"),
    ],
    ids=("webp credentials", "webp other", "gif profile", "gif XMP", "png pixels", "jpeg pixels"),
)
def test_it_is_said(data: bytes, says: str, tmp_path: Path) -> None:
    assert [one for one in loaded(data, tmp_path).metadata.left_out if says in one]


@pytest.mark.parametrize(
    "data",
    [
        coded("WEBP"), coded("WEBP", lossless=True), coded("GIF"), coded("PNG", dpi=(72, 72)), coded("JPEG"),
        jpeg_with_density(0, 1, 1), png_with(b"pHYs", (1).to_bytes(4, "big") * 2 + b"\0"),
    ],
    ids=range(7),
)  # fmt: skip
def test_of_usual_files_nothing_is_said(data: bytes, tmp_path: Path) -> None:
    assert loaded(data, tmp_path).metadata.left_out == ()


@pytest.mark.parametrize(("turned", "dpi"), [(1, (200, 100)), (3, (200, 100)), (6, (100, 200)), (8, (100, 200))])
def test_the_resolution_turns_with_the_picture(turned: int, dpi: tuple[int, int], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274], exif[282], exif[283], exif[296] = turned, 200.0, 100.0, 2
    found = loaded(coded("JPEG", exif=exif, dpi=(200, 100)), tmp_path)
    assert found.metadata.dpi == pytest.approx(dpi)
    said = Image.Exif()
    said.load(found.metadata.exif)
    assert (said[282], said[283]) == pytest.approx(dpi)


def test_a_grey_picture_of_other_colours_can_be_a_bmp(tmp_path: Path) -> None:
    """Which holds a profile only beside colours."""
    grey = io.BytesIO()
    Image.new("L", (12, 8), 90).save(grey, "PNG")
    data = grey.getvalue()
    body = (100000).to_bytes(4, "big")
    chunk = b"\0\0\0\4gAMA" + body + zlib.crc32(b"gAMA" + body).to_bytes(4, "big")
    picture = loaded(data[:33] + chunk + data[33:], tmp_path)
    fitted = codecs.fit_to_format(picture, "BMP")
    assert "its colour profile" in " ".join(fitted.warnings)
    assert codecs.encode(fitted, "BMP", None).startswith(b"BM")
