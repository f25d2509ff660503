"""Where to look closer: the parts of a large picture that a mask covers, each with room around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture

ROOM = 0.25  # around a region, as a share of its longer side: context, but little, for that costs sharpness
LEAST_GAIN = 1.5  # of a zoom that is worth its evaluations
MOST_PARTS = 4  # looked at one by one: each costs as much as the whole picture
MOST_REGIONS = 100  # more is dust: there is no place to look closer at
NEAR = 1 / 32  # of the longer side: a latent cell of 256 pixels, two of 512
SPECK = 0.05  # regions below this share of the largest are not sought again


@dataclass(frozen=True)
class Part:
    """A part of a picture, with its mask, and where it lies; or the whole."""

    picture: Picture
    mask: Mask
    box: Box

    @classmethod
    def whole(cls, picture: Picture, mask: Mask) -> Part:
        return cls(picture, mask, (0, 0, *picture.size))

    @classmethod
    def cut(cls, picture: Picture, mask: Mask, box: Box) -> Part:
        return cls(picture.cropped(box), Mask.soft(inside(mask.shown, box)), box)


def inside(M: NDArray[Any], box: Box) -> NDArray[Any]:
    """The part of a mask (H, W) in a box, not copied."""
    left, top, right, bottom = box
    return M[top:bottom, left:right]


def boxes(M: NDArray[np.bool_], factor: float | None, native: int, specks: bool = True) -> list[Box]:
    """Where to look at a masked (H, W) picture, apart from each other; none where it is best looked at as a whole.

    Each is a square, where the picture has the room, around a connected region and ROOM times its longer side on
    every side of it, but never of fewer than `native` pixels a side: below, nothing is gained. With a `factor`, each
    is that share of the picture's size instead, or as large as its region if that is more; None finds it, and zooms
    only where every part is at least LEAST_GAIN times smaller than the picture. Without `specks` tiny regions get
    none; with them every masked pixel is in a box.
    """
    height, width = M.shape
    if factor == 1 or not M.any() or (factor is None and max(M.shape) < LEAST_GAIN * native):
        return []
    regions = _regions(M, specks)
    if len(regions) > MOST_REGIONS:
        return []
    found = _merged(_around(region, (width, height), factor, native) for region in regions)
    if factor is None and any(max(_size(box)) * LEAST_GAIN > max(M.shape) for box in found):
        return []
    return found


def sharpen(
    M: NDArray[np.uint8], wide: NDArray[np.uint8], closer: Mapping[Box, tuple[NDArray[np.uint8], NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """What was found in some boxes from close by, in place of a mask (H, W) found from afar, but only near that: things
    that look alike are told apart better with all of the picture in view. Specks outside the boxes are left out.

    `wide`, and the second of what was found in a box, are the same at a threshold that is not raised: by these it is
    decided what is near, and whether anything is found, so that a higher threshold never adds a pixel.
    """
    from scipy import ndimage

    result = np.zeros_like(M)
    for box, (fine, fine_wide) in closer.items():
        near = ndimage.distance_transform_edt(inside(wide, box) == 0) <= NEAR * max(M.shape)
        inside(result, box)[:] = fine * near if (fine_wide * near).any() else inside(M, box)
    return result


def _regions(M: NDArray[np.bool_], specks: bool) -> list[Box]:
    """The bounding box of each connected region."""
    from scipy import ndimage

    labels, count = ndimage.label(M)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    least = 0 if specks else SPECK * sizes.max()
    slices = ndimage.find_objects(labels)
    return [
        (across.start, down.start, across.stop, down.stop)
        for (down, across), size in zip(slices, sizes, strict=True)
        if size >= least
    ]


def _around(region: Box, picture: tuple[int, int], factor: float | None, native: int) -> Box:
    longer = max(_size(region))
    if factor is None:
        sides = (max(native, round(longer * (1 + 2 * ROOM))),) * 2
    else:
        sides = tuple(max(longer, round(side / factor)) for side in picture)  # type: ignore[assignment]
    (left, right), (top, bottom) = (
        _span((region[axis] + region[axis + 2]) // 2, sides[axis], picture[axis]) for axis in (0, 1)
    )
    return left, top, right, bottom


def _span(centre: int, length: int, limit: int) -> tuple[int, int]:
    """So long and around the centre, moved into the picture."""
    length = min(length, limit)
    start = min(max(0, centre - length // 2), limit - length)
    return start, start + length


def _merged(boxes: Iterable[Box]) -> list[Box]:
    """Boxes that overlap become one, and so do those whose union grows least while there are too many."""
    found = list(dict.fromkeys(boxes))
    while len(found) > 1:
        pairs = combinations(found, 2)
        one, other = min(pairs, key=lambda pair: (not _overlap(*pair), _area(_union(*pair)) - sum(map(_area, pair))))
        if len(found) <= MOST_PARTS and not _overlap(one, other):
            break
        found = [box for box in found if box not in (one, other, _union(one, other))] + [_union(one, other)]
    return sorted(found)


def _union(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _area(box: Box) -> int:
    width, height = _size(box)
    return width * height
