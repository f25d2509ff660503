"""Pictures of 16 bits a channel, which Pillow cannot hold: PNG and TIFF files <-> arrays, by imagecodecs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from diffedit_cli.metadata import PROFILE_TAG, XMP_TAG, Metadata

FORMATS = ("PNG", "TIFF")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by channels
BITS, SAMPLE_FORMAT, PHOTOMETRIC, EXTRA_SAMPLES, PLANES = 258, 339, 262, 338, 284
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PREMULTIPLIED, SEPARATE = 1, 2  # alpha


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file that Pillow opened, and did not load yet, has 16 bits a channel that `read` can read."""
    if image.format == "PNG":
        return ";16" in str(image.tile[0].args)
    if image.format != "TIFF":
        return False
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    kinds = {*zip(tags.get(BITS, ()), tags.get(SAMPLE_FORMAT, (1,) * 4), strict=False)}
    alpha = tags.get(EXTRA_SAMPLES, ()) in ((), (PREMULTIPLIED,), (SEPARATE,))
    return kinds == {(16, 1)} and alpha and tags.get(PHOTOMETRIC) in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)


def read(image: Image.Image, data: bytes) -> tuple[NDArray[Any], str]:
    """The file's pixels (H, W, C), upright, alpha not premultiplied, and mode. Raises what imagecodecs raises."""
    import imagecodecs  # a quarter of a second that only such pictures need pay

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
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels, MODES[pixels.shape[2]]


def _divided_by_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    colours, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:]
    divided = np.minimum(colours / np.maximum(alpha, 1) * 65535, 65535).round().astype(np.uint16)
    return np.concatenate([divided, alpha], axis=-1)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels (H, W, C) as they are to be seen, by EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def encode(pixels: NDArray[Any], mode: str, chosen: str, metadata: Metadata, record: Mapping[str, Any] | None) -> bytes:
    """The bytes of a PNG or (uncompressed) TIFF file."""
    return _png(pixels, metadata, record) if chosen == "PNG" else _tiff(pixels, mode, metadata, record)


def _png(pixels: NDArray[Any], metadata: Metadata, record: Mapping[str, Any] | None) -> bytes:
    """What imagecodecs makes of the pixels, with the metadata of a small picture that Pillow wrote."""
    import imagecodecs

    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG", **metadata.options("PNG", record))
    beside = [chunk for kind, chunk in _chunks(small.getvalue()) if kind not in (b"IHDR", b"IDAT", b"IEND")]
    laid = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    data = bytes(imagecodecs.png_encode(laid, level=1, strategy=3, filter=16))  # five times quicker, no larger
    (_, header), *rest = _chunks(data)
    return data[:8] + b"".join([header, *beside, *(chunk for _, chunk in rest)])


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole chunk, in order."""
    at = 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at:end]
        at = end


def _tiff(pixels: NDArray[Any], mode: str, metadata: Metadata, record: Mapping[str, Any] | None) -> bytes:
    """Pillow's own directory of tags, then the pixels as they are."""
    if mode == "LA":  # which Pillow cannot open
        pixels, mode = pixels[..., [0, 0, 0, 1]], "RGBA"
    height, width, channels = pixels.shape
    directory = metadata.directory(record)
    directory.endian = directory.endian or "<"
    data = pixels.astype(f"{directory.endian}u2").tobytes()
    tags = ExifTags.Base
    directory[tags.ImageWidth], directory[tags.ImageLength] = width, height
    directory[tags.BitsPerSample] = (16,) * channels
    directory[tags.Compression] = 1
    directory[tags.PhotometricInterpretation] = RGB if mode.startswith("RGB") else BLACK_IS_ZERO
    directory[tags.SamplesPerPixel], directory[tags.PlanarConfiguration] = channels, 1
    directory[tags.RowsPerStrip] = height
    directory[tags.StripOffsets], directory[tags.StripByteCounts] = 0, len(data)  # counted from the directory's end
    if mode.endswith("A"):
        directory[EXTRA_SAMPLES] = SEPARATE
    if metadata.xmp:
        directory[XMP_TAG] = metadata.xmp
    if metadata.icc_profile:
        directory[PROFILE_TAG] = metadata.icc_profile
    if metadata.dpi:
        directory[tags.XResolution], directory[tags.YResolution] = metadata.dpi
        directory[tags.ResolutionUnit] = 2  # inches
    return directory.tobytes().removeprefix(b"Exif\0\0") + data
