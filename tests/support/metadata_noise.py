"""Generates picture files with random metadata: blocks of every kind, valid and damaged, equal for equal seeds."""

from __future__ import annotations

import random
import struct
import zlib

import metadata_files as given
from picture_files import chunk

KINDS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF")
TAGS = (0x010E, 0x010F, 0x0112, 0x011A, 0x0128, 0x0131, 0x013B, 0x02BC, 0x8298, 0x83BB, 0x8649, 0x8769, 0x8825, 0x9213)
TAGS += (0x9214, 0x927C, 0xA002, 0xA003, 0xA005, 0xC4A5, 0xEA1C, 0xFFFF)
LENGTHS = (0, 1, 2, 3, 4, 5, 8, 12, 60, 300, 2**16, 2**31)
FRAGMENTS = (
    "<", ">", "&amp;", "&#0;", "<!-- -->", "<![CDATA[<]]>", "<!DOCTYPE x [<!ENTITY a 'b'>]>", "&a;", "\ufeff", "\0",
    "'", '"', "ü", "<rdf:li/>", "</rdf:RDF>", "<tiff:Orientation>6</tiff:Orientation>", " tiff:Orientation='8'",
    "<GCamera:MotionPhoto>1</GCamera:MotionPhoto>", " xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'",
    " hdrgm:Version='1'", "<xmp:Thumbnails>",
)  # fmt: skip
CHUNKS = (
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"iCCP",
    b"gAMA",
    b"cHRM",
    b"cICP",
    b"sRGB",
    b"pHYs",
    b"tIME",
    b"caBX",
    b"abCd",
)
KEYS = (
    b"Author",
    b"parameters",
    b"diffedit",
    b"XML:com.adobe.xmp",
    b"Raw profile type exif",
    b"Raw profile type 8bim",
    b"",
)


def exif(chance: random.Random) -> bytes:
    """Returns a random EXIF directory, some of whose values lie outside of the block."""
    order = chance.choice("<>")
    count = chance.randrange(9)
    entries = b"".join(
        struct.pack(f"{order}HHI", chance.choice(TAGS), chance.choice((*range(14), 16, 99)), chance.choice(LENGTHS))
        + (struct.pack(f"{order}I", chance.randrange(200)) if chance.random() < 0.6 else chance.randbytes(4))
        for _ in range(count)
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    return spoilt(chance, head + entries + bytes(4) + chance.randbytes(chance.choice((0, 40, 400))))


def xmp(chance: random.Random) -> bytes:
    packet = given.xmp(' exif:PixelXDimension="1"', used=("exif", "tiff", "GCamera", "xmp")).decode()
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(packet))
        packet = packet[:at] + chance.choice(FRAGMENTS) + packet[at:]
    coding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1"))
    return spoilt(chance, packet.encode(coding, "replace"))


def resources(chance: random.Random) -> bytes:
    numbers = (0x0404, 0x040C, 0x0425, 0x03ED, 0x07D1)
    blocks = [given.resource(chance.choice(numbers), chance.randbytes(chance.randrange(30))) for _ in range(3)]
    return spoilt(chance, b"".join(blocks))


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """Returns the data, half of the time truncated or with a few changed bytes."""
    if chance.random() < 0.5 or not data:
        return data
    changed = bytearray(data[: chance.randrange(len(data)) + 1] if chance.random() < 0.3 else data)
    for _ in range(chance.randrange(6)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def body(chance: random.Random, kind: bytes) -> bytes:
    """Returns the content of a PNG chunk."""
    key, text = chance.choice(KEYS), chance.choice((xmp, exif, resources))(chance)
    whole = {
        b"tEXt": key + b"\0" + chance.choice((text, b"\nexif\n  9\n" + text.hex().encode())),
        b"zTXt": key + b"\0\0" + zlib.compress(b"\nxmp\n  9\n" + text.hex().encode()),
        b"iTXt": key + bytes([0, packed := chance.randrange(2), 0, 0, 0]) + (zlib.compress(text) if packed else text),
        b"eXIf": exif(chance),
        b"iCCP": b"name\0\0" + zlib.compress(text),
        b"gAMA": struct.pack(">I", chance.choice((0, 1, 45455, 10**5, 2**32 - 1))),
        b"cHRM": struct.pack(">8I", *(chance.choice((0, 1, 31270, 64000, 2**32 - 1)) for _ in range(8))),
        b"cICP": bytes(chance.randrange(20) for _ in range(4)),
        b"pHYs": struct.pack(">IIB", chance.randrange(2**32), chance.randrange(9), chance.randrange(3)),
    }
    return spoilt(chance, whole.get(kind, text))


def picture(seed: int) -> tuple[str, bytes]:
    """Returns format and bytes of a picture file."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    image = given.picture()
    if kind == "PNG":
        chunks = [chunk(chosen, body(chance, chosen)) for chosen in chance.choices(CHUNKS, k=chance.randrange(1, 6))]
        data = given.saved(image, kind)
        return kind, data[:33] + b"".join(chunks) + data[33:]
    if kind == "JPEG":
        blocks = [(0xE1, b"Exif\0\0" + exif(chance)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(chance))]
        blocks += [
            (0xED, b"Photoshop 3.0\0" + resources(chance)),
            (0xFE, xmp(chance)),
            (0xE2, b"ICC_PROFILE\0" + exif(chance)),
        ]
        blocks += [(0xE2, b"MPF\0" + exif(chance)), (0xE0, b"JFIF\0" + chance.randbytes(9)), (0xE3, exif(chance))]
        segments = [given.segment(*block) for block in chance.sample(blocks, chance.randrange(1, 7))]
        behind = chance.choice((b"", bytes(9), chance.randbytes(50), given.saved(image, kind)))
        return kind, given.with_segments(given.saved(image, kind), *segments) + behind
    if kind == "TIFF":
        tags = {
            700: xmp(chance),
            34377: resources(chance),
            33723: chance.randbytes(9),
            34675: exif(chance),
            315: "\xfc",
        }
        chosen = dict(chance.sample(sorted(tags.items()), chance.randrange(5)))
        return kind, given.saved(image, kind, tiffinfo=chosen)
    options = {"xmp": xmp(chance), "exif": b"Exif\0\0" + exif(chance), "icc_profile": exif(chance)}
    if kind == "AVIF":  # of which Pillow reads what it writes
        options["exif"] = given.tags().tobytes()
    chosen = dict(chance.sample(sorted(options.items()), chance.randrange(4)))
    best = {"WEBP": {"lossless": True}}.get(kind, {"quality": 90})
    return kind, given.saved(image, kind, **chosen, **best)
