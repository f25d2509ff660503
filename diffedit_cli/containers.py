"""Files of any format: the pixels, as Pillow is to see them, apart from all that lies beside them."""

from __future__ import annotations

from PIL import Image

from diffedit_cli import bmp, boxes, exif, jpeg, png
from diffedit_cli.stored import Stored


def apart(data: bytes) -> tuple[bytes, Stored]:
    """A file in which nothing beside the pixels can spoil them, as far as that is ours to say, and what lies there."""
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if data[4:8] in boxes.SIGNATURES:
        return data, boxes.read(data)
    if data.startswith(exif.BIG):
        return exif.encode(exif.read(data)[0], data[8:]), Stored()
    return data, bmp.read(data) if data.startswith(b"BM") else Stored()


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
