"""What lies beside the pixels is theirs: it comes out as it went in, or a warning names it; what is kept is true."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import icc
import metadata_files as given
import numpy as np
import pytest
import tifffile
from metadata_files import (
    RECORD,
    SUFFIX,
    held,
    loaded,
    packet,
    picture,
    saved,
    segment,
    with_chunks,
    with_segments,
    written,
    xmp,
)
from picture_files import chunk
from PIL import ExifTags, Image

from diffedit_cli.images import codecs

MEDIA = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
IN_WORDS = {
    "exif": "its EXIF",
    "xmp": "its XMP",
    "colour profile": "its colour profile",
    "resolution": "its resolution",
    "text": "the text Author, parameters",
    "iptc": "IPTC",
    "comment": "its comment",
}


@pytest.mark.parametrize("source", SUFFIX)
@pytest.mark.parametrize("target", SUFFIX)
def test_what_went_in_comes_out_or_a_warning_names_it(tmp_path: Path, source: str, target: str) -> None:
    data = given.full(source)
    before = held(data)
    assert sum(before.values()) >= {"BMP": 1, "WEBP": 3, "AVIF": 3, "HEIF": 3}.get(source, 5)
    result, said = written(tmp_path, data, SUFFIX[source], SUFFIX[target])
    after = held(result)
    for kind, was in before.items():
        assert not was or after[kind] or IN_WORDS[kind] in said, (kind, said)
        assert not (after[kind] and IN_WORDS[kind] in said), (kind, said)
    if source == target:
        assert said == ""


@pytest.mark.parametrize("kind", [kind for kind in SUFFIX if kind != "BMP"])
@pytest.mark.parametrize("data", [b"", xmp(), xmp(' Iptc4xmpExt:DigitalSourceType="other"', used=("Iptc4xmpExt",))])
def test_the_result_says_that_a_model_made_part_of_it(tmp_path: Path, kind: str, data: bytes) -> None:
    first, _ = written(tmp_path, saved(picture(), "JPEG", xmp=data) if data else saved(picture(), "JPEG"), ".jpg")
    for source, suffix in ((first, ".jpg"), (saved(picture(), "PNG"), ".png")):
        result, _ = written(tmp_path, source, suffix, SUFFIX[kind])
        assert packet(result).count(MEDIA) == 1
        assert packet(result).count(b'DigitalSourceType="') == 1
        assert (b"a title of XMP" in packet(result)) == (bool(data) and source is first)
        ElementTree.fromstring(packet(result))
    assert MEDIA not in written(tmp_path, saved(picture(), "PNG"), ".png", SUFFIX[kind], None)[0]
    stripped = loaded(tmp_path, first, ".jpg").strip_metadata()
    assert MEDIA not in codecs.encode(stripped, kind, None)


THUMBNAIL = '<xmp:Thumbnails><rdf:Alt><rdf:li xmpGImg:image="/9j/4AAQ"/></rdf:Alt></xmp:Thumbnails>'
REGIONS = '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList>face</mwg-rs:RegionList></mwg-rs:Regions>'
ITEM = '<rdf:Seq><rdf:li><Container:Item Item:Length="9"/></rdf:li></rdf:Seq>'
DIRECTORY = f"<Container:Directory>{ITEM}</Container:Directory>"
GOOGLE = ("GCamera", "Container", "Item")
UNTRUE = {
    "gain map": (' hdrgm:Version="1.0"', DIRECTORY, ("hdrgm", "Container", "Item"), "its gain map"),
    "motion photo": (' GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="9"', DIRECTORY, GOOGLE, "its video"),
    "motion in elements": ("", "<GCamera:MotionPhoto>1</GCamera:MotionPhoto>", ("GCamera",), "its video"),
    "further": (' xmpNote:HasExtendedXMP="7C10"', "", ("xmpNote",), "its extended XMP"),
    "thumbnail": ("", THUMBNAIL, ("xmp", "xmpGImg"), ""),
    "depth": (' GDepth:Data="AAAA" GDepth:Near="1"', "", ("GDepth",), "its depth map"),
}  # fmt: skip
WORDS = (b"hdrgm", b"Container", b"MotionPhoto", b"MicroVideo", b"HasExtended", b"Thumbnails", b"4AAQ", b"GDepth:")


@pytest.mark.parametrize("name", UNTRUE)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_xmp_keeps_no_claim_of_what_is_gone(tmp_path: Path, name: str, kind: str) -> None:
    attributes, elements, used, words = UNTRUE[name]
    said_in = xmp(attributes + ' dc:source="kept"', elements, used=used)
    if kind == "PNG":
        data = with_chunks(saved(picture(), "PNG"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(said_in)))
    elif kind == "TIFF":
        data = saved(picture(), "TIFF", tiffinfo={700: said_in})
    else:
        data = saved(picture(), kind, xmp=said_in)
    assert any(word in packet(data) for word in WORDS)
    result, said = written(tmp_path, data, SUFFIX[kind])
    assert not [word for word in WORDS if word in packet(result)]
    assert b'dc:source="kept"' in packet(result)
    assert words in said
    assert bool(words) == bool(said)


VIDEO = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + struct.pack(">I", 8) + b"moov"
JPEG = saved(picture(), "JPEG", quality=90)
GAIN = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1"/>')
BEHIND = {
    "gain map": (JPEG + with_segments(JPEG, GAIN), "its gain map"),
    "gain map of ISO": (with_segments(JPEG, segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0")) + JPEG, "its gain map"),
    "video": (JPEG + VIDEO, "its video"),
    "bytes": (JPEG + b"trailer", "7 bytes after the picture"),
    "picture": (JPEG + JPEG, "several frames"),
    "further": (with_segments(JPEG, segment(0xE1, given.EXTENSION)), "its extended XMP"),
    "credentials": (with_segments(JPEG, segment(0xEB, b"JP\0\1\0\0\0\1jumb")), "its content credentials"),
    "unknown": (with_segments(JPEG, segment(0xE5, b"of a maker")), "the block APP5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
def test_what_else_a_jpeg_holds_is_named(tmp_path: Path, name: str) -> None:
    data, words = BEHIND[name]
    result, said = written(tmp_path, data, ".jpg")
    assert words in said
    assert result.count(b"\xff\xd8\xff") == 1
    assert not any(mark in result for mark in (b"moov", b"hdrgm", b"trailer", b"jumb", b"of a maker", b"<further>"))


def test_padding_behind_a_jpeg_is_nothing(tmp_path: Path) -> None:
    assert written(tmp_path, JPEG + bytes(100), ".jpg")[1] == ""


def test_thumbnails_in_photoshop_blocks_go_and_iptc_stays(tmp_path: Path) -> None:
    for kind, suffix in (("JPEG", ".jpg"), ("TIFF", ".tif")):
        result, said = written(tmp_path, given.full(kind), suffix)
        assert b"thumbnail of before" not in result
        assert given.CAPTION in result
        assert said == ""


# Sizes and places


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_sizes_are_those_of_the_upright_picture(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = given.tags()
    exif[274] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({0xA002: 40, 0xA003: 24, 0x9214: (1, 2, 3)})
    whole = Image.Exif()
    whole.load(exif.tobytes())
    sizes = ' exif:PixelXDimension="40" tiff:ImageLength="24"'
    elements = "<exif:PixelYDimension>24</exif:PixelYDimension><tiff:ImageWidth> 40 </tiff:ImageWidth>"
    said_in = xmp(f'{sizes} tiff:Orientation="{orientation}"', elements + REGIONS, used=("exif", "tiff", "mwg-rs"))
    if kind == "TIFF":
        whole[700] = said_in
    data = saved(picture(), kind, exif=whole, **({"xmp": said_in} if kind != "TIFF" else {}))
    if kind == "PNG":
        data = with_chunks(data, (b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + said_in))
    result, said = written(tmp_path, data, SUFFIX[kind], record=None)
    width, height = (40, 24) if orientation == 1 else (24, 40)
    with Image.open(io.BytesIO(result)) as image:
        assert image.size == (width, height)
        inner = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert (inner[0xA002], inner[0xA003], inner[ExifTags.Base.ExposureTime]) == (width, height, 0.25)
    after = packet(result).decode()
    for one in (f'PixelXDimension="{width}"', f'ImageLength="{height}"', 'Orientation="1"', f"ImageWidth>{width}<"):
        assert one in after
    assert f"PixelYDimension>{height}<" in after
    kept = orientation == 1
    assert (0x9214 in inner, "mwg-rs:Regions" in after) == (kept, kept)
    assert ("its marked regions" in said, "the position of its subject" in said) == (not kept, not kept)


# EXIF


def block(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block of entries (tag, type, count, the four bytes of the value or its place)."""
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + body + bytes(4)


def exif_of(png: bytes) -> bytes:
    return given.chunks(png)[b"eXIf"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_odd_values_of_exif_stay_byte_for_byte(tmp_path: Path, order: str) -> None:
    """Letters that are no ASCII, numbers of another type than usual, fractions of nothing, and tags unknown."""
    fraction = struct.pack(f"{order}I", 8 + 2 + 12 * 5 + 4)
    entries = [
        (0x010E, 2, 4, "ü".encode() + b"\0"),
        (0x0112, 4, 1, struct.pack(f"{order}I", 1)),
        (0x011A, 5, 1, fraction),
        (0x0131, 7, 4, b"\xff\0\xfe\1"),
        (0xC000, 9, 1, struct.pack(f"{order}i", -5)),
    ]
    data = with_chunks(saved(picture(), "PNG"), (b"eXIf", block(*entries, order=order) + bytes(8)))
    for suffix in (".png", ".jpg", ".webp", ".avif", ".tif"):
        result, said = written(tmp_path, data, ".png", suffix, record=None)
        assert said == ""
        assert "ü".encode() + b"\0" in result
        assert b"\xff\0\xfe\1" in result
        if suffix == ".png":
            assert struct.pack(f"{order}HHIi", 0xC000, 9, 1, -5) in exif_of(result)


@pytest.mark.parametrize(
    ("exif", "words"),
    [
        (b"noise that is not an EXIF", "its EXIF, which cannot be read"),
        (block((0x010F, 2, 2**31, b"\xff\xff\xff\x7f"), (0x0110, 2, 3, b"ok\0")), "of its EXIF Make, which"),
        (block((0x010F, 99, 1, b""), (0x0110, 2, 3, b"ok\0")), "of its EXIF Make, which"),
        (block((0x8769, 4, 1, struct.pack("<I", 8)), (0x0110, 2, 3, b"ok\0")), "of its EXIF ExifOffset, which"),
    ],
    ids=["noise", "beyond the end", "unknown type", "circle"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "HEIF"])
def test_exif_that_cannot_be_read_costs_a_warning(tmp_path: Path, exif: bytes, words: str, kind: str) -> None:
    if kind == "AVIF":  # of which Pillow reads what it writes
        first = saved(picture(), kind, exif=block((0x010F, 2, len(exif), bytes(4)), (1, 1, 1, b"")) + bytes(len(exif)))
        at = first.index(b"II*\0")
        data = first[:at] + exif.ljust(len(exif) + 38, b"\0")[: len(first) - at] + first[at + len(exif) + 38 :]
    else:
        data = saved(picture(), kind, exif=b"Exif\0\0" + exif)
    result, said = written(tmp_path, data, SUFFIX[kind])
    assert "EXIF" in said
    assert words in said or kind in ("AVIF", "HEIF")
    if b"ok\0" in exif and kind not in ("AVIF", "HEIF"):
        with Image.open(io.BytesIO(result)) as image:
            assert image.getexif()[0x0110] == "ok"


@pytest.mark.parametrize("size", [60_000, 65_300, 65_480, 65_527, 70_000])
@pytest.mark.parametrize("to", [".jpg", ".png", ".tif"])
def test_exif_that_fills_its_segment_costs_no_picture(tmp_path: Path, size: int, to: str) -> None:
    exif = Image.Exif()
    exif[271] = "a maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"M" * (size - 62)
    data = saved(picture(), "PNG", exif=exif.tobytes())
    record = {**RECORD, "to": "dog" * 200}
    result, said = written(tmp_path, data, ".png", to, record)
    path = tmp_path / f"result{to}"
    path.write_bytes(result)
    assert codecs.read_record(path) == record
    assert held(result)["exif"]
    assert (b"M" * (size - 62) in result) == (said == "")
    assert ("MakerNote" in said) == (to == ".jpg" and len(exif.tobytes()) > 65_533)
    assert codecs.load(path).metadata.comments == ()


# Chunks of PNG


@pytest.mark.parametrize("bits", [8, 16])
def test_large_chunks_are_read_and_kept(tmp_path: Path, bits: int) -> None:
    noise = np.random.default_rng(2).integers(32, 127, 2_000_000, np.uint8).tobytes()
    large = icc.SRGB[:128] + icc.SRGB[128:] + noise
    chunks = [given.packed_icc(large), (b"zTXt", b"workflow\0\0" + zlib.compress(noise))]
    chunks += [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(f' dc:source="{"x" * 1_600_000}"')))]
    image = picture() if bits == 8 else Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)
    data = with_chunks(saved(image, "PNG"), *chunks)
    result, _ = written(tmp_path, data, ".png", record=None)
    after = given.chunks(result)
    assert after[b"zTXt"] == chunks[1][1]
    assert zlib.decompress(after[b"iCCP"].split(b"\0\0", 1)[1]) == large
    assert b"x" * 1_600_000 in after[b"iTXt"]


@pytest.mark.parametrize(
    "spoilt",
    [
        (b"gAMA", b"\0"),
        (b"cHRM", b"\0" * 5),
        (b"cICP", b"\1"),
        (b"iCCP", b"name\0\0no zlib"),
        (b"iCCP", b"no end"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        (b"iTXt", b"XML:com.adobe.xmp\0"),
        (b"zTXt", b"Raw profile type xmp\0\0no zlib"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n   4\nxyz"),
        (b"pHYs", b"\0"),
        (b"eXIf", b""),
        (b"tEXt", b"no end"),
        (b"zTXt", b"key\0\7"),
        (b"caBX", b"jumb"),
        (b"prVw", b"kept"),
    ],
    ids=lambda one: f"{one[0].decode()} {one[1][:9]!r}",
)
def test_spoilt_chunks_cost_no_picture(tmp_path: Path, spoilt: tuple[bytes, bytes]) -> None:
    kind, body = spoilt
    data = with_chunks(saved(picture(), "PNG"), spoilt)
    result, said = written(tmp_path, data, ".png")
    assert chunk(kind, body) in result or kind.decode() in said or kind in (b"pHYs", b"eXIf")
    crc = data.replace(chunk(*spoilt), chunk(*spoilt)[:-1] + bytes([chunk(*spoilt)[-1] ^ 1]))
    assert f"a damaged {kind.decode()} chunk" in written(tmp_path, crc, ".png")[1]


def test_texts_of_every_kind_stay(tmp_path: Path) -> None:
    """Behind the pixels, too, several of a name, in any writing."""
    first = [(b"tEXt", b"Author\0A"), (b"tEXt", b"Author\0B"), (b"zTXt", b"note\0\0" + zlib.compress(b"c"))]
    behind = b"Titel\0\0\0de\0Titel\0" + "Wölfe".encode()
    data = with_chunks(saved(picture(), "PNG"), *first)
    data = data[:-12] + chunk(b"iTXt", behind) + data[-12:]
    result, said = written(tmp_path, data, ".png", record=None)
    for one in (*first, (b"iTXt", behind)):
        assert chunk(*one) in result
    assert said == ""
    _, said = written(tmp_path, data, ".png", ".jpg")
    assert "the text Author, note, Titel" in said


def test_raw_profiles_of_png_are_what_they_hold(tmp_path: Path) -> None:
    exif = block((0x0112, 3, 1, b"\6\0"), (0x010F, 2, 4, b"Mak\0"))
    blocks = {b"exif": b"Exif\0\0" + exif, b"xmp": xmp(), b"8bim": given.RESOURCES}
    chunks = []
    for name, data in blocks.items():
        text = f"\n{name.decode()}\n{len(data):8}\n{data.hex()}\n".encode()
        chunks.append((b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(text)))
    read = loaded(tmp_path, with_chunks(saved(picture(), "PNG"), *chunks), ".png")
    assert read.size == (24, 40)
    assert b"a title of XMP" in read.metadata.xmp
    jpeg = codecs.encode(read, "JPEG", None)
    assert given.CAPTION in given.app13(jpeg)
    assert b"thumbnail of before" not in jpeg
    assert b"Mak\0" in jpeg


# TIFF and JPEG as they are coded


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_bigtiff_becomes_a_tiff(tmp_path: Path, bits: int, order: str) -> None:
    pixels = np.asarray(picture()).astype(f"u{bits // 8}")
    extra = [(271, "s", 0, "a maker", True), (33550, "d", 3, (0.5, 0.5, 0.0), True), (50000, "Q", 1, 7, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, bigtiff=True, byteorder=order, photometric="rgb", extratags=extra, metadata=None)
    result, said = written(tmp_path, buffer.getvalue(), ".tif")
    assert said == ""
    with tifffile.TiffFile(io.BytesIO(result)) as file:
        tags = file.pages[0].tags
        assert not file.is_bigtiff
        assert (file.pages[0].asarray() == pixels).all()
        assert (tags[271].value, tags[33550].value, tags[50000].value) == ("a maker", (0.5, 0.5, 0.0), 7)


def renumbered(jpeg: bytes, numbers: dict[int, int]) -> bytes:
    """A JPEG whose quantisation tables have other numbers."""
    parts = [jpeg[:2]]
    at = 2
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        body = bytearray(jpeg[at : at + 2 + length])
        if body[1] == 0xDB:
            for table in range(4, len(body), 65):
                body[table] = numbers[body[table]]
        elif body[1] == 0xC0:
            for component in range(body[9]):
                body[12 + 3 * component] = numbers[body[12 + 3 * component]]
        parts.append(bytes(body))
        at += 2 + length
    return b"".join([*parts, jpeg[at:]])


@pytest.mark.parametrize("numbers", [{0: 2, 1: 3}, {0: 1, 1: 0}, {0: 3, 1: 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tables_of_other_numbers_are_the_same_tables(tmp_path: Path, numbers: dict[int, int], mode: str) -> None:
    plain = saved(picture().convert(mode), "JPEG", quality=70)
    with Image.open(io.BytesIO(plain)) as image:
        tables, layers = image.quantization, image.layer
    result, said = written(tmp_path, renumbered(plain, numbers), ".jpg")
    with Image.open(io.BytesIO(result)) as image:
        assert (image.quantization, image.layer) == (tables, layers)
    assert said == ""


def test_a_lossless_jpeg_is_coded_at_the_best_quality(tmp_path: Path) -> None:
    import imagecodecs

    pixels = np.asarray(picture())
    result, said = written(tmp_path, imagecodecs.jpeg8_encode(pixels, lossless=True), ".jpg")
    after = np.asarray(Image.open(io.BytesIO(result)).convert("RGB"))
    assert np.abs(after.astype(int) - pixels).max() <= 4
    assert said == ""
