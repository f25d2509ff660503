"""One edit of a data set, and masks in PIE-Bench's format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.errors import InputError

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Case:
    """One edit; pictures and masks are read each time, because a data set does not fit into memory.

    Attributes:
        name: Identifies the case in its data set.
        path: Where its result lies below a method's `annotation_images`.
        kind: Type of the edit; of PIE-Bench "0" to "9".
        source: What the picture shows; empty if the data set does not say.
        target: What the result should show; empty if the data set does not say.
        instruction: What to do; may be empty.
        read_picture: Returns the picture.
        read_mask: Returns where the edit may change a picture of this size, None if the data set does not say.
    """

    name: str
    path: str
    kind: str
    source: str
    target: str
    instruction: str
    read_picture: Callable[[], Image.Image]
    read_mask: Callable[[Size], Mask | None]


def decoded(runs: object, size: Size) -> Mask:
    """Returns the mask of a flat list (start, length, start, length, ...) of runs, row by row from 0; 1 = may change.

    Runs are clipped at the end of the picture, and those that begin beyond it have no pixels. Raises InputError.
    """
    height, width = size
    flat = np.zeros(height * width, dtype=bool)
    if not isinstance(runs, list) or len(runs) % 2 or any(type(one) is not int or one < 0 for one in runs):
        raise InputError("A mask is not a list of starts and lengths; correct it in the data set.")
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    return flat.reshape(height, width)


def ringed(mask: Mask) -> Mask:
    """Returns the mask with its outermost ring of one pixel set, as PIE-Bench's evaluation has it."""
    ring = mask.copy()
    ring[[0, -1]] = True
    ring[:, [0, -1]] = True
    return ring


def overlap(one: Mask, other: Mask) -> float | None:
    """Returns the intersection over union of two masks, None if both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else None
