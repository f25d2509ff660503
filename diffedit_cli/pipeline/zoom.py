"""Chooses crops to look at more closely: the masked regions of a large picture, with room around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture

ROOM = 0.25  # margin of a region, as a share of its longer side: little context, because it costs sharpness
LEAST_GAIN = 1.5  # smallest zoom that is worth its evaluations
MOST_PARTS = 4  # crops; each costs as much as the whole picture
MOST_REGIONS = 100  # more regions are dust, and not worth a closer look
NEAR = 1 / 32  # of the longer side: a latent cell at 256 pixels, two at 512
SPECK = 0.05  # regions below this share of the largest get no crop


@dataclass(frozen=True)
class Part:
    """A crop of a picture, or the whole picture, with its mask and its box."""

    picture: Picture
    mask: Mask
    box: Box

    @classmethod
    def whole(cls, picture: Picture, mask: Mask) -> Part:
        return cls(picture, mask, (0, 0, *picture.size))

    @classmethod
    def cut(cls, picture: Picture, mask: Mask, box: Box) -> Part:
        return cls(picture.crop(box), Mask.soft(inside(mask.shown, box)), box)


def inside(M: NDArray[Any], box: Box) -> NDArray[Any]:
    """Returns the part of a mask (H, W) in a box, as a view."""
    left, top, right, bottom = box
    return M[top:bottom, left:right]


def boxes(M: NDArray[np.bool_], factor: float | None, native: int, specks: bool = True) -> list[Box]:
    """Returns disjoint boxes to look at in a masked (H, W) picture; none if it is best looked at as a whole.

    Each box is a square, if the picture has the room, around a connected region, with ROOM times the longer side of the
    region on every side, but never smaller than `native` pixels a side, because nothing is gained below. With a
    `factor`, each box has the picture's sides divided by it instead, or the size of its region if that is larger. With
    None the size is automatic, and boxes are returned only if each is at least LEAST_GAIN times smaller than the
    picture. Without `specks` tiny regions get no box; with them every masked pixel is in a box.
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
    """Returns a mask (H, W) with the regions in some boxes replaced by masks that were found in closer crops.

    Of a closer mask only pixels near the coarse mask count: with the whole picture in view, things that look alike are
    told apart better. A box keeps the coarse mask if nothing is found near it. Specks outside the boxes are left out.

    `wide`, and the second mask of each box, are the masks at a threshold that is not raised. They decide what is near
    and whether a crop shows anything, so that a higher threshold never adds a pixel.
    """
    from scipy import ndimage

    result = np.zeros_like(M)
    for box, (fine, fine_wide) in closer.items():
        near = ndimage.distance_transform_edt(inside(wide, box) == 0) <= NEAR * max(M.shape)
        inside(result, box)[:] = fine * near if (fine_wide * near).any() else inside(M, box)
    return result


def _regions(M: NDArray[np.bool_], specks: bool) -> list[Box]:
    """Returns the bounding box of each connected region; without `specks`, of each region that is not tiny."""
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
    """Returns start and end of an interval of this length around a centre, moved into the picture."""
    length = min(length, limit)
    start = min(max(0, centre - length // 2), limit - length)
    return start, start + length


def _merged(boxes: Iterable[Box]) -> list[Box]:
    """Merges boxes that overlap and, while there are more than MOST_PARTS, the pair whose union grows least."""
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
