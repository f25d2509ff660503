"""Similarity of an area to a place, by its colours at each height, or to another area, by its patches.

For contents that are drawn at random, where no single true picture exists to compare pixels with.
"""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from training.places import CANVAS, background

BANDS, LEVELS = 16, 24  # number of bands of rows, and of levels of each colour channel
SPREAD = (0.7, 0.8, 0.8, 0.8)  # standard deviations by which counts spread to neighbouring bands and levels
EMPTY_PLACES = 24  # places drawn for a palette
UNSEEN = -12.0  # least log-likelihood; 13,824 equally likely colours would each be at -9.5
PALETTE_SIDE = 96  # pixels of an empty place's side: colours mix at edges
BLUR = 0.7  # applied to both sides of a comparison, so that the softness of a decoder does not count
PATCH = 7  # side of a patch in pixels

Floats = NDArray[np.float32]
Where = NDArray[np.bool_]


def shrunk(picture: NDArray[np.uint8], side: int) -> Floats:
    """Returns a picture (side, side, 3), slightly blurred."""
    made = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return np.asarray(ndimage.gaussian_filter(made, (BLUR, BLUR, 0)), dtype=np.float32)


@functools.lru_cache(maxsize=32)
def palette(place: str) -> Floats:
    """Returns the smoothed probability of each colour at each height of a place (BANDS, LEVELS, LEVELS, LEVELS)."""
    counts = np.zeros((BANDS, LEVELS, LEVELS, LEVELS), dtype=np.float32)
    for number in range(EMPTY_PLACES):
        picture, _ = background(place, random.Random(f"{place} {number}"))
        np.add.at(counts, cells(shrunk(np.asarray(picture), PALETTE_SIDE)), 1)
    counts = ndimage.gaussian_filter(counts, SPREAD, mode="constant", truncate=2.0)
    return np.asarray(counts / counts.sum(axis=(1, 2, 3), keepdims=True))


def cells(picture: Floats) -> tuple[NDArray[np.int64], ...]:
    """Returns the band of each pixel's row and the levels of its colours, as an index into a palette."""
    rows = np.arange(len(picture)) * BANDS // len(picture)
    levels = (picture / 256 * LEVELS).astype(np.int64).clip(0, LEVELS - 1)
    return np.broadcast_to(rows[:, None], picture.shape[:2]), levels[..., 0], levels[..., 1], levels[..., 2]


def likelihood(picture: Floats, place: str) -> Floats:
    """Returns the log-likelihood (h, w) of each pixel of a whole picture in a place, at least UNSEEN."""
    return np.asarray(np.log(np.maximum(palette(place)[cells(picture)], np.exp(UNSEEN))))


def patches(picture: Floats, where: Where) -> Tensor:
    """Returns the patches (n, PATCH, PATCH, 3) around the pixels `where` of a picture (h, w, 3)."""
    reach = PATCH // 2
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), axis=(0, 1))
    return torch.from_numpy(windows[where].transpose(0, 2, 3, 1).copy())


def patch_distance(one: Tensor, other: Tensor) -> float:
    """Returns the mean squared distance of each patch to the most similar patch of the other area, both ways.

    The other patch may be mirrored. The distance is small if each area has everything that the other shows, and nothing
    else (bidirectional similarity, Simakov et al. 2008).
    """
    pairs = (torch.cdist(one.flatten(1), side.flatten(1)) for side in (other, other.flip(2)))
    apart = torch.minimum(*pairs).square() / PATCH**2
    return float(apart.min(1).values.mean() + apart.min(0).values.mean()) / 2


def reached(mask: Where, pixels: int) -> Where:
    """Grows a mask by this many pixels of 256, or shrinks it if `pixels` is negative."""
    if not pixels or not mask.any():
        return mask
    steps = max(1, round(abs(pixels) * len(mask) / CANVAS))
    grow = ndimage.binary_dilation if pixels > 0 else ndimage.binary_erosion
    return np.asarray(grow(mask, iterations=steps))
