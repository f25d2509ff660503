"""Picture files: every format, mode and depth in, and out again as it came."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from diffedit_cli import colour, deep, files, metadata
from diffedit_cli.errors import InputError, OutputError, UsageError
from diffedit_cli.images import Picture, Pixels

MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = None  # ours is checked instead, before any pixel is read

MODES = {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK")} | {"1": "L", "P": "RGB", "PA": "RGBA"}
EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
WITHOUT_ALPHA = ("JPEG", "BMP")
WITH_CMYK = ("JPEG", "TIFF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_NEEDS = "HEIC needs the library pillow-heif; install it with: pip install 'diffedit-cli[heic]'."


def load(path: Path) -> Picture:
    """Reads a picture, or standard input for `-`. Raises InputError."""
    data = files.read(path, "picture")
    name = "standard input" if path == files.STANDARD_STREAM else str(path)
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and not _enable_heic():
        raise InputError(f"{name} cannot be read: {HEIC_NEEDS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            is_deep = deep.is_deep(image)
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture that can be read; use PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC."
        ) from None
    except Exception as error:  # decoders raise anything on damaged data
        raise _damaged(name, error) from error
    return replace(_picture(image, name, data if is_deep else None), name=str(path))


def _enable_heic() -> bool:
    """Lets Pillow read and write HEIC; false where the library for it is missing."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def from_image(image: Image.Image, name: str = "the picture") -> Picture:
    """A picture that Pillow opened or made; `name` is for messages. Raises InputError."""
    return _picture(image, name, None)


def _picture(image: Image.Image, name: str, data: bytes | None) -> Picture:
    """`data` is the file of a picture of 16 bits, which Pillow would read as one of 8."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million; "
            "make it smaller first."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata are not the user's business
            notes = _notes(image, name)
            notes += () if data is not None else _depth_note(image, name)
            pixels, mode = _read(image) if data is None else deep.read(image, data)
            beside, record = metadata.read(image), metadata.record_in(image)
    except Exception as error:  # decoders raise anything on damaged data
        raise _damaged(name, error) from error
    if pixels is None:
        raise InputError(f"{name} has colour mode {image.mode}, which is not supported; convert it to RGB.")
    colours = colour.SRGB
    if beside.icc_profile:
        try:
            colours = colour.of_profile(beside.icc_profile, mode.removesuffix("A"))
        except ValueError as error:
            notes += (
                f"{name} has a colour profile that cannot be used ({error}); its colours are taken as sRGB, and the "
                "profile is kept.",
            )
    written_as = "JPEG" if image.format == "MPO" else image.format or "PNG"  # MPO: a JPEG with more pictures behind
    return Picture(name, pixels, mode, written_as, beside, colours, notes, record)


def _read(image: Image.Image) -> tuple[Pixels | None, str]:
    """Upright pixels (H, W, C) and mode of an opened picture; no pixels where the mode is not supported."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(upright).astype(np.uint16)[..., None], "L"
    mode = MODES.get(image.mode)
    if mode is None:
        return None, image.mode
    if mode in ("L", "RGB") and "transparency" in image.info:
        mode += "A"
    pixels = np.asarray(upright.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1), mode


def from_array(array: NDArray[Any], name: str = "the picture") -> Picture:
    """Grey (H, W), or (H, W, C) with 1 to 4 channels; bool, uint8, uint16, or float in [0, 1]. Raises InputError."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in deep.MODES or not array.size:
        raise InputError(f"{name} is an array of shape {array.shape}; give one of (H, W) or (H, W, C), C up to 4.")
    if array.dtype not in (np.uint8, np.uint16):
        if array.dtype != np.bool_ and array.dtype.kind != "f":
            raise InputError(
                f"{name} is an array of {array.dtype}; give one of uint8, of uint16, or of float from 0 to 1."
            )
        array = array.astype(np.float64)
        if not (array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{name} is an array of float that are not all from 0 to 1; scale them.")
        array = (array * 255).round().astype(np.uint8)
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels; make it smaller first.")
    return Picture(name, np.ascontiguousarray(array), deep.MODES[array.shape[2]], "PNG")


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"The picture {name} is damaged ({error}); use an intact copy.")


def _notes(image: Image.Image, name: str) -> tuple[str, ...]:
    frames = getattr(image, "n_frames", 1)
    return (f"{name} has {frames} frames; only the first is used.",) if frames > 1 else ()


def _depth_note(image: Image.Image, name: str) -> tuple[str, ...]:
    """For a picture that Pillow reduced to 8 bits."""
    stated = getattr(image, "tag_v2", {}).get(deep.BITS, (image.info.get("bit_depth", 8),))
    if max(stated) <= 8 or image.mode.startswith("I;16"):
        return ()
    return (f"{name} has {max(stated)} bits a channel, of which 8 are kept.",)


def output_format(path: Path, picture: Picture) -> str:
    """The format to write `path` in: by its extension, else the picture's own. Raises UsageError."""
    chosen = EXTENSIONS.get(path.suffix.lower())
    if chosen is None and path.suffix and path != files.STANDARD_STREAM:
        raise UsageError(f"{path} has no extension that can be written; use one of {', '.join(EXTENSIONS)}.")
    chosen = chosen or (picture.format if picture.format in EXTENSIONS.values() else "PNG")
    if chosen in WITHOUT_ALPHA and picture.has_alpha:
        raise UsageError(f"{picture.name} has transparency, which {chosen} cannot hold; use -o with a .png name.")
    if chosen not in WITH_CMYK and picture.mode == "CMYK":
        raise UsageError(f"{picture.name} is CMYK, which {chosen} cannot hold; use -o with a .tif or .jpg name.")
    if chosen == "HEIF" and not _enable_heic():
        raise UsageError(f"{path} cannot be written: {HEIC_NEEDS}")
    return chosen


def default_extension(picture: Picture) -> str:
    """The input's own extension where its format can be written, else `.png`."""
    suffix = Path(picture.name).suffix
    return suffix if EXTENSIONS.get(suffix.lower()) == picture.format else ".png"


def encode(picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> bytes:
    """The file's bytes in format `chosen`, with the picture's metadata and the record, if there is one.

    PNG, WebP, TIFF and BMP hold the very pixels, of 16 bits only PNG and TIFF; JPEG is coded as the input was. AVIF
    and HEIC are written at their highest quality, which is not lossless.
    """
    buffer = io.BytesIO()
    try:
        if picture.is_deep and chosen in deep.FORMATS:
            return deep.encode(picture.pixels, picture.mode, chosen, picture.metadata, record)
        picture.image.save(buffer, chosen, **_options(picture, chosen, record))
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"The result cannot be written as {chosen} ({error}); choose .png with -o.") from error
    return buffer.getvalue()


def _options(picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """For Pillow's `save`."""
    options = picture.metadata.options(chosen, record)
    coding = picture.metadata.coding if picture.format == chosen else {}
    if chosen == "JPEG":
        options |= coding or {"quality": 95, "subsampling": 0}
    elif chosen == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif chosen == "TIFF" and not any(
        options.get("exif", Image.Exif()).get_ifd(inner) for inner in metadata.INNER_TABLES
    ):
        options["compression"] = "tiff_lzw"  # its encoder would lose the inner tables
    elif chosen == "AVIF":
        options |= {"quality": 100, "subsampling": "4:4:4" if picture.mode.startswith("RGB") else "4:0:0"}
    elif chosen == "HEIF":
        options |= {"quality": 100, "chroma": coding.get("chroma", 444)}
    return options


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a mask or an edited picture, or None where there is none that can be read."""
    if EXTENSIONS.get(path.suffix.lower()) == "HEIF":
        _enable_heic()
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            return metadata.record_in(image)
    except Exception:  # a foreign or damaged file has no record
        return None


def encode_png(pixels: NDArray[np.uint8], record: Mapping[str, Any]) -> bytes:
    """A PNG file's bytes: pixels (h, w, 3) and how they were made."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=metadata.png_record(record))
    return buffer.getvalue()
