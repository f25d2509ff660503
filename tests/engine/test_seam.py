"""What is painted over takes on the colours around it: the harmonic surface, and where it is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from diffedit_cli.engine import seam

Floats = NDArray[np.float32]


def plane(size: tuple[int, int], across: float, down: float, level: float = 0.0) -> Floats:
    """A picture (H, W, 3) whose colours rise evenly: harmonic."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.repeat((level + across * x / size[1] + down * y / size[0])[..., None], 3, axis=2).astype(np.float32)


def hole(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    M = np.zeros(size, dtype=bool)
    M[top:bottom, left:right] = True
    return M


def test_a_plane_is_continued_as_it_is() -> None:
    """Its every pixel is the mean of its neighbours."""
    values, M = plane((40, 60), 0.3, -0.2), hole((40, 60), 8, 10, 30, 50)
    broken = np.where(M[..., None], np.float32(9), values)
    assert np.abs(seam.continue_colours(broken, M) - values).max() < 1e-4


@pytest.mark.parametrize("box", [(0, 0, 20, 60), (10, 0, 30, 20), (0, 0, 39, 60)], ids=["top", "left", "nearly all"])
def test_a_mask_at_the_border_takes_what_it_is_beside(box: tuple[int, int, int, int]) -> None:
    M = hole((40, 60), *box)
    found = seam.continue_colours(np.where(M[..., None], np.float32(9), np.float32(0.25)).repeat(3, axis=2), M)
    assert np.abs(found - 0.25).max() < 1e-2


def test_values_inside_lie_between_those_at_the_rim() -> None:
    """A harmonic function has its extremes at the rim."""
    values = np.random.default_rng(0).uniform(-1, 1, (30, 30, 3)).astype(np.float32)
    M = hole((30, 30), 5, 5, 25, 25)
    inside = seam.continue_colours(values, M)[M]
    assert values.min() < inside.min() < inside.max() < values.max()
    assert inside.std() < values.std() / 2


@pytest.mark.parametrize("size", [(64, 96), (700, 500), (300, 1100)])
def test_a_tint_is_taken_off_and_what_was_painted_stays(size: tuple[int, int]) -> None:
    """The shapes that were painted keep their contrast; outside nothing changes."""
    height, width = size
    M = hole(size, height // 4, width // 4, height // 4 * 3, width // 4 * 3)
    drawn = hole(size, height // 2, width // 2, height // 2 + 9, width // 2 + 9)
    picture = plane(size, 0.2, 0.1, level=-0.3)
    ours = picture + np.where(drawn, 0.5, 0.0)[..., None].astype(np.float32)
    tinted = ours + np.float32([0.1, -0.05, 0.2])
    found = seam.blend_seam(tinted, picture, M)
    assert np.abs(found - ours)[M].max() < 0.02 < np.abs(tinted - ours)[M].min()
    np.testing.assert_array_equal(found[~M], tinted[~M])


def test_another_thing_at_the_rim_bleeds_in_by_so_much_only() -> None:
    M = hole((40, 40), 10, 10, 30, 30)
    found = seam.blend_seam(np.zeros((40, 40, 3), np.float32), np.ones((40, 40, 3), np.float32), M)
    assert found[M].max() == pytest.approx(seam.MOST, abs=1e-3)


def test_colours_stay_in_their_range() -> None:
    M, white = hole((40, 40), 10, 10, 30, 30), np.full((40, 40, 3), 0.95, np.float32)
    assert seam.blend_seam(white, np.ones((40, 40, 3), np.float32), M).max() <= 1


@pytest.mark.parametrize("covered", [True, False])
def test_without_a_rim_nothing_changes(covered: bool) -> None:
    painted = plane((20, 20), 0.5, 0.5)
    assert seam.blend_seam(painted, -painted, np.full((20, 20), covered)) is painted
