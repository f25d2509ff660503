"""The Picture class, its conversion to a model's input, and the compositing of the model's output into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.images.colour import SRGB, Colours
from diffedit_cli.images.metadata import Metadata

Pixels = NDArray[np.uint8 | np.uint16]
Box = tuple[int, int, int, int]  # left, top, right, bottom in upright pixels, the last two outside
MAX_ASPECT = 4.0  # aspect ratio of a fitted size: a longer picture is distorted to this ratio


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded, upright picture: `pixels` (H, W, C) of 8 or 16 bits, `mode` L, LA, RGB, RGBA or CMYK.

    `name` is the path, or `-` for standard input. `record` is diffedit's record of how the picture was made, None if
    diffedit did not make it. `part` is true for a crop of another picture.
    """

    name: str
    pixels: Pixels
    mode: str
    format: str
    metadata: Metadata = field(default_factory=Metadata)
    colours: Colours = SRGB
    warnings: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None
    part: bool = False

    def strip_metadata(self) -> Picture:
        """Returns a copy without the metadata that does not affect how the picture looks."""
        return replace(self, metadata=self.metadata.strip_metadata())

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether the pixels have 16 bits a channel."""
        return self.pixels.dtype == np.uint16

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("LA", "RGBA")

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is not opaque."""
        return self.has_alpha and int(self.pixels[..., -1].min()) < np.iinfo(self.pixels.dtype).max

    @cached_property
    def image(self) -> Image.Image:
        """The Pillow image, in the picture's own mode and colours; 16-bit channels are rounded to 8 bits."""
        pixels = (self.pixels.astype(np.uint32) + 128) // 257 if self.is_deep else self.pixels
        return Image.frombytes(self.mode, self.size, pixels.astype(np.uint8, copy=False).tobytes())

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of mode, size, pixels and colour profile: equal for the same picture in another file."""
        depth = ";16" if self.is_deep else ""
        digest = hashlib.sha256(f"{self.mode}{depth} {self.size[0]}x{self.size[1]}\n".encode())
        digest.update(self.pixels.astype(self.pixels.dtype.newbyteorder("<"), copy=False).tobytes())
        digest.update(self.colours.digest.encode())
        return digest.hexdigest()

    def on_white(self) -> Image.Image:
        """Returns the picture in sRGB, alpha composited on white."""
        image = self.image
        if not self.has_alpha:
            return self.colours.to_srgb(image)
        colours = self.colours.to_srgb(image.convert(self.mode.removesuffix("A")))
        colours.putalpha(image.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")

    def model_input(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Returns a model's input (3, height, width) in [-1, 1], resized to `size` (width, height), alpha on white."""
        image = self.on_white().resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1

    def crop(self, box: Box) -> Picture:
        """Returns the part inside `box` as a picture of its own. Raises ValueError if the box is not in the picture."""
        left, top, right, bottom = box
        if not (0 <= left < right <= self.size[0] and 0 <= top < bottom <= self.size[1]):
            raise ValueError(f"the box {box} is not inside a picture of {self.size[0]} x {self.size[1]} pixels")
        return replace(self, pixels=np.ascontiguousarray(self.pixels[top:bottom, left:right]), record=None, part=True)


def fitted_size(size: tuple[int, int], native: int, multiple: int) -> tuple[int, int]:
    """Returns a width and height of about native ** 2 pixels in the aspect ratio of `size`, multiples of `multiple`."""
    aspect = min(max(size[0] / size[1], 1 / MAX_ASPECT), MAX_ASPECT)
    width, height = native * math.sqrt(aspect), native / math.sqrt(aspect)
    return tuple(max(multiple, round(side / multiple) * multiple) for side in (width, height))  # type: ignore[return-value]


def compose(
    picture: Picture, edited: NDArray[np.uint8], mask: NDArray[np.bool_], feather: float, box: Box | None = None
) -> Picture:
    """Returns the picture with `edited` (h, w, 3) in place of its masked pixels; all others, and alpha, are unchanged.

    `edited` is in sRGB and covers `box`, by default the whole picture; masked pixels outside the box are unchanged.
    `mask` (H, W) has the picture's size. `feather` is the width in pixels, inside the mask, over which the edit fades
    in.
    """
    covered = box or (0, 0, *picture.size)
    region = bounds(mask, covered)
    pixels = picture.pixels.copy()
    if region is not None:
        left, top, right, bottom = region
        inside = pixels[top:bottom, left:right]
        patch = _patch(picture, edited, region, covered)
        weights = _weights(mask, region, feather)
        for channel in range(patch.shape[2]):  # one at a time, to save memory; the patch has no alpha
            mixed = inside[..., channel] * (255 - weights) + patch[..., channel] * weights
            inside[..., channel] = (mixed + 127) // 255
    return replace(picture, pixels=pixels, record=None)


def pixels(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Converts values in [-1, 1] to 8 bits."""
    return ((pictures + 1) * 127.5).round().astype(np.uint8)


def bounds(mask: NDArray[np.bool_], box: Box) -> Box | None:
    """Returns the smallest box around the mask's pixels inside `box`, or None if there are none."""
    left, top, right, bottom = box
    part = mask[top:bottom, left:right]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return None
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _patch(picture: Picture, edited: NDArray[np.uint8], region: Box, covered: Box) -> NDArray[np.uint32]:
    """Returns `region` of `edited`, stretched over `covered`, in the picture's colours and bit depth, (H, W, C)."""
    height, width = edited.shape[:2]
    scale = width / (covered[2] - covered[0]), height / (covered[3] - covered[1])
    source = [(side - covered[axis % 2]) * scale[axis % 2] for axis, side in enumerate(region)]
    source[2:] = min(source[2], width), min(source[3], height)  # rounding can exceed the edge
    size = region[2] - region[0], region[3] - region[1]
    patch = Image.fromarray(edited).resize(size, Image.Resampling.BICUBIC, tuple(source))
    colours = np.asarray(picture.colours.from_srgb(patch, picture.mode.removesuffix("A")))
    return colours.reshape(*colours.shape[:2], -1).astype(np.uint32) * (257 if picture.is_deep else 1)


def _weights(mask: NDArray[np.bool_], region: Box, feather: float) -> NDArray[np.uint32]:
    """Returns the blend weights of the edit in `region`, (H, W) in 0..255.

    Pixels beyond the region count as unmasked, except beyond the picture's edge, where the edit does not fade.
    """
    left, top, right, bottom = region
    rows, columns = (int(top > 0), int(bottom < mask.shape[0])), (int(left > 0), int(right < mask.shape[1]))
    weights = fade(np.pad(mask[top:bottom, left:right], (rows, columns)), feather)
    inside = weights[rows[0] :, columns[0] :][: bottom - top, : right - left]
    return (inside * 255).round().astype(np.uint32)


def fade(mask: NDArray[np.bool_], feather: float) -> NDArray[np.float32]:
    """Returns weights (H, W) in [0, 1]: 0 outside the mask, rising to 1 over `feather` pixels inward from its edge.

    In a region too thin for that the ramp is shorter, so that every region reaches 1.
    """
    if mask.all():
        return np.ones(mask.shape, dtype=np.float32)
    from scipy import ndimage  # imported here: takes a third of a second, which only edits need

    depth = ndimage.distance_transform_edt(mask)
    regions, count = ndimage.label(mask)
    thickness = np.append(1.0, ndimage.maximum(depth, regions, np.arange(1, count + 1)))
    reach = np.clip(thickness, 1.0, max(1.0, feather))
    weights: NDArray[np.float32] = np.minimum(depth / reach[regions], 1).astype(np.float32)
    return weights
