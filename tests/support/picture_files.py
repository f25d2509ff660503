"""Reads and writes picture files without the program's code: by tifffile and imagecodecs, containers by Pillow."""

from __future__ import annotations

import io
import zlib
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

ORIENTATION = ExifTags.Base.Orientation
DPI = (240.0, 240.0)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{}" note="kept"/></x:xmpmeta>'
INKS = {"L": "minisblack", "LA": "minisblack", "RGB": "rgb", "RGBA": "rgb", "CMYK": "separated"}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
# Stored pixels (H, W, C) as they are to be seen
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def exif(orientation: int) -> Image.Exif:
    """Returns EXIF like a camera's: maker, exposure time, GPS position and orientation."""
    found = Image.Exif()
    found[ExifTags.Base.Make] = "Maker"
    found[ORIENTATION] = orientation
    found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.25
    found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    whole = Image.Exif()
    whole.load(found.tobytes())  # Pillow writes inner tables into a TIFF only when they were read
    return whole


def stored(mode: str, bits: int) -> NDArray[Any]:
    """Returns pixels (H, W, C): smooth gradients with noise, so that no two neighbours are equal."""
    rows, columns = np.mgrid[:20, :28] / 28
    smooth = np.stack([0.2 + 0.5 * rows, 0.7 - 0.4 * columns, 0.3 + 0.3 * rows * columns, rows], axis=-1)
    noisy = smooth + np.random.default_rng(3).uniform(0, 0.1, smooth.shape)
    chosen = {"LA": [0, 3]}.get(mode, range(CHANNELS[mode]))
    return np.ascontiguousarray(noisy[..., chosen] * (2**bits - 1)).astype(f"u{bits // 8}", order="C")


def written(pixels: NDArray[Any], kind: str, mode: str, orientation: int, profile: bytes | None) -> bytes:
    """Returns a file with all the metadata that its format can hold."""
    xmp = XMP.format(orientation).encode()
    if pixels.dtype == np.uint16:
        if kind == "PNG":
            return _deep_png(pixels, orientation, profile, xmp)
        return _deep_tiff(pixels, mode, orientation, profile, xmp)
    options: dict[str, Any] = {"dpi": DPI, "icc_profile": profile}
    tags = exif(orientation)
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif kind == "TIFF":
        tags[700] = xmp
    else:
        options["xmp"] = xmp
    best = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 92}, "AVIF": {"quality": 95}}
    buffer = io.BytesIO()
    image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    image.save(buffer, kind, exif=tags, **options, **best.get(kind, {}))
    return buffer.getvalue()


def _deep_tiff(pixels: NDArray[Any], mode: str, orientation: int, profile: bytes | None, xmp: bytes) -> bytes:
    tags = [(271, "s", 0, "Maker", True), (274, "H", 1, orientation, True), (700, "B", len(xmp), xmp, True)]
    more = {"extrasamples": ["unassalpha"]} if mode == "RGBA" else {}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        photometric=INKS[mode],
        compression="lzw",
        predictor=True,
        iccprofile=profile,
        resolution=DPI,
        resolutionunit="INCH",
        extratags=tags,
        metadata=None,
        software=False,
        **more,
    )
    return buffer.getvalue()


def _deep_png(pixels: NDArray[Any], orientation: int, profile: bytes | None, xmp: bytes) -> bytes:
    data = bytes(imagecodecs.png_encode(pixels))
    metre = round(DPI[0] / 0.0254).to_bytes(4, "big")
    added = chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile)) if profile else b""
    added += chunk(b"pHYs", metre + metre + b"\1") + chunk(b"eXIf", exif(orientation).tobytes()[6:])
    return data[:33] + added + chunk(b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + xmp) + data[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def read_pixels(data: bytes, kind: str) -> NDArray[Any]:
    """Returns the pixels (H, W, C) as stored in the file."""
    if kind == "TIFF":
        pixels = tifffile.imread(io.BytesIO(data))
    elif kind in ("HEIF", "JPEG"):  # which imagecodecs does not read everywhere, or CMYK only as it lies there
        pixels = np.asarray(Image.open(io.BytesIO(data)))
    else:
        pixels = getattr(imagecodecs, f"{kind.lower()}_decode")(data)
    return pixels.reshape(*pixels.shape[:2], -1)


def read_metadata(data: bytes, kind: str) -> dict[Any, Any]:
    """Returns EXIF with its sub-directories, XMP, colour profile and resolution, without tags on the pixel layout."""
    with Image.open(io.BytesIO(data)) as image:
        info, exif_data = image.info, (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    xmp = info.get("xmp")
    about = {"xmp": xmp, "profile": info.get("icc_profile"), "dpi": info.get("dpi")}
    if kind == "TIFF" or exif_data:
        with tifffile.TiffFile(io.BytesIO(data if kind == "TIFF" else exif_data)) as file:
            tags = {tag.code: tag.value for tag in file.pages[0].tags}
        about |= {code: tags.get(code) for code in (271, 274, 34665, 34853, 0x9213)}
    return about
