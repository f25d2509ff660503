"""Painted pixels take on the colours around them: the harmonic surface, the ring, and what neither may follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from diffedit_cli.engine import seam

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Seam = Callable[[Floats, Floats, Bools], Floats]


def match(painted: Floats, picture: Floats, M: Bools) -> Floats:
    return seam.match_colours(painted, picture, M, reach=4)


SEAMS = pytest.mark.parametrize("method", [match, seam.blend_gradients], ids=["match", "poisson"])


def plane(size: tuple[int, int], across: float, down: float, level: float = 0.0) -> Floats:
    """A picture (H, W, 3) whose colours rise evenly: harmonic."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.repeat((level + across * x / size[1] + down * y / size[0])[..., None], 3, axis=2).astype(np.float32)


def hole(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> Bools:
    M = np.zeros(size, dtype=bool)
    M[top:bottom, left:right] = True
    return M


def test_a_plane_is_continued_as_it_is() -> None:
    """Its every pixel is the mean of its neighbours."""
    values, M = plane((40, 60), 0.3, -0.2), hole((40, 60), 8, 10, 30, 50)
    broken = np.where(M[..., None], np.float32(9), values)
    assert np.abs(seam.continue_colours(broken, M, ~M) - values).max() < 1e-4


@pytest.mark.parametrize("box", [(0, 0, 20, 60), (10, 0, 30, 20), (0, 0, 39, 60)], ids=["top", "left", "nearly all"])
def test_a_mask_at_the_border_takes_what_it_is_beside(box: tuple[int, int, int, int]) -> None:
    M = hole((40, 60), *box)
    values = np.where(M[..., None], np.float32(9), np.float32(0.25)).repeat(3, axis=2)
    assert np.abs(seam.continue_colours(values, M, ~M) - 0.25).max() < 1e-2


def test_values_inside_lie_between_those_at_the_rim() -> None:
    """A harmonic function has its extremes at the rim."""
    values = np.random.default_rng(0).uniform(-1, 1, (30, 30, 3)).astype(np.float32)
    M = hole((30, 30), 5, 5, 25, 25)
    inside = seam.continue_colours(values, M, ~M)[M]
    assert values.min() < inside.min() < inside.max() < values.max()
    assert inside.std() < values.std() / 2


def test_where_nothing_is_known_the_surface_is_level() -> None:
    """It follows what is known elsewhere, and is 0 in a region around which nothing is known."""
    M = hole((40, 60), 10, 10, 30, 20) | hole((40, 60), 10, 40, 30, 50)
    known = hole((40, 60), 10, 9, 30, 10)  # left of the first region only
    values = np.where(known, 0.3, 9.0)[..., None].repeat(3, axis=2).astype(np.float32)
    found = seam.continue_colours(values, M, known)
    assert np.abs(found[:, :30][M[:, :30]] - 0.3).max() < 1e-2
    assert np.abs(found[:, 30:][M[:, 30:]]).max() < 1e-6


@SEAMS
@pytest.mark.parametrize("size", [(64, 96), (700, 500), (300, 1100)])
def test_a_tint_is_taken_off_and_what_was_painted_stays(size: tuple[int, int], method: Seam) -> None:
    """The shapes that were painted keep their contrast."""
    height, width = size
    M = hole(size, height // 4, width // 4, height // 4 * 3, width // 4 * 3)
    drawn = hole(size, height // 2, width // 2, height // 2 + 9, width // 2 + 9)
    picture = plane(size, 0.2, 0.1, level=-0.3)
    ours = picture + np.where(drawn, 0.5, 0.0)[..., None].astype(np.float32)
    tinted = ours + np.float32([0.1, -0.05, 0.2])
    found = method(tinted, picture, M)
    assert np.abs(found - ours)[M].max() < 0.02 < np.abs(tinted - ours)[M].min()


@SEAMS
def test_each_region_takes_on_the_colours_around_it(method: Seam) -> None:
    """Two tints, a hole in one region, and the other at the picture's border."""
    size = (60, 120)
    M = (hole(size, 10, 10, 50, 50) & ~hole(size, 25, 25, 35, 35)) | hole(size, 20, 80, 60, 120)
    picture = plane(size, 0.2, 0.1)
    tinted = picture + np.where(np.arange(120)[None, :, None] < 65, np.float32(0.1), np.float32(-0.15))
    assert np.abs(method(tinted, picture, M) - picture)[M].max() < 0.01


def test_blending_takes_off_a_slope_that_matching_leaves() -> None:
    size, M = (64, 96), hole((64, 96), 16, 24, 48, 72)
    picture = plane(size, 0.0, 0.0)
    sloped = picture + plane(size, 0.3, 0.0, level=-0.15)
    assert np.abs(seam.blend_gradients(sloped, picture, M))[M].max() < 0.01
    assert np.abs(match(sloped, picture, M))[M].max() > 0.05


@SEAMS
def test_another_object_at_the_rim_does_not_bleed_in(method: Seam) -> None:
    """Not the post in the picture that was painted over, nor the thing that was painted over the rim."""
    size, M = (80, 80), hole((80, 80), 20, 20, 60, 60)
    ground, away = plane(size, 0.1, 0.1), np.abs(np.arange(80) - 34.5)
    share = np.clip((away - 4) / 2, 0, 1)[None, :, None]  # the post's edges are two pixels wide
    post = np.where(np.arange(80)[:, None, None] < 40, ground * share - (1 - share), ground).astype(np.float32)
    for tint in (0.0, 0.1):
        for painted, picture in ((ground, post), (post, ground)):
            found = method(painted + np.float32(tint), picture, M)
            assert np.abs(found - painted)[M].max() < 0.02


@SEAMS
def test_if_all_around_is_another_object_nothing_changes(method: Seam) -> None:
    M, dark, light = hole((40, 40), 10, 10, 30, 30), np.zeros((40, 40, 3), np.float32), np.ones((40, 40, 3), np.float32)
    assert (method(dark, light, M) == 0).all()


@SEAMS
def test_colours_stay_in_their_range(method: Seam) -> None:
    M, white = hole((40, 40), 10, 10, 30, 30), np.full((40, 40, 3), 0.95, np.float32)
    white[20, 20] = 1
    assert method(white, np.ones((40, 40, 3), np.float32), M).max() == 1


@SEAMS
@pytest.mark.parametrize("covered", [True, False])
def test_without_a_rim_nothing_changes(covered: bool, method: Seam) -> None:
    painted = plane((20, 20), 0.5, 0.5)
    assert method(painted, -painted, np.full((20, 20), covered)) is painted
