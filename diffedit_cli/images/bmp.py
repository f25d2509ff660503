"""Reads metadata of BMP files; writes BMP with transparency or a profile (BITMAPV5HEADER), which Pillow does not."""

from __future__ import annotations

import struct

from PIL import Image

from diffedit_cli.images.raw_metadata import RawMetadata

FIRST, SHORT, LONG = 12, 40, (52, 56, 64, 108, 124)  # header sizes in bytes: OS/2, Windows, later versions
HEADER, EMBEDDED, SRGB, IMAGES = 124, b"DEBM", b"BGRs", 4
FILE_HEADER, SPACE_AT, PROFILE_AT = 14, 70, 126
RAW, BITFIELDS, WIDER_BITFIELDS = 0, 3, 6
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
INCHES_A_METRE = 1 / 0.0254


def is_bare(data: bytes) -> bool:
    """Returns whether a file begins with the picture's header, without a file header, as a DIB does."""
    return len(data) > FIRST and struct.unpack_from("<I", data)[0] in (FIRST, SHORT, *LONG)


def read(data: bytes) -> RawMetadata:
    """Returns the embedded colour profile, if any, and a note of bytes after the picture."""
    stored, base = RawMetadata(), 0 if is_bare(data) else FILE_HEADER
    try:
        end = _end(data, base)
        if struct.unpack_from("<I", data, base)[0] == HEADER:
            start, length = struct.unpack_from("<II", data, base + PROFILE_AT - FILE_HEADER)
            end = max(end, base + start + length if length else 0)
            if base and data[SPACE_AT : SPACE_AT + 4] == EMBEDDED:
                stored.icc_profile = data[base + start :][:length]
        stored.note_rest(data[end:])
    except struct.error:  # the file is truncated
        pass
    return stored


def _end(data: bytes, base: int) -> int:
    """Returns the offset of the end of the pixels; the picture's header is at `base`."""
    (header,) = struct.unpack_from("<I", data, base)
    if header == FIRST:
        width, height, _, bits = struct.unpack_from("<HHHH", data, base + 4)
        packing, size, colours = RAW, 0, 0
    else:
        width, height, _, bits, packing, size, _, _, colours = struct.unpack_from("<iiHHIIiiI", data, base + 4)
    table = (3 if header == FIRST else 4) * (colours or 1 << bits) if bits <= 8 else 0
    masks = 12 if packing == BITFIELDS and header == SHORT else 0
    start = struct.unpack_from("<I", data, 10)[0] if base else header + masks + table
    if base and start == base + header:  # some programs leave the colour table out of the offset
        start += table
    if packing in (RAW, BITFIELDS, WIDER_BITFIELDS):
        size = (width * bits + 31) // 32 * 4 * abs(height)
    return start + size if size else len(data)


def encode(image: Image.Image, profile: bytes, dpi: tuple[float, float] | None) -> bytes:
    """Returns a BMP file's bytes for an RGB or RGBA image; `dpi` is horizontal and vertical dots per inch."""
    layout, bits = ("BGRA", 32) if image.mode == "RGBA" else ("BGR", 24)
    pixels = image.tobytes("raw", layout, (image.width * bits // 8 + 3) & ~3, -1)
    start = FILE_HEADER + HEADER
    metres = [round(value * INCHES_A_METRE) for value in dpi or (0, 0)]
    packing, masks = (BITFIELDS, MASKS) if bits == 32 else (RAW, (0, 0, 0, 0))
    size = start + len(pixels) + len(profile)
    head = struct.pack("<2sIHHI", b"BM", size, 0, 0, start)
    head += struct.pack("<IiiHHII", HEADER, image.width, image.height, 1, bits, packing, len(pixels))
    head += struct.pack("<iiII4I4s48x", *metres, 0, 0, *masks, EMBEDDED if profile else SRGB)
    head += struct.pack("<IIII", IMAGES, HEADER + len(pixels) if profile else 0, len(profile), 0)
    return head + pixels + profile
