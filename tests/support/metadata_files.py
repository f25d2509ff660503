"""Writes picture files with every kind of metadata, and reads it back, by struct and Pillow alone."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import icc
import pillow_heif
from picture_files import chunk, exif
from PIL import Image, PngImagePlugin

from diffedit_cli.images import codecs
from diffedit_cli.images.pictures import Picture

pillow_heif.register_heif_opener()

SUFFIX = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif"}
SUFFIX |= {"HEIF": ".heic"}
LOSSLESS = ("PNG", "TIFF", "WEBP", "BMP")
RECORD = {"tool": "diffedit", "kind": "edit", "from": "cat"}
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
SECRETS = ("a maker", "a painter", "a caption of IPTC", "a remark", "a title of XMP")
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0" + b"7C10" * 8 + struct.pack(">II", 9, 0) + b"<further>"


def xmp(attributes: str = "", elements: str = "", *, used: tuple[str, ...] = ()) -> bytes:
    """Returns a packet with a title, these attributes and elements, and declarations of the namespaces used."""
    spaces = "".join(f' xmlns:{name}="{SPACES[name]}"' for name in ("dc", *used))
    inside = f'<rdf:Description rdf:about=""{spaces} dc:title="a title of XMP"{attributes}>{elements}</rdf:Description>'
    body = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{inside}</rdf:RDF></x:xmpmeta>'
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{body}<?xpacket end="w"?>'.encode()


def resource(number: int, content: bytes) -> bytes:
    """Returns a Photoshop resource block."""
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + b"\0" * (len(content) % 2)


CAPTION = b"a caption of IPTC"
IPTC = b"\x1c\x02\x78" + struct.pack(">H", len(CAPTION)) + CAPTION
RESOURCES = resource(0x0404, IPTC) + resource(0x040C, b"thumbnail of before") + resource(0x0425, b"d" * 16)


def picture() -> Image.Image:
    """Returns a picture of many colours."""
    ramp = Image.linear_gradient("L").resize((40, 24))
    across = ramp.transpose(Image.Transpose.ROTATE_90).resize((40, 24))
    return Image.merge("RGB", (ramp, across, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    return png[:33] + b"".join(chunk(*one) for one in chunks) + png[33:]


def tags() -> Image.Exif:
    found = exif(1)
    found[271] = "a maker"
    return found


def full(kind: str) -> bytes:
    """Returns a file of this format with all the metadata that programs usually write."""
    options: dict[str, Any] = {"icc_profile": icc.WIDE, "exif": tags()}
    if kind in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options["xmp"] = xmp()
    if kind in ("JPEG", "PNG", "TIFF", "BMP"):
        options["dpi"] = (240, 240)
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp().decode())
        options["pnginfo"].add_text("Author", "a painter")
        options["pnginfo"].add_text("parameters", "of a painter", zip=True)
    elif kind == "TIFF":
        options["exif"][700] = xmp()
        options["exif"][33723] = IPTC
        options["exif"][34377] = RESOURCES
    elif kind == "BMP":
        options = {"dpi": options["dpi"]}
    best = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    data = saved(picture(), kind, **options, **best)
    if kind == "JPEG":
        data = with_segments(data, segment(0xED, b"Photoshop 3.0\0" + RESOURCES), segment(0xFE, b"a remark"))
    return data


def held(data: bytes) -> dict[str, Any]:
    """Returns whether a file holds each kind of metadata."""
    with Image.open(io.BytesIO(data)) as image:
        info, directory, kind = dict(image.info), image.getexif(), image.format
        image.load()
        texts = getattr(image, "text", {})
    blocks = app13(data) if kind == "JPEG" else directory.get(34377, b"")
    of_tiff = directory.get(33723, b"")
    return {
        "exif": directory.get(271) == "a maker",
        "xmp": b"a title of XMP" in (info.get("xmp") or b""),
        "colour profile": (bmp_profile(data) if kind == "BMP" else info.get("icc_profile")) == icc.WIDE,
        "resolution": round((info.get("dpi") or (directory.get(282, 0),))[0]) == 240,
        "text": texts.get("Author") == "a painter" and texts.get("parameters") == "of a painter",
        "iptc": CAPTION in blocks or CAPTION in of_tiff,
        "comment": b"a remark" in comments(data) or texts.get("Comment") == "a remark",
    }


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 2
    while jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        found.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def app13(jpeg: bytes) -> bytes:
    return b"".join(body for marker, body in segments(jpeg) if marker == 0xED)


def comments(data: bytes) -> list[bytes]:
    return [body for marker, body in segments(data) if marker == 0xFE] if data[:2] == b"\xff\xd8" else []


def bmp_profile(data: bytes) -> bytes:
    start, length = struct.unpack_from("<II", data, 126)
    return data[14 + start :][:length] if data[70:74] == b"DEBM" else b""


def chunks(png: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        found[png[at + 4 : at + 8]] = png[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def packet(data: bytes) -> bytes:
    """Returns a file's XMP packet."""
    with Image.open(io.BytesIO(data)) as image:
        found = image.info.get("xmp") or image.getexif().get(700) or b""
    return found.encode() if isinstance(found, str) else bytes(found)


def packed_icc(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"profile\0\0" + zlib.compress(profile)


def bmp(transparent: bool, profile: bytes = b"") -> bytes:
    """Returns a BMP of 32 bits a pixel, with the header of newer programs (BITMAPV5HEADER)."""
    image = picture().convert("RGBA")
    if transparent:
        image.putalpha(image.getchannel("R"))
    pixels = image.tobytes("raw", "BGRA", 0, -1)
    head = struct.pack("<IiiHHII", 124, *image.size, 1, 32, 3, len(pixels)) + struct.pack("<iiII", 0, 0, 0, 0)
    head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + (b"DEBM" if profile else b"BGRs") + bytes(48)
    head += struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    return struct.pack("<2sIHHI", b"BM", 138 + len(pixels) + len(profile), 0, 0, 138) + head + pixels + profile


def loaded(folder: Path, data: bytes, suffix: str) -> Picture:
    (folder / f"given{suffix}").write_bytes(data)
    return codecs.load(folder / f"given{suffix}")


def written(folder: Path, data: bytes, suffix: str, to: str = "", record: Any = RECORD) -> tuple[bytes, str]:
    """Returns the file that an edit without changes would write, and the warnings in one string."""
    picture = loaded(folder, data, suffix)
    chosen = codecs.output_format(Path(f"x{to or codecs.default_extension(picture)}"), picture)
    result = codecs.encode(picture, chosen, record)
    if chosen in LOSSLESS and not picture.is_deep and picture.mode != "CMYK":
        after = loaded(folder, result, SUFFIX[chosen])
        if after.mode == picture.mode:
            assert (after.pixels == picture.pixels).all()
        else:
            assert not picture.is_transparent
            assert (after.pixels == picture.pixels[..., : after.pixels.shape[2]]).all()
    return result, " ".join(codecs.fit_to_format(picture, chosen).warnings)
