"""Files of any format: the pixels, as Pillow is to see them, apart from all that lies beside them."""

from __future__ import annotations

from PIL import Image

from diffedit_cli.images import bmp, boxes, exif, jpeg, png
from diffedit_cli.images.raw_metadata import RawMetadata

WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")
GIF_MARKS = {
    b"!\xff\x0bICCRGBG1012": "its colour profile, which a GIF's reader does not heed",
    b"!\xff\x0bXMP DataXMP": "its XMP",
}


def take_apart(data: bytes) -> tuple[bytes, RawMetadata]:
    """A file in which nothing beside the pixels can spoil them, as far as that is ours to say, and what lies there."""
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if data[4:8] in boxes.SIGNATURES:
        return data, boxes.read(data)
    if data.startswith(exif.BIG):
        return exif.encode(exif.read(data)[0], data[8:]), RawMetadata()
    if data.startswith(b"BM"):
        return data, bmp.read(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, RawMetadata(left_out=_beside_webp(data))
    if data.startswith(b"GIF8"):
        return data, RawMetadata(left_out=[words for mark, words in GIF_MARKS.items() if mark in data])
    return data, RawMetadata()


def _beside_webp(data: bytes) -> list[str]:
    """What chunks hold that Pillow does not tell of, in words."""
    found, at = [], 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"C2PA":
            found.append("its content credentials")
        elif kind not in WEBP_CHUNKS:
            found.append(f"its {kind.decode('ascii', 'replace').strip()} data")
        at += 8 + length + length % 2
    return found


def file_of(image: Image.Image) -> bytes | None:
    """Of a picture whose pixels Pillow did not read yet."""
    file = getattr(image, "fp", None)
    if file is None or file.closed:
        return None
    at = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(at)
    return data
