"""Reads and writes the metadata chunks of PNG files.

Pillow is given the pixels alone, so that no text can make decoding fail.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
COLOURS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")
# Chunks on the old pixels, or when they last changed: they do not hold for edited pixels; dropped without a note.
PASSING = (b"tIME", b"bKGD", b"hIST", b"sBIT", b"sPLT", b"iDOT")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PACKET = b"XML:com.adobe.xmp"
RAW = b"Raw profile type "  # ImageMagick's key for a block of another format as hexadecimal text
HEADER_END, INCH = 33, 0.0254
LONGEST = 2**31 - 1

Chunk = tuple[bytes, bytes]


def read(data: bytes) -> tuple[bytes, RawMetadata]:
    """Returns the file with only the chunks that the pixels need, and the metadata in the others."""
    stored, kept, raw, at = RawMetadata(), [data[:8]], list[tuple[str, bytes]](), 8
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind in PIXELS:
            kept.append(data[at:end])
        elif zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            stored.note(f"a damaged {name(kind)} chunk")
        else:
            _sort(stored, kind, data[at + 8 : end - 4], raw)
        at = end
        if kind == b"IEND":
            break
    for part, block in raw:  # last, as PNG's own chunks take precedence
        stored.put(part, block)
    stored.note_rest(data[at:])
    return b"".join(kept), stored


def _sort(stored: RawMetadata, kind: bytes, body: bytes, raw: list[tuple[str, bytes]]) -> None:
    try:
        if kind == b"eXIf":
            stored.put("exif", body)
        elif kind == b"iCCP":
            stored.put("icc_profile", stored.unpack(body[body.index(b"\0") + 2 :]))
        elif kind == b"pHYs":
            if len(body) == 9 and body[8] == 1:
                stored.dpi = tuple(int.from_bytes(body[at : at + 4], "big") * INCH for at in (0, 4))  # type: ignore[assignment]
            elif body[:4] != body[4:8]:
                stored.note("its pixel aspect ratio")
        elif kind in COLOURS:
            if kind == b"cICP":
                stored.cicp = body[0], body[1]
            stored.colours.append((kind, body))
        elif kind in TEXTS:
            _sort_text(stored, kind, body, raw)
        elif kind[3:4].islower():  # PNG's safe-to-copy bit: the chunk holds for other pixels, too
            stored.texts.append((kind, body))
        elif kind not in PASSING:
            stored.note(f"the chunk {name(kind)}")
    except (ValueError, IndexError) as error:
        stored.note(f"a {name(kind)} chunk that cannot be read ({error})")


def _sort_text(stored: RawMetadata, kind: bytes, body: bytes, raw: list[tuple[str, bytes]]) -> None:
    """Stores a text chunk unchanged, or its EXIF, XMP or Photoshop resources if it holds any. Raises ValueError."""
    key = body.split(b"\0", 1)[0]
    if kind == b"iTXt" and key == PACKET:
        packed, _, rest = body[len(key) + 1], body[len(key) + 2], body[len(key) + 3 :]
        text = rest.split(b"\0", 2)[2]
        stored.put("xmp", stored.unpack(text) if packed else text)
        return
    if key.startswith(RAW) and kind != b"iTXt":
        block = _raw(stored.unpack(body[len(key) + 2 :]) if kind == b"zTXt" else body[len(key) + 1 :])
        about = key[len(RAW) :].lower()
        if block.startswith(b"Exif\0\0"):
            raw.append(("exif", block[6:]))
            return
        if about == b"xmp" or block.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            raw.append(("xmp", block.removeprefix(b"http://ns.adobe.com/xap/1.0/\0")))
            return
        if b"8BIM" in block[:16]:  # IPTC, as ImageMagick stores it
            stored.resources += block[block.index(b"8BIM") :]
            return
    stored.texts.append((kind, body))


def _raw(text: bytes) -> bytes:
    """Decodes a raw profile: a line with a name, a line with a length, and hexadecimal digits. Raises ValueError."""
    lines = text.strip(b"\n").split(b"\n", 2)
    return binascii.unhexlify(b"".join(lines[-1].split()))


def name(kind: bytes) -> str:
    return kind.decode("latin-1")


def key(text: bytes) -> str:
    """Returns the keyword of a text chunk's content."""
    return text.split(b"\0", 1)[0].decode("latin-1")


def with_chunks(data: bytes, chunks: Iterable[Chunk]) -> bytes:
    """Returns the file with chunks inserted after its header."""
    return data[:HEADER_END] + b"".join(_whole(*chunk) for chunk in chunks) + data[HEADER_END:]


def _whole(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def profile(icc_profile: bytes) -> Chunk:
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)


def resolution(dpi: tuple[float, float]) -> Chunk:
    across, down = (min(max(0, round(value / INCH)), LONGEST).to_bytes(4, "big") for value in dpi)
    return b"pHYs", across + down + b"\1"


def packet(xmp: bytes) -> Chunk:
    return b"iTXt", PACKET + b"\0" * 5 + xmp


def text(key: str, words: str) -> Chunk:
    """Returns a tEXt chunk for text in Latin-1, an iTXt chunk for other text."""
    try:
        return b"tEXt", key.encode("latin-1") + b"\0" + words.encode("latin-1")
    except UnicodeError:
        return b"iTXt", key.encode("latin-1") + b"\0" * 5 + words.encode("utf-8", "replace")


def short_texts(file: BinaryIO) -> Iterator[bytes]:
    """Yields the contents of all tEXt chunks below 16 MiB, without reading the pixels."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"tEXt" and length < 2**24:
            yield file.read(length)
            length = 0
        file.seek(length + 4, 1)
