"""Previews of an edit and its results: strips, overlays, contact sheets and animations."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageFont

from diffedit_cli.errors import UsageError
from diffedit_cli.images import codecs
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.storage import files, paths, seals

LEAST, MOST = 0.005, 0.6  # shares of the picture below and above which a mask is rarely intended
CLAMP = 3.0  # default multiple of the mean at which a contrast map is clipped, for masks whose record lacks it
KINDS = {"preview": (".png",), "overlay": (".png",), "compare": (".gif", ".webp"), "sheet": (".png",)}
TILE = 512  # longest side of a picture in a strip or a sheet
SHEET = 4096  # approximate longest side of a sheet
MOVING = 1024  # longest side of an animation
GAP, CAPTION = 8, 16  # pixels around each tile, and letter height of its label
GROUND, LETTERS = (32, 33, 36), (222, 222, 222)
TINT, TINTED = (255, 0, 110), 0.45  # colour that an overlay adds to masked pixels, and its opacity
HOLD, FADE, FADES = 1200, 60, 6  # milliseconds for each picture and each step between, number of steps
CLEAR = 255  # a GIF's transparent palette index: the previous frame stays visible
BITS, SHARES = 5, 1 << 14  # bits per primary in the colour histogram, and samples divided among its colours
# matplotlib's inferno, evenly spaced: brightness rises throughout, also for colour-blind viewers and in print.
INFERNO = np.array(
    [
        (0, 0, 4), (20, 11, 52), (57, 9, 99), (95, 19, 110), (133, 33, 107), (169, 46, 94),
        (203, 65, 73), (230, 93, 47), (247, 132, 16), (252, 174, 18), (245, 219, 76), (252, 255, 164),
    ]
)  # fmt: skip


# The files


def path_of(kind: str, given: Path, stem: str) -> Path:
    """Returns the file that the option `--kind` names; --preview may name a folder, for STEM.preview.png in it.

    Raises UsageError if the kind is not written with this extension.
    """
    if given.suffix.lower() in KINDS[kind] or (given == files.STANDARD_STREAM and kind != "compare"):
        return given
    if kind == "preview" and (paths.is_folder(given) or not given.suffix):
        return given / f"{stem}.preview.png"
    or_folder = ", or a folder" if kind == "preview" else ""
    raise UsageError(f"--{kind} cannot write {given}; name a {' or '.join(KINDS[kind])} file{or_folder}.")


def encode(
    kind: str, path: Path, picture: Picture, mask: Mask, results: Sequence[Picture], seed: int, record: Any
) -> bytes:
    """Returns the bytes of the file of this kind at `path`; `seed` is the seed of the first result."""
    if kind == "compare":
        return animation(picture, results[0], path.suffix.lower(), record)
    if kind == "sheet":
        shown = sheet(results, seeds(seed, len(results)))
    else:
        shown = overlay(picture, mask) if kind == "overlay" else preview(picture, mask, *results[:1])
    return codecs.encode_png(np.asarray(shown), record)


def seeds(first: int, count: int) -> list[str]:
    """Returns the labels of variants, whose seeds are consecutive."""
    return [f"seed {first + number}" for number in range(count)]


# One picture made of several


def preview(picture: Picture, mask: Mask, result: Picture | None = None) -> Image.Image:
    """Returns a strip: the picture, the contrast map (a drawn mask has none), the mask, and the result, if any."""
    size = _within(picture.size, TILE)
    original = _on_white(picture, size)
    tiles = {"picture": original}
    if mask.contrast is not None:
        made = mask.record()
        scaled = rescale(mask.contrast, made.get("clamp", CLAMP), made.get("smooth", 0.0))
        tiles["contrast"] = heat_map(scaled, size)
    tiles[f"mask, {100 * mask.share:.1f} %"] = outline(original, shrink(mask.pixels, size))
    if result is not None:
        tiles["result"] = _on_white(result, size)
    return grid(list(tiles.values()), list(tiles), columns=len(tiles))


def overlay(picture: Picture, mask: Mask) -> Image.Image:
    """Returns the picture in full size, with the mask tinted and outlined."""
    original = picture.on_white()
    tinted = Image.blend(original, Image.new("RGB", original.size, TINT), TINTED)
    original.paste(tinted, mask=Image.fromarray(mask.pixels.astype(np.uint8) * 255))
    return outline(original, mask.pixels, width=max(1, round(max(original.size) / TILE)))


def sheet(results: Sequence[Picture], labels: Sequence[str]) -> Image.Image:
    """Returns a contact sheet: results of equal size in rows, each with its label."""
    columns = len(results) if len(results) < 4 else math.ceil(math.sqrt(len(results)))
    size = _within(results[0].size, min(TILE, SHEET // columns))
    return grid([_on_white(result, size) for result in results], labels, columns)


def grid(tiles: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Returns tiles of equal size in rows, each with its label below it."""
    font = ImageFont.load_default(CAPTION)
    width = max([tiles[0].width, *(math.ceil(font.getlength(label)) for label in labels)])
    across, down = width + GAP, tiles[0].height + 2 * GAP + CAPTION
    whole = Image.new("RGB", (columns * across + GAP, math.ceil(len(tiles) / columns) * down + GAP), GROUND)
    draw = ImageDraw.Draw(whole)
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left, top = GAP + number % columns * across, GAP + number // columns * down
        whole.paste(tile, (left + (width - tile.width) // 2, top))
        draw.text((left + width / 2, top + tile.height + GAP), label, LETTERS, font, anchor="mt")
    return whole


def without_captions(strip: Image.Image) -> Image.Image:
    """Returns a row of tiles without its labels, for displays too small to read them."""
    return strip.crop((0, 0, strip.width, strip.height - CAPTION - GAP))


# Parts of a strip


def rescale(contrast: NDArray[np.float32], clamp: float, smooth: float = 0.0) -> NDArray[np.float32]:
    """Returns a contrast map as the threshold sees it, in [0, 1]: blurred and clipped at `clamp` times its mean.

    `smooth` is the standard deviation of the blur, in cells of the map.
    """
    if smooth:
        from scipy import ndimage  # imported here: takes a third of a second

        contrast = ndimage.gaussian_filter(contrast, smooth)
    limit = float(contrast.mean()) * clamp
    return np.minimum(contrast / limit, 1).astype(np.float32) if limit > 0 else np.zeros_like(contrast)


def heat_map(scaled: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """Returns a map (h, w) in [0, 1] as a picture of `size` (width, height), from dark to bright."""
    smooth = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BILINEAR))
    stops = np.linspace(0, 1, len(INFERNO))
    colours = np.stack([np.interp(smooth, stops, channel) for channel in INFERNO.T], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8))


def outline(picture: Image.Image, mask: NDArray[np.bool_], width: int = 1) -> Image.Image:
    """Returns an RGB picture with the mask's border in white, `width` pixels to each side, and a dark rim as wide.

    `mask` is (H, W). White alone would be invisible on white, dark alone on dark.
    """
    pixels = np.array(picture)
    for reach, colour in ((2 * width, 0), (width, 255)):
        pixels[border(mask, reach)] = colour
    return Image.fromarray(pixels)


def border(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Returns the pixels within `reach` of the mask's border, on both sides; the picture's edge counts as a border."""
    from scipy import ndimage

    outer, inner = ndimage.binary_dilation(mask, iterations=reach), ndimage.binary_erosion(mask, iterations=reach)
    ring: NDArray[np.bool_] = outer & ~inner
    return ring


def shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the mask (H, W) at `size` (width, height), true where any of its pixels was, to keep specks visible."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BOX)) > 0


def _on_white(picture: Picture, size: tuple[int, int]) -> Image.Image:
    """Returns the picture in sRGB at `size`, alpha composited on white."""
    whole = picture.on_white()
    return whole if whole.size == size else whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _within(size: tuple[int, int], limit: int) -> tuple[int, int]:
    """Returns a size of the same aspect ratio with no side above `limit`, at least 1 x 1."""
    scale = min(1.0, limit / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


# Animations


def animation(picture: Picture, result: Picture, extension: str, record: Mapping[str, Any]) -> bytes:
    """Returns a GIF or WebP file's bytes: the picture fades into the result and back in a loop; holds the record."""
    size = _within(picture.size, MOVING)
    before, after = _on_white(picture, size), _on_white(result, size)
    between = [Image.blend(before, after, step / (FADES + 1)) for step in range(1, FADES + 1)]
    frames = [before, *between, after, *reversed(between)]
    durations = [HOLD, *[FADE] * FADES, HOLD, *[FADE] * FADES]
    options: dict[str, Any] = {"save_all": True, "duration": durations, "loop": 0}
    said = seals.text_with_room(record)
    if extension == ".gif":
        changed = (np.asarray(before) != np.asarray(after)).any(axis=2)
        shown = [_in_few_colours(before), *(_in_few_colours(frame, changed) for frame in (*between, after))]
        frames = [*shown, *reversed(shown[1:-1])]
        options |= {"comment": said, "optimize": False, "disposal": 1}
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageHistory] = said
        options |= {"lossless": False, "quality": 90, "exif": exif}
    buffer = io.BytesIO()
    frames[0].save(buffer, extension.removeprefix("."), append_images=frames[1:], **options)
    return buffer.getvalue()


def _in_few_colours(frame: Image.Image, changed: NDArray[np.bool_] | None = None) -> Image.Image:
    """Quantises an RGB picture to a palette of CLEAR colours; with `changed` (H, W), all other pixels are transparent.

    The edit has as many colours as the first frame, and unchanged pixels stay as they are in that frame. There is no
    dithering: it would move with the fading, and it takes colours further from their true values.
    """
    pixels = np.asarray(frame)
    colours = pixels.reshape(-1, 3) if changed is None else pixels[changed]
    if not len(colours):
        return _paletted(np.full(pixels.shape[:2], CLEAR, dtype=np.uint8), [0] * 768, clear=True)
    chosen = Image.fromarray(_weighted(colours)[None]).quantize(CLEAR, kmeans=2).getpalette() or []
    palette = [*chosen, *chosen[:3] * 256][:768]  # padded with the first colour
    found = np.array(
        frame.quantize(palette=_paletted(np.zeros((1, 1), dtype=np.uint8), palette), dither=Image.Dither.NONE)
    )
    found[found == CLEAR] = 0
    if changed is not None:
        found[~changed] = CLEAR
    return _paletted(found, palette, clear=changed is not None)


def _weighted(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the colours (n, 3), each repeated by the square root of its count, so that small details get colours.

    Eyes are small next to a sky, which has few colours.
    """
    red, green, blue = (colours >> (8 - BITS)).astype(np.intp).T
    place = (((red << BITS) + green) << BITS) + blue
    counts = np.bincount(place)
    there = counts.nonzero()[0]
    means = np.stack([np.bincount(place, channel)[there] / counts[there] for channel in colours.T], axis=1)
    shares = np.sqrt(counts[there])
    times = np.maximum(1, shares * (SHARES / shares.sum())).round().astype(np.intp)
    return np.repeat(means.round().astype(np.uint8), times, axis=0)


def _paletted(indices: NDArray[np.uint8], palette: Sequence[int], clear: bool = False) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(palette)
    if clear:
        image.info["transparency"] = CLEAR
    return image
