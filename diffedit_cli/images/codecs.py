"""Reads picture files of every supported format, mode and bit depth, and writes them in the form they were read."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from diffedit_cli.errors import DeviceError, DiffEditError, InputError, OutputError, UsageError
from diffedit_cli.images import bmp, boxes, colour, containers, exif, metadata, png, sixteen_bit
from diffedit_cli.images.metadata import Metadata
from diffedit_cli.images.pictures import Picture, Pixels
from diffedit_cli.images.raw_metadata import RawMetadata
from diffedit_cli.storage import files
from diffedit_cli.storage.files import MAX_PIXELS

LARGEST_PIXEL, LARGEST_REST = 8, 2**26  # most bytes in a file: per pixel (4 channels of 16 bits), and of metadata
STRIP = 256  # rows copied at a time
Image.MAX_IMAGE_PIXELS = None  # replaced by diffedit's own limit, checked before any pixel is read
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # diffedit reports itself, once, what is wrong with a file

# A subset of Pillow's formats: others are no raster pictures, run external programs or have poorly maintained decoders.
READABLE = ("PNG", "JPEG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

MODES = {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK")} | {"1": "L", "P": "RGB", "PA": "RGBA"}
_WRITTEN = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
EXTENSIONS = {extension: written for written, extensions in _WRITTEN.items() for extension in extensions}
READ_ONLY = (
    ".gif", ".apng", ".mpo", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".avifs", ".heics", ".heifs",
)  # fmt: skip
"""Extensions that are read only; edits of such pictures are written as PNG."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
WITHOUT_ALPHA = ("JPEG", "BMP")
WITH_CMYK = ("JPEG", "TIFF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_NEEDS = "HEIC needs the library pillow-heif; install it with: pip install 'diffedit-cli[heic]'."


def load(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture file, or standard input for `-`. Raises InputError, or DeviceError if memory is short."""
    data = files.read(path, "picture", most=LARGEST_PIXEL * max_pixels + LARGEST_REST)
    name = "standard input" if path == files.STANDARD_STREAM else str(path)
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and not _enable_heic():
        raise InputError(f"{name} cannot be read: {HEIC_NEEDS}")
    with _reading(name):
        pixels, stored = containers.take_apart(data)
        image, stored = _opened(pixels, stored, name, max_pixels)
        is_deep = sixteen_bit.is_deep(image)
    return replace(_picture(image, name, stored, pixels, is_deep, max_pixels), name=str(path))


def _opened(data: bytes, stored: RawMetadata, name: str, max_pixels: int) -> tuple[ImageFile.ImageFile, RawMetadata]:
    """Opens a picture without decoding it, except AVIF, whose decoder rejects unreadable EXIF.

    After a failure an AVIF or HEIC file is opened again with its EXIF hidden.
    """
    try:
        image = open_picture(io.BytesIO(data))
        if image.format == "AVIF":
            _check_size(image.size, name, max_pixels)
            image.load()
    except DiffEditError:
        raise
    except Exception:
        if data[4:8] != b"ftyp" or (without := boxes.without_exif(data)) == data:
            raise
        stored = replace(stored, left_out=[*stored.left_out, "its EXIF, which cannot be read"])
        return open_picture(io.BytesIO(without)), stored
    return image, stored


def open_picture(file: Path | io.BytesIO) -> ImageFile.ImageFile:
    """Opens a picture without reading its pixels. Raises what Pillow raises."""
    return Image.open(file, formats=[*READABLE, "HEIF"] if "HEIF" in Image.OPEN else READABLE)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns the arbitrary exceptions of decoders into InputError or DeviceError, and hides warnings of odd metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DiffEditError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture that can be read; use PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC."
        ) from None
    except MemoryError:
        raise DeviceError(f"There is too little memory to read the picture {name}; make it smaller first.") from None
    except Exception as error:
        raise InputError(f"The picture {name} is damaged ({error}); use an intact copy.") from error


def _enable_heic() -> bool:
    """Registers HEIC with Pillow; returns False if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def from_image(image: Image.Image, name: str = "the picture", max_pixels: int = MAX_PIXELS) -> Picture:
    """Converts a Pillow image; `name` is used in messages. Raises InputError, or DeviceError if memory is short."""
    with _reading(name):
        data = containers.file_of(image)
        stored = containers.take_apart(data)[1] if data else RawMetadata()
    return _picture(image, name, stored, data, False, max_pixels)


def _picture(
    image: Image.Image, name: str, stored: RawMetadata, data: bytes | None, is_deep: bool, max_pixels: int
) -> Picture:
    """Builds the Picture of an opened image; `data`, its file if at hand, yields the 16 bits that Pillow cuts to 8."""
    _check_size(image.size, name, max_pixels)
    with _reading(name):
        notes = _notes(image, name, stored)
        notes += () if is_deep else _depth_note(image, name)
        directory, lost = metadata.directory_of(image, stored, data)
        record, turned = metadata.record_in(image, directory, stored), metadata.orientation(directory)
        pixels, mode = sixteen_bit.read(image, data, turned) if data and is_deep else _read(image, turned)
        if pixels is None:
            raise InputError(f"{name} has colour mode {image.mode}, which is not supported; convert it to RGB.")
        beside = metadata.read(image, stored, directory, lost, pixels.shape[1::-1])
        beside, colours, more = _coloured(beside, mode, name)
    written_as = "JPEG" if image.format == "MPO" else image.format or "PNG"  # MPO: a JPEG followed by more pictures
    return Picture(name, pixels, mode, written_as, beside, colours, notes + more, record)


def _coloured(beside: Metadata, mode: str, name: str) -> tuple[Metadata, colour.Colours, tuple[str, ...]]:
    """Returns metadata, colours and warnings for the colours that a file states, by code points or by a profile."""
    plain, notes = mode.removesuffix("A"), tuple[str, ...]()
    try:
        stated = colour.stated_profile(beside.cicp, beside.colours, bool(beside.icc_profile), plain)
        beside = replace(beside, stated=stated)
    except ValueError as error:
        said = f"{name} states its colours by code points that cannot be used ({error}); they are read as sRGB, and "
        return replace(beside, unconverted=str(error)), colour.SRGB, (said + "the code points are kept in the result.",)
    if profile := beside.stated or beside.icc_profile:
        try:
            return beside, colour.of_profile(profile, plain), ()
        except ValueError as error:
            notes = (
                f"{name} has a colour profile that cannot be used ({error}); its colours are read as sRGB, and the "
                "profile is kept in the result.",
            )
    return beside, colour.SRGB, notes


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    if math.prod(size) > max_pixels:
        raise InputError(
            f"{name} has {size[0]} x {size[1]} pixels, more than {max_pixels / 10**6:g} million; "
            "make it smaller first, or raise --max-pixels."
        )


def _read(image: Image.Image, turned: int) -> tuple[Pixels | None, str]:
    """Returns upright pixels (H, W, C), None for an unsupported mode, and the mode; `turned` is EXIF's orientation."""
    image.load()
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        turned = 1  # Pillow has already turned it
    upright = image.transpose(TURNS[turned]) if turned in TURNS else image
    if image.mode.startswith("I;16"):
        return np.asarray(upright).astype(np.uint16)[..., None], "L"
    mode = MODES.get(image.mode)
    if mode is None:
        return None, image.mode
    if mode in ("L", "RGB") and "transparency" in image.info:
        mode += "A"
    return _array(upright if upright.mode == mode else upright.convert(mode)), mode


def _array(image: Image.Image) -> NDArray[np.uint8]:
    """Returns an image's pixels (H, W, C), copied in strips: copied at once they would be in memory three times."""
    pixels = np.empty((image.height, image.width, len(image.getbands())), dtype=np.uint8)
    for top in range(0, image.height, STRIP):
        part = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        pixels[top : top + STRIP] = np.asarray(part).reshape(part.height, part.width, -1)
    return pixels


def from_array(array: NDArray[Any], name: str = "the picture", max_pixels: int = MAX_PIXELS) -> Picture:
    """Converts an array (H, W) or (H, W, C), C <= 4, of bool, uint8, uint16 or float in [0, 1]. Raises InputError."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in sixteen_bit.MODES or not array.size:
        raise InputError(
            f"{name} is an array of shape {array.shape}; give an array of shape (H, W) or (H, W, C), C up to 4."
        )
    if array.dtype not in (np.uint8, np.uint16):
        if array.dtype != np.bool_ and array.dtype.kind != "f":
            raise InputError(
                f"{name} is an array of {array.dtype}; give one of uint8, of uint16, or of float from 0 to 1."
            )
        array = array.astype(np.float64)
        if not (array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{name} is an array of float with values outside of 0 to 1; scale it to that range.")
        array = (array * 255).round().astype(np.uint8)
    _check_size(array.shape[1::-1], name, max_pixels)
    return Picture(name, np.ascontiguousarray(array), sixteen_bit.MODES[array.shape[2]], "PNG")


def _notes(image: Image.Image, name: str, stored: RawMetadata) -> tuple[str, ...]:
    # frames are not counted: a file with a million would be read to its end
    several = stored.several or getattr(image, "is_animated", False)
    return (f"{name} has several frames; only the first is used.",) if several else ()


def _depth_note(image: Image.Image, name: str) -> tuple[str, ...]:
    """Returns a warning for a picture that Pillow reduced to 8 bits a channel."""
    stated = getattr(image, "tag_v2", {}).get(sixteen_bit.BITS, (image.info.get("bit_depth", 8),))
    tiles = [tile for tile in getattr(image, "tile", ()) if tile.codec_name.startswith("ppm") and image.mode != "1"]
    bits = max([*stated, *(tile.args[1].bit_length() for tile in tiles)])
    if bits <= 8 or image.mode.startswith("I;16"):
        return ()
    return (f"{name} has {bits} bits a channel, of which 8 are kept.",)


def output_format(path: Path, picture: Picture) -> str:
    """Returns the format of `path`: by extension, else the picture's own, else PNG. Raises UsageError."""
    chosen = EXTENSIONS.get(path.suffix.lower())
    if chosen is None and path.suffix and path != files.STANDARD_STREAM:
        raise UsageError(f"{path} has no extension that can be written; use one of {', '.join(EXTENSIONS)}.")
    chosen = chosen or (picture.format if picture.format in EXTENSIONS.values() else "PNG")
    own_bmp = chosen == picture.format == "BMP"  # few programs write or read a transparent BMP
    if chosen in WITHOUT_ALPHA and picture.is_transparent and not own_bmp:
        raise UsageError(f"{picture.name} has transparency, which {chosen} cannot hold; use -o with a .png name.")
    if chosen == "HEIF" and not _enable_heic():
        raise UsageError(f"{path} cannot be written: {HEIC_NEEDS}")
    return chosen


def default_extension(picture: Picture) -> str:
    """Returns the input's own extension if its format can be written, else `.png`."""
    suffix = Path(picture.name).suffix
    return suffix if EXTENSIONS.get(suffix.lower()) == picture.format else ".png"


def fit_to_format(picture: Picture, chosen: str) -> Picture:
    """Returns the picture with the metadata that format `chosen` can hold, and warnings that name the rest."""
    beside = picture.metadata.for_format(chosen)
    if chosen == "BMP" and picture.mode in ("L", "LA") and beside.profile(chosen):
        beside = replace(beside.without("icc_profile", "its colour profile"), stated=b"")
    beside = _accepted(picture, chosen, beside)
    said = list[str]()
    if picture.mode == "CMYK" and chosen not in WITH_CMYK:
        said.append(f"{picture.name} is CMYK, which {chosen} cannot hold; its colours are converted to sRGB.")
    if picture.is_deep and chosen not in sixteen_bit.FORMATS:
        said.append(f"{picture.name} has 16 bits a channel, of which {chosen} holds 8.")
    if beside.left_out:
        said.append(f"Left out of the result of {picture.name}: {'; '.join(beside.left_out)}.")
    return replace(picture, metadata=replace(beside, left_out=()), warnings=(*picture.warnings, *said))


def _accepted(picture: Picture, chosen: str, beside: Metadata) -> Metadata:
    """Returns the metadata that the format's encoder accepts, found by encoding a small picture with it."""
    few = replace(picture, pixels=np.zeros((16, 16, picture.pixels.shape[2]), picture.pixels.dtype))
    record = {"kind": "edit"}

    def accepts(tried: Metadata) -> bool:
        try:
            _write(_converted(replace(few, metadata=tried), chosen), chosen, record)
        except MemoryError:
            raise
        except Exception:
            return False
        return True

    if accepts(beside):
        return beside
    kept = replace(Metadata(left_out=beside.left_out), **{name: getattr(beside, name) for name in metadata.OF_CODING})
    if not accepts(kept):
        kept = replace(kept, coding={})
    for part, words in beside.parts().items():
        more = replace(kept, **{part: getattr(beside, part)})
        kept = more if accepts(more) else kept.without(part, f"{words}, which {chosen} cannot hold")
    return kept


def encode(picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> bytes:
    """Returns a file's bytes in format `chosen`, with metadata and the record, if any. Raises OutputError, DeviceError.

    PNG, WebP, TIFF and BMP are lossless, 16 bits only in PNG and TIFF. JPEG is coded as the input was. AVIF and HEIC
    have their highest quality, which is not lossless. CMYK becomes sRGB in formats without CMYK.
    """
    try:
        return _write(_converted(fit_to_format(picture, chosen), chosen), chosen, record)
    except MemoryError:
        raise DeviceError("There is too little memory to write the result; make the picture smaller first.") from None
    except Exception as error:  # encoders raise arbitrary exceptions, as decoders do
        raise OutputError(
            f"The result of {picture.name} cannot be written as {chosen} ({error}); choose another format with -o, or "
            "leave out the input's metadata with --strip-metadata."
        ) from error


def _converted(picture: Picture, chosen: str) -> Picture:
    """Returns the picture in a mode that the format can hold."""
    if picture.mode == "CMYK" and chosen not in WITH_CMYK:
        pixels = np.asarray(picture.colours.to_srgb(picture.image))
        beside = replace(picture.metadata, icc_profile=b"")
        return replace(picture, pixels=pixels, mode="RGB", metadata=beside, colours=colour.SRGB)
    if chosen in WITHOUT_ALPHA and picture.has_alpha and not picture.is_transparent:
        return replace(picture, pixels=picture.pixels[..., :-1], mode=picture.mode.removesuffix("A"))
    return picture


def _write(picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> bytes:
    """Returns the encoded file. Raises what encoders raise."""
    beside = picture.metadata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata of the input
        if picture.is_deep and chosen == "TIFF":
            return sixteen_bit.tiff(picture.pixels, picture.mode, beside.tags(record))
        if chosen == "BMP" and (beside.profile(chosen) or picture.has_alpha):
            return bmp.encode(picture.image, beside.profile(chosen), beside.dpi)
        if picture.is_deep and chosen == "PNG":
            data = sixteen_bit.png(picture.pixels)
        else:
            buffer = io.BytesIO()
            picture.image.save(buffer, chosen, **_options(picture, chosen, record))
            data = buffer.getvalue()
    if chosen == "PNG":
        return png.with_chunks(data, beside.chunks(record))
    if chosen == "TIFF":
        return exif.append(data, beside.tags(record))
    return boxes.with_cicp(data, beside.cicp) if chosen == "AVIF" and beside.cicp else data


def _options(picture: Picture, chosen: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the keyword arguments of Pillow's `save`."""
    options = picture.metadata.options(chosen, record)
    coding = picture.metadata.coding if picture.format == chosen else {}
    if chosen == "JPEG":
        options |= coding or {"quality": 100 if picture.format == chosen else 95, "subsampling": 0}
    elif chosen == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif chosen == "TIFF":
        options["compression"] = "tiff_lzw"
    elif chosen == "AVIF":
        options |= {"quality": 100, "subsampling": "4:4:4" if picture.mode.startswith("RGB") else "4:0:0"}
    elif chosen == "HEIF":
        options |= {"quality": 100, "chroma": coding.get("chroma", 444)}
    return options


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns the record in a mask or an edited picture, or None if there is none that can be read."""
    if EXTENSIONS.get(path.suffix.lower()) == "HEIF":
        _enable_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                if file.read(8) == png.SIGNATURE:
                    return metadata.record_among(png.short_texts(file))
            with open_picture(path) as image:
                return metadata.record_in(image, *metadata.peek(image))
    except Exception:  # a foreign or damaged file has no record
        return None


def encode_png(pixels: NDArray[np.uint8], record: Mapping[str, Any] | None) -> bytes:
    """Returns a PNG file's bytes: pixels (h, w) or (h, w, 3), and the record, if any."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return png.with_chunks(buffer.getvalue(), [metadata.png_record(record)] if record is not None else [])
