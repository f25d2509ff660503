"""Reads and writes PNG and TIFF files with 16 bits a channel, which Pillow cannot hold, with imagecodecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from diffedit_cli.images import exif
from diffedit_cli.images.exif import LONG, SHORT, Directory

FORMATS = ("PNG", "TIFF")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels
BITS, SAMPLE_FORMAT, PHOTOMETRIC, EXTRA_SAMPLES, PLANES = 258, 339, 262, 338, 284
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PREMULTIPLIED, SEPARATE = 1, 2  # kinds of alpha in EXTRA_SAMPLES


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Returns whether an image that Pillow opened but did not load has 16 bits a channel and is supported by `read`."""
    if image.format == "PNG":
        return ";16" in str(image.tile[0].args)
    if image.format != "TIFF":
        return False
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    kinds = {*zip(tags.get(BITS, ()), tags.get(SAMPLE_FORMAT, (1,) * 4), strict=False)}
    alpha = tags.get(EXTRA_SAMPLES, ()) in ((), (PREMULTIPLIED,), (SEPARATE,))
    return kinds == {(16, 1)} and alpha and tags.get(PHOTOMETRIC) in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)


def read(image: Image.Image, data: bytes, orientation: int) -> tuple[NDArray[Any], str]:
    """Returns upright uint16 pixels (H, W, C), alpha not premultiplied, and mode. Raises what imagecodecs raises."""
    import imagecodecs  # imported here: takes a quarter of a second, which only such pictures need

    decode = imagecodecs.png_decode if image.format == "PNG" else imagecodecs.tiff_decode
    pixels: NDArray[Any] = decode(data)
    if image.format == "TIFF":
        tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
        if pixels.ndim == 3 and tags.get(PLANES) == 2:
            pixels = pixels.transpose(1, 2, 0)
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            pixels = ~pixels
        if tags.get(EXTRA_SAMPLES) == (PREMULTIPLIED,):
            pixels = _divided_by_alpha(pixels)
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), orientation)
    return pixels, MODES[pixels.shape[2]]


def _divided_by_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    colours, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:]
    divided = np.minimum(colours / np.maximum(alpha, 1) * 65535, 65535).round().astype(np.uint16)
    return np.concatenate([divided, alpha], axis=-1)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Returns stored pixels (H, W, C) turned upright by EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def png(pixels: NDArray[Any]) -> bytes:
    """Returns the bytes of a PNG file with uint16 pixels (H, W, C)."""
    import imagecodecs

    laid = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return bytes(imagecodecs.png_encode(laid, level=1, strategy=3, filter=16))  # five times faster, not larger


def tiff(pixels: NDArray[Any], mode: str, beside: Directory) -> bytes:
    """Returns the bytes of an uncompressed TIFF file with uint16 pixels (H, W, C) and the tags of `beside`."""
    if mode == "LA":  # Pillow cannot open LA of 16 bits
        pixels, mode = pixels[..., [0, 0, 0, 1]], "RGBA"
    height, width, channels = pixels.shape
    data = pixels.astype(f"{beside.order}u2").tobytes()
    whole = Directory(beside.order, dict(beside.values), beside.inner)
    tags = ExifTags.Base
    whole.put(tags.ImageWidth, LONG, width)
    whole.put(tags.ImageLength, LONG, height)
    whole.put(BITS, SHORT, *(16,) * channels)
    whole.put(tags.Compression, SHORT, 1)
    whole.put(PHOTOMETRIC, SHORT, RGB if mode.startswith("RGB") else BLACK_IS_ZERO)
    whole.put(tags.StripOffsets, LONG, 8)
    whole.put(tags.SamplesPerPixel, SHORT, channels)
    whole.put(tags.RowsPerStrip, LONG, height)
    whole.put(tags.StripByteCounts, LONG, len(data))
    whole.put(PLANES, SHORT, 1)
    if mode.endswith("A"):
        whole.put(EXTRA_SAMPLES, SHORT, SEPARATE)
    return exif.encode(whole, data)
