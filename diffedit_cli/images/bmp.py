"""BMP files with transparency or a colour profile (BITMAPV5HEADER), of which Pillow writes neither."""

from __future__ import annotations

import struct

from PIL import Image

from diffedit_cli.images.raw_metadata import RawMetadata

HEADER, EMBEDDED, SRGB, IMAGES = 124, b"DEBM", b"BGRs", 4
FILE_HEADER, SPACE_AT, PROFILE_AT = 14, 70, 126
RAW, BITFIELDS = 0, 3
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
INCHES_A_METRE = 1 / 0.0254


def read(data: bytes) -> RawMetadata:
    """The colour profile, if there is one."""
    if len(data) < FILE_HEADER + HEADER or data[SPACE_AT : SPACE_AT + 4] != EMBEDDED:
        return RawMetadata()
    if struct.unpack_from("<I", data, FILE_HEADER)[0] != HEADER:
        return RawMetadata()
    start, length = struct.unpack_from("<II", data, PROFILE_AT)
    return RawMetadata(icc_profile=data[FILE_HEADER + start :][:length])


def encode(image: Image.Image, profile: bytes, dpi: tuple[float, float] | None) -> bytes:
    """The bytes of an RGB or RGBA picture."""
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
