"""Pictures: read, turned upright, fitted to a model, composed with an edit, and written as they came."""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    ExifTags,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
)

from diffedit_cli import files
from diffedit_cli.errors import InputError, OutputError, UsageError

MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = None  # ours is checked instead, before any pixel is read

RECORD_KEY = "diffedit"  # of the PNG text chunk; GIF has a comment, other formats EXIF's ImageHistory
MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
WITHOUT_ALPHA = ("JPEG", "BMP")
MAX_ASPECT = 4.0  # of the fitted size: beyond, a picture is squeezed rather than cut into a sliver


@dataclass(frozen=True)
class Picture:
    """A picture as it came, upright. `image` is L, LA, RGB or RGBA, 8 bit; `name` its path, or `-`.

    `record` says how diffedit made it, if it did.
    """

    name: str
    image: Image.Image
    format: str
    save_options: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of mode, size and pixels: the same for the same picture in another file."""
        head = f"{self.image.mode} {self.image.width}x{self.image.height}\n".encode()
        return hashlib.sha256(head + self.image.tobytes()).hexdigest()

    def on_white(self) -> Image.Image:
        """In RGB, alpha laid on white."""
        image = self.image
        if image.mode in ("LA", "RGBA"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")

    def fitted(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """What a model sees: (3, height, width) in [-1, 1], resized to `size` (width, height), alpha laid on white."""
        image = self.on_white().resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1


def load(path: Path) -> Picture:
    """Reads a picture, or standard input for `-`. Raises InputError."""
    data = files.read(path, "picture")
    name = "standard input" if path == files.STANDARD_STREAM else str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture that can be read; use PNG, JPEG, WebP, TIFF or BMP.") from None
    except Exception as error:  # decoders raise anything on damaged data
        raise _damaged(name, error) from error
    return replace(from_image(image, name), name=str(path))


def from_image(image: Image.Image, name: str = "the picture") -> Picture:
    """A picture that Pillow opened or made; `name` is for messages. Raises InputError."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million; "
            "make it smaller first."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata are not the user's business
            notes = _notes(image, name)
            image.load()
            upright, record = ImageOps.exif_transpose(image), _record_in(image)
            options = _save_options(image)
    except Exception as error:  # decoders raise anything on damaged data
        raise _damaged(name, error) from error
    mode = MODES.get(image.mode)
    if mode in ("L", "RGB") and "transparency" in image.info:
        mode += "A"
    if mode is None:
        raise InputError(f"{name} has colour mode {image.mode}, which is not supported; convert it to 8-bit RGB.")
    written_as = "JPEG" if image.format == "MPO" else image.format or "PNG"  # MPO: a JPEG with more pictures behind
    return Picture(name, upright.convert(mode), written_as, options, notes, record)


def from_array(array: NDArray[Any], name: str = "the picture") -> Picture:
    """Grey (H, W), or (H, W, C) with 1 to 4 channels; bool, uint8, or float in [0, 1]. Raises InputError."""
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)) or not array.size:
        raise InputError(f"{name} is an array of shape {array.shape}; give one of (H, W) or (H, W, C), C up to 4.")
    if array.dtype != np.uint8:
        if array.dtype != np.bool_ and array.dtype.kind != "f":
            raise InputError(f"{name} is an array of {array.dtype}; give one of uint8, or of float from 0 to 1.")
        array = array.astype(np.float64)
        if not (array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{name} is an array of float that are not all from 0 to 1; scale them.")
        array = (array * 255).round().astype(np.uint8)
    return from_image(Image.fromarray(np.ascontiguousarray(array)), name)


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"The picture {name} is damaged ({error}); use an intact copy.")


def _notes(image: Image.Image, name: str) -> tuple[str, ...]:
    frames = getattr(image, "n_frames", 1)
    return (f"{name} has {frames} frames; only the first is used.",) if frames > 1 else ()


def _save_options(image: Image.Image) -> dict[str, Any]:
    """What goes back into the file beside the pixels. Orientation is applied to the pixels, so it is dropped."""
    exif = image.getexif()
    for tag in (ExifTags.Base.Orientation, *LAYOUT_TAGS):
        exif.pop(tag, None)
    if _parsed(exif.get(RECORD_TAG)):  # of an earlier edit: it does not tell how this one is made
        del exif[RECORD_TAG]
    options: dict[str, Any] = {"exif": exif}
    options |= {key: image.info[key] for key in ("icc_profile", "dpi") if image.info.get(key)}
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        options |= {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
    return options


def fitted_size(size: tuple[int, int], native: int, multiple: int) -> tuple[int, int]:
    """Width and height near native ** 2 pixels, in the picture's aspect ratio, both multiples of `multiple`."""
    aspect = min(max(size[0] / size[1], 1 / MAX_ASPECT), MAX_ASPECT)
    width, height = native * math.sqrt(aspect), native / math.sqrt(aspect)
    return tuple(max(multiple, round(side / multiple) * multiple) for side in (width, height))  # type: ignore[return-value]


def compose(picture: Picture, edited: NDArray[np.uint8], mask: NDArray[np.bool_], feather: float) -> Image.Image:
    """The picture with `edited` (h, w, 3) in place of its masked pixels (H, W); all others, and alpha, stay.

    `feather` is the width in pixels, inside the mask, over which the edit fades in.
    """
    original = picture.image
    patch = Image.fromarray(edited).resize(original.size, Image.Resampling.BICUBIC)
    weights = (fade(mask, feather) * 255).round().astype(np.uint8)
    colours = "RGB" if original.mode.startswith("RGB") else "L"
    result = Image.composite(patch.convert(colours), original.convert(colours), Image.fromarray(weights))
    if original.mode != colours:
        result.putalpha(original.getchannel("A"))
    return result


def fade(mask: NDArray[np.bool_], feather: float) -> NDArray[np.float32]:
    """1 inside the mask, 0 outside, rising over `feather` pixels behind its edge; thin regions still reach 1."""
    if mask.all():
        return np.ones(mask.shape, dtype=np.float32)
    from scipy import ndimage  # a third of a second that only an edit need pay

    depth = ndimage.distance_transform_edt(mask)
    regions, count = ndimage.label(mask)
    thickness = np.append(1.0, ndimage.maximum(depth, regions, np.arange(1, count + 1)))
    reach = np.clip(thickness, 1.0, max(1.0, feather))
    weights: NDArray[np.float32] = np.minimum(depth / reach[regions], 1).astype(np.float32)
    return weights


def output_format(path: Path, picture: Picture) -> str:
    """The format to write `path` in: by its extension, else the picture's own. Raises UsageError."""
    chosen = EXTENSIONS.get(path.suffix.lower())
    if chosen is None and path.suffix and path != files.STANDARD_STREAM:
        raise UsageError(f"{path} has no extension that can be written; use one of {', '.join(EXTENSIONS)}.")
    chosen = chosen or (picture.format if picture.format in EXTENSIONS.values() else "PNG")
    if chosen in WITHOUT_ALPHA and picture.image.mode in ("LA", "RGBA"):
        raise UsageError(f"{picture.name} has transparency, which {chosen} cannot hold; use -o with a .png name.")
    return chosen


def default_extension(picture: Picture) -> str:
    """The input's own extension where its format can be written, else `.png`."""
    suffix = Path(picture.name).suffix
    return suffix if EXTENSIONS.get(suffix.lower()) == picture.format else ".png"


def encode(image: Image.Image, picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> bytes:
    """The file's bytes in format `chosen`, with the picture's metadata and the record, if there is one."""
    options = dict(picture.save_options)
    exif = Image.Exif()
    exif.load(options.pop("exif").tobytes())
    if chosen == "PNG":
        options["pnginfo"] = png_record(record)
    elif record is not None:
        exif[RECORD_TAG] = json.dumps(record, sort_keys=True)
    if chosen == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif chosen == "TIFF" and not any(exif.get_ifd(inner) for inner in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)):
        options["compression"] = "tiff_lzw"  # its encoder would lose the inner tables
    elif chosen == "JPEG" and "qtables" not in options:
        options |= {"quality": 95, "subsampling": 0}
    if chosen != "JPEG":
        options = {key: value for key, value in options.items() if key not in ("qtables", "subsampling")}
    if len(exif) and chosen != "BMP":
        options["exif"] = exif
    buffer = io.BytesIO()
    try:
        image.save(buffer, chosen, **options)
    except (OSError, ValueError) as error:
        raise OutputError(f"The result cannot be written as {chosen} ({error}); choose .png with -o.") from error
    return buffer.getvalue()


def encode_png(pixels: NDArray[np.uint8], record: Mapping[str, Any]) -> bytes:
    """A PNG file's bytes: pixels (h, w, 3) and how they were made."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=png_record(record))
    return buffer.getvalue()


RECORD_TAG = 0x9213  # ImageHistory
# How the pixels lay in a TIFF that the picture came from: not how they lie in ours.
LAYOUT_TAGS = (
    *range(254, 267), 273, 277, 278, 279, 284, *range(290, 294), 317, *range(320, 342), 347, *range(512, 533),
)  # fmt: skip


def png_record(record: Mapping[str, Any] | None) -> PngImagePlugin.PngInfo:
    """A PNG text chunk that holds the record, or nothing."""
    info = PngImagePlugin.PngInfo()
    if record is not None:
        info.add_text(RECORD_KEY, json.dumps(record, sort_keys=True))
    return info


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a mask or an edited picture, or None where there is none that can be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            return _record_in(image)
    except Exception:  # a foreign or damaged file has no record
        return None


def _record_in(image: Image.Image) -> dict[str, Any] | None:
    texts = (image.info.get(RECORD_KEY), image.getexif().get(RECORD_TAG), image.info.get("comment"))
    return next(filter(None, map(_parsed, texts)), None)


def _parsed(text: Any) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, TypeError):
        return None
    return record if isinstance(record, dict) and record.get("tool") == RECORD_KEY else None
