"""Limits of a mask: drawn areas to keep or leave out, a box, and a point that selects one of its regions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.engine.region import window_around
from diffedit_cli.errors import InputError, NothingToEdit, UsageError
from diffedit_cli.images import masks
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.storage import files


@dataclass(frozen=True)
class MaskLimits:
    """Areas that a picture's mask is restricted to.

    The mask keeps what lies in the white of `within`, in the black of `exclude` (both of the picture's size), in `box`
    (x, y, width, height) and in the region at `point` (x, y). Coordinates are in pixels from the upper left corner of
    the upright picture.
    """

    within: Mask | None = None
    exclude: Mask | None = None
    box: tuple[int, ...] | None = None
    point: tuple[int, ...] | None = None

    def apply(self, mask: Mask, picture: Picture) -> Mask:
        """Returns the mask cut down to the limits, which join its record. Raises NothingToEdit if nothing is left."""
        is_found = mask.contrast is not None and "threshold" in (mask.made or {})
        pixels, lower = mask.pixels, ", or lower --threshold" if is_found else ""
        if self.within is not None:
            pixels = _left(
                pixels & self.within.pixels, picture,
                f"none of it lies in the white of --within {self.within.name}; paint more of that white{lower}",
            )  # fmt: skip
        if self.exclude is not None:
            pixels = _left(
                pixels & ~self.exclude.pixels, picture,
                f"the white of --exclude {self.exclude.name} covers it; paint less of that white{lower}",
            )  # fmt: skip
        if self.box is not None:
            pixels = _left(
                pixels & _inside(self.box, pixels), picture, f"none of it lies in --box; make the box larger{lower}"
            )
        if self.point is not None:
            pixels = _left(
                _region(pixels, *self.point), picture, f"--point is not in it; point at what it covers{lower}"
            )
        return mask if self == NONE else mask.cut(pixels, self._recorded(mask))

    def open(self, picture: Picture) -> NDArray[np.bool_]:
        """Returns the pixels (H, W) that a mask may cover: those in the drawn areas and the box."""
        pixels = np.ones(picture.size[::-1], dtype=bool)
        if self.within is not None:
            pixels &= self.within.pixels
        if self.exclude is not None:
            pixels &= ~self.exclude.pixels
        return pixels & _inside(self.box, pixels) if self.box is not None else pixels

    def region(self, picture: Picture) -> NDArray[np.uint8] | None:
        """Returns the place of a thing to add, uint8 (H, W), 0 or 255; None if no limit sets it.

        The place is the box, the drawn area, or a window around the point.
        """
        pixels = None
        if self.box is not None or self.within is not None:
            pixels = self.open(picture)
        elif self.point is not None:
            pixels = window_around(picture.size[::-1], (self.point[0], self.point[1]))
        return None if pixels is None else pixels.astype(np.uint8) * 255

    def check(self, picture: Picture) -> None:
        """Raises InputError for limits that do not fit this picture."""
        for mask in (self.within, self.exclude):
            if mask is not None:
                check_size(mask, picture)
        for name, place in (("--box", self.box), ("--point", self.point)):
            if place is not None and not (0 <= place[0] < picture.size[0] and 0 <= place[1] < picture.size[1]):
                width, height = picture.size
                raise InputError(
                    f"{name} {_words(place)} lies outside of {picture.name}, which is {width} x {height} pixels; "
                    "count them from its upper left corner."
                )

    def _recorded(self, mask: Mask) -> dict[str, str]:
        """Returns the record of a mask after cutting it down.

        A mask that was already limited counts as drawn, because only its file reproduces it.
        """
        drawn = {"within": self.within, "exclude": self.exclude}
        said = {name: limit.digest for name, limit in drawn.items() if limit is not None}
        places = {"box": self.box, "point": self.point}
        said |= {name: _words(place) for name, place in places.items() if place is not None}
        again = mask.made is not None and any(field.name in mask.made for field in fields(self))
        return ({"drawn": mask.digest} if again else mask.record()) | said


NONE = MaskLimits()


def load(
    picture: Picture,
    within: Path | None,
    exclude: Path | None,
    box: tuple[int, ...] | None = None,
    point: tuple[int, ...] | None = None,
    max_pixels: int = files.MAX_PIXELS,
) -> MaskLimits:
    """Reads the limits of a picture.

    Raises InputError for a file that is not a picture of the same size, and for a place outside of the picture.
    """
    read = [masks.load_mask(path, max_pixels=max_pixels) if path is not None else None for path in (within, exclude)]
    limits = MaskLimits(read[0], read[1], box, point)
    limits.check(picture)
    return limits


def parse_numbers(option: str, text: str | None, *parts: str) -> tuple[int, ...] | None:
    """Parses whole numbers separated by commas, one for each of the `parts`. Raises UsageError."""
    if text is None:
        return None
    try:
        found = tuple(map(int, text.split(",")))
    except ValueError:
        found = ()
    if len(found) != len(parts) or min(found[2:], default=1) < 1:
        raise UsageError(f"{option} expects {','.join(parts)} in pixels, not {text}; see diffedit edit --help.")
    return found


def _inside(box: tuple[int, ...], pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    x, y, width, height = box
    inside = np.zeros_like(pixels)
    inside[y : y + height, x : x + width] = True
    return inside


def _region(pixels: NDArray[np.bool_], x: int, y: int) -> NDArray[np.bool_]:
    """Returns the connected region of a mask (H, W) that holds the pixel (x, y); empty if none does."""
    from scipy import ndimage

    regions, _ = ndimage.label(pixels)
    found: NDArray[np.bool_] = (regions == regions[y, x]) & pixels
    return found


def _left(pixels: NDArray[np.bool_], picture: Picture, why: str) -> NDArray[np.bool_]:
    if not pixels.any():
        raise NothingToEdit(f"Nothing is left of the mask of {picture.name}: {why}.")
    return pixels


def _words(place: tuple[int, ...]) -> str:
    return ",".join(map(str, place))


def check_size(mask: Mask, picture: Picture) -> None:
    """Raises InputError if the mask and the picture differ in size."""
    height, width = mask.pixels.shape
    if (width, height) != picture.size:
        raise InputError(
            f"The mask {mask.name} is {width} x {height} pixels and {picture.name} is "
            f"{picture.size[0]} x {picture.size[1]}; make it again with diffedit mask, or draw it on the picture."
        )
