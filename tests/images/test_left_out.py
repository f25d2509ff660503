"""What only some formats hold and an edited picture does not is said; what an upright picture turns is true."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from metadata_files import resource, segment, with_chunks, with_segments, xmp
from PIL import Image

from diffedit_cli.images import boxes, codecs, photoshop, tiff_layout
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


def gif_behind(block: bytes) -> bytes:
    """With a block behind its frame."""
    return coded("GIF")[:-1] + block + b";"


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def jp2_with(more: bytes) -> bytes:
    data = coded("JPEG2000")
    at = data.index(b"jp2c") - 4
    return data[:at] + more + data[at:]


def webp_behind(more: bytes) -> bytes:
    """With EXIF, and another chunk."""
    data = coded("WEBP", lossless=True, exif=exif_saying("a")) + more
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def jpeg_behind(more: bytes) -> bytes:
    """With a segment after its pixels."""
    data = coded("JPEG")
    return data[:-2] + more + data[-2:]


def exif_saying(words: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = words
    return exif.tobytes()


def tiff(**more: object) -> bytes:
    """As tifffile writes it."""
    out = io.BytesIO()
    more = {"metadata": None, **more}
    tifffile.imwrite(out, np.full((32, 48, 3), 40, np.uint8), photometric="rgb", **more)
    return out.getvalue()


def pyramid() -> bytes:
    out, pixels = io.BytesIO(), np.full((32, 48, 3), 40, np.uint8)
    with tifffile.TiffWriter(out) as file:
        file.write(pixels, subifds=1, photometric="rgb", metadata=None)
        file.write(pixels[::2, ::2], subfiletype=1, photometric="rgb", metadata=None)
    return out.getvalue()


def packet(data: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + data)


def heif_with_items(*kinds: bytes) -> bytes:
    items = b"".join(box(b"infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, kind)) for kind in kinds)
    return box(b"ftyp", b"avif") + box(b"meta", bytes(4) + box(b"iinf", struct.pack(">IH", 0, len(kinds)) + items))


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
        (png_with(b"pHYs", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\0"), "its pixel aspect ratio"),
        (jpeg_with_density(0, 2, 1), "its pixel aspect ratio"),
        (gif_with(b"MGKIPTC0000"), "its IPTC"),
        (gif_behind(b"!\xff\x0bOTHER  1.00\3abc\0"), "the block OTHER  1.0"),
        (gif_behind(b"!\x01\3abc\0"), "its text"),
        (gif_behind(b"!\xff\x0bMGK8BIM0000\4none\0"), "Photoshop resources that cannot be read"),
        (jp2_with(box(b"uuid", bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"))), "its IPTC"),
        (jp2_with(box(b"uuid", bytes(16))), f"the box {'00' * 16}"),
        (jp2_with(box(b"jp2i", b"rights")), "the box jp2i"),
        (coded("AVIF") + box(b"sefd", b"of a maker"), "the box sefd"),
        (coded("AVIF") + b"trailer", "7 bytes after the picture"),
        (with_segments(coded("JPEG"), packet(xmp()), packet(xmp(' dc:source="2"'))), "another XMP packet"),
        (
            with_segments(coded("JPEG"), segment(0xE1, exif_saying("a")), segment(0xE1, exif_saying("b"))),
            "another EXIF",
        ),
        (with_segments(coded("JPEG"), segment(0xEE, b"not Adobe's")), "the block APP14"),
        (jpeg_behind(segment(0xE1, exif_saying("a"))), "the block APP1 after its pixels"),
        (webp_behind(b"EXIF" + struct.pack("<I", 4) + b"none"), "another EXIF block"),
        (with_chunks(coded("PNG"), (b"eXIf", exif_saying("a")[6:]), (b"eXIf", exif_saying("b")[6:])), "another EXIF"),
        (coded("PNG")[:-12] + png_with(b"tEXt", b"Author\0me")[33:50], "a damaged tEXt chunk"),
        *[(coded(kind) + b"trailer", "7 bytes after the picture") for kind in ("BMP", "DIB", "GIF", "TIFF", "PPM")],
        (coded("JPEG2000") + b"trailer", "7 bytes after the picture"),
        (coded("JPEG2000", no_jp2=True) + b"trailer", "7 bytes after the picture"),
        (coded("WEBP", lossless=True) + b"trailer", "7 bytes after the picture"),
        (tiff(bigtiff=True) + b"trailer", "7 bytes after the picture"),
        (b"P3 1 1 255 1 2 3\nmore", "4 bytes after the picture"),
        (b"P4 9 2 \0\0\0\0more", "4 bytes after the picture"),
        (b"P6 1 1 999 \0\0\0\0\0\0more", "4 bytes after the picture"),
    ],
)
def test_it_is_said(data: bytes, says: str, tmp_path: Path) -> None:
    assert [one for one in loaded(data, tmp_path).metadata.left_out if says in one]


@pytest.mark.parametrize(
    "data",
    [
        coded("WEBP"), coded("WEBP", lossless=True), coded("GIF"), coded("PNG", dpi=(72, 72)), coded("JPEG"),
        jpeg_with_density(0, 1, 1), png_with(b"pHYs", (1).to_bytes(4, "big") * 2 + b"\0"),
        coded("BMP"), coded("DIB"), coded("PPM"), coded("TIFF"), coded("JPEG2000"), coded("JPEG2000", no_jp2=True),
        coded("AVIF"), coded("BMP") + b"\0\0", coded("TIFF", compression="jpeg"), coded("JPEG", progressive=True),
        tiff(), tiff(bigtiff=True), tiff(tile=(16, 16)), tiff(byteorder=">"), pyramid(),
        tiff(compression="deflate", rowsperstrip=5), tiff(metadata={"axes": "YXS"}, description=None),
        b"P3 1 1 255 1 2 3\n", b"P1 3 1 101\n",
        with_segments(coded("JPEG"), packet(xmp()), packet(xmp())), heif_with_items(b"av01", b"Exif", b"mime"),
        with_chunks(coded("PNG"), (b"eXIf", exif_saying("a")[6:]),
                    (b"tEXt", b"Raw profile type exif\0\nexif\n 9\n" + exif_saying("a").hex().encode())),
    ],
)  # fmt: skip
def test_of_usual_files_nothing_is_said(data: bytes, tmp_path: Path) -> None:
    if data[8:12] == b"avif" and b"mdat" not in data:
        assert boxes.read(data).left_out == []
    else:
        assert loaded(data, tmp_path).metadata.left_out == ()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *itertools.product(["1", "L", "P", "RGB"], ["BMP", "DIB", "TIFF", "GIF"]),
        ("1", "PPM"),
        ("L", "PPM"),
        ("RGB", "PPM"),
    ],
)
def test_pictures_of_any_mode_end_where_their_pixels_do(mode: str, kind: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new(mode, (13, 7), 1).save(out, kind)
    assert loaded(out.getvalue(), tmp_path).metadata.left_out == ()
    assert loaded(out.getvalue() + b"more", tmp_path).metadata.left_out == ("4 bytes after the picture",)


@pytest.mark.parametrize(
    "data",
    [
        gif_with(b"NETSCAPE2.0")[:-1] + b"!\xfe\4mine\0;",
        gif_behind(b"!\xfe\2mi\2ne\0"),
        jpeg_behind(segment(0xFE, b"mine")),
        coded("PPM").replace(b"P6\n", b"P6\n# mine\n", 1),
        b"P2 # mine\n1 1 255 7",
        b"P2 1 1 255 7 #mine",
        coded("JPEG2000", comment="mine"),
        coded("JPEG2000", comment="mine", no_jp2=True),
    ],
)
def test_comments_of_any_place_come_along(data: bytes, tmp_path: Path) -> None:
    picture = loaded(data, tmp_path)
    assert b"mine" in picture.metadata.comments
    assert picture.metadata.left_out == ()
    assert b"mine" in codecs.encode(picture, "PNG", None)


def test_resources_of_a_gif_come_along(tmp_path: Path) -> None:
    iptc = resource(0x0404, b"a caption of IPTC")
    block = b"!\xff\x0bMGK8BIM0000" + bytes([len(iptc)]) + iptc + b"\0"
    assert b"a caption of IPTC" in codecs.encode(loaded(gif_behind(block), tmp_path), "JPEG", None)


def test_netpbm_pictures_behind_each_other_are_frames(tmp_path: Path) -> None:
    assert "several frames" in " ".join(loaded(coded("PPM") * 2, tmp_path).warnings)


def test_items_of_a_heif_are_counted() -> None:
    said = boxes.read(heif_with_items(b"Exif", b"mime", b"Exif")).left_out
    assert said == ["another EXIF block"]
    assert boxes.read(heif_with_items(b"mime", b"av01", b"mime")).left_out == ["another XMP packet"]


def test_exif_of_a_jpeg_goes_on_in_the_next_segment(tmp_path: Path) -> None:
    whole = exif_saying("long " * 20_000)
    parts = [segment(0xE1, b"Exif\0\0" + whole[at : at + 60_000]) for at in range(6, len(whole), 60_000)]
    picture = loaded(with_segments(coded("JPEG"), *parts), tmp_path)
    assert picture.metadata.left_out == ()
    assert picture.metadata.exif.count(b"long ") == 20_000


@pytest.mark.parametrize(
    ("turned", "words"), [(1, []), (6, ["Photoshop's guides, slices and paths, since the pixels were rotated upright"])]
)
def test_what_of_photoshops_resources_goes_is_said(turned: int, words: list[str]) -> None:
    blocks = resource(0x0404, b"caption") + resource(0x07D0, b"path") + resource(0x040C, b"thumbnail")
    kept, said = photoshop.clean(blocks + resource(0x0424, b"<xmp>"), turned != 1, ["XMP"])
    assert said == words
    assert (b"path" in kept, b"caption" in kept, b"thumbnail" in kept) == (turned == 1, True, False)
    assert photoshop.clean(blocks + resource(0x0424, b"<xmp>"), False, [])[1] == [
        "the XMP stored in Photoshop's resources"
    ]
    assert photoshop.clean(blocks + b"8BIM\4", False, [])[1] == ["Photoshop resources that cannot be read"]


def test_any_number_of_odd_parts_makes_a_warning_that_can_be_read(tmp_path: Path) -> None:
    odd = [(b"A%c%cC" % (65 + at % 26, 65 + at // 26), b"") for at in range(90)]
    said = loaded(with_chunks(coded("PNG"), *odd), tmp_path).metadata.left_out
    assert len(said) == 51
    assert said[-1] == "more of this kind"


def test_directories_of_a_tiff_are_read_once_each() -> None:
    """Those that begin within each other, and numbers that all of them share, would be read without end."""
    entries = b"".join(struct.pack("<HHII", 330, 13, 2000, 10 + 12 * at) for at in range(500))
    data = b"II*\0" + struct.pack("<IH", 8, 500) + entries + bytes(8000)
    spent = list[tuple[int, int]]()

    class Counted(tiff_layout._Layout):
        def _spend(self, entries: int, numbers: int) -> None:
            spent.append((entries, numbers))
            super()._spend(entries, numbers)

    with pytest.raises(struct.error):
        Counted(data)
    assert sum(numbers for _, numbers in spent[:-1]) <= 2 * len(data)
    assert tiff_layout.read(data).left_out == []


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
