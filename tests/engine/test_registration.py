"""Registration: the planted motion of a photograph is found from what is outside of the mask, and undone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data, transform

from diffedit_cli.engine import registration
from diffedit_cli.engine.registration import Motion

Floats = NDArray[np.float32]


def photograph(name: str, side: int = 192) -> Floats:
    """A photograph (h, w, 3) in [-1, 1] whose longer side has this number of pixels."""
    picture = getattr(data, name)()
    picture = np.stack([picture] * 3, axis=2) if picture.ndim == 2 else picture[..., :3]
    height, width = (round(length * side / max(picture.shape)) for length in picture.shape[:2])
    return np.asarray(transform.resize(picture, (height, width), anti_aliasing=True) * 2 - 1, dtype=np.float32)


def moved(picture: Floats, motion: Motion) -> Floats:
    """The picture scaled about its centre and shifted, by scikit-image."""
    centre = (np.array(picture.shape[1::-1]) - 1) / 2
    shift = centre * (1 - motion.scale) + (motion.dx, motion.dy)
    there = transform.AffineTransform(scale=(motion.scale,) * 2, translation=shift)
    return np.asarray(transform.warp(picture, there.inverse, order=3, mode="edge"), dtype=np.float32)


def middle(picture: Floats) -> NDArray[np.bool_]:
    M = np.zeros(picture.shape[:2], dtype=bool)
    height, width = M.shape
    M[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return M


def painted_over(picture: Floats, M: NDArray[np.bool_], motion: Motion) -> Floats:
    """The picture with something else in the mask, moved, darker and grainy, as a painter would return it."""
    draw = np.random.default_rng(0)
    edited = np.where(M[..., None], ndimage.gaussian_filter(draw.uniform(-4, 4, picture.shape), (2, 2, 0)), picture)
    grain = 0.03 * draw.standard_normal(picture.shape)
    return np.clip(0.9 * moved(edited.astype(np.float32), motion) - 0.05 + grain, -1, 1).astype(np.float32)


def apart(one: Motion, other: Motion, shape: tuple[int, ...]) -> float:
    """The longest distance in pixels between where two motions take a corner."""
    across = (one.scale - other.scale) * np.array(shape[1::-1]) / 2
    return float(np.hypot(*(np.abs([one.dx - other.dx, one.dy - other.dy]) + np.abs(across))))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "gravel"])
@pytest.mark.parametrize(
    "planted",
    [Motion(3.5, -2, 1), Motion(0, 0, 1.01), Motion(3.5, -2, 1.01), Motion(-2.5, 1.5, 0.99), Motion(1.5, 0, 1)],
)
def test_a_planted_motion_is_found_and_undone(name: str, planted: Motion) -> None:
    picture = photograph(name)
    M = middle(picture)
    painted = painted_over(picture, M, planted)
    found = registration.find_motion(painted, picture, M)
    assert found is not None
    assert apart(found, planted, picture.shape) < 0.25
    inside = ndimage.binary_erosion(np.ones_like(M), iterations=12)  # what stayed in the frame
    bare = moved(picture, planted)
    assert np.abs(registration.undo(bare, found) - picture)[inside].mean() < 0.5 * np.abs(bare - picture)[inside].mean()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "gravel"])
def test_a_picture_that_stays_is_not_moved(name: str) -> None:
    picture = photograph(name)
    M = middle(picture)
    blurred = ndimage.gaussian_filter(picture, (1, 1, 0))
    for painted in (
        picture,
        painted_over(picture, M, Motion(0, 0, 1)),
        blurred,
        painted_over(blurred, M, Motion(0, 0, 1)),
    ):
        assert registration.find_motion(painted, picture, M) is None


def test_another_picture_is_left_alone() -> None:
    pictures = [photograph(name)[:120, :120] for name in ("astronaut", "coffee", "chelsea", "gravel", "camera")]
    draw = np.random.default_rng(0)
    noise = draw.uniform(-1, 1, pictures[0].shape).astype(np.float32)
    for one in pictures:
        for other in (*pictures, noise, np.zeros_like(one), one[::-1].copy()):
            if other is not one:
                assert registration.find_motion(other, one, middle(one)) is None


def test_a_motion_beyond_any_painter_is_left_alone() -> None:
    picture = photograph("astronaut")
    for far in (Motion(20, 0, 1), Motion(0, 0, 1.08)):
        assert registration.find_motion(moved(picture, far), picture, middle(picture)) is None


def test_what_shows_nothing_tells_nothing() -> None:
    picture = photograph("astronaut")
    M, shifted = middle(picture), moved(picture, Motion(3, 2, 1))
    draw = np.random.default_rng(0)
    grain = draw.uniform(-0.004, 0.004, picture.shape).astype(np.float32)
    assert registration.find_motion(grain, np.zeros_like(picture), M) is None
    assert registration.find_motion(shifted, picture, np.ones_like(M)) is None
    assert registration.find_motion(shifted[:3, :3], picture[:3, :3], M[:3, :3]) is None
    assert registration.find_motion(shifted[:1], picture[:1], M[:1]) is None


def test_a_tiny_mask_and_a_large_one_tell_the_same() -> None:
    picture, planted = photograph("astronaut"), Motion(3, 2, 1)
    tiny, large = np.zeros((2, *picture.shape[:2]), dtype=bool)
    tiny[5, 5] = True
    large[:, 24:] = True
    for M in (np.zeros_like(tiny), tiny, large):
        found = registration.find_motion(moved(picture, planted), picture, M)
        assert found is not None
        assert apart(found, planted, picture.shape) < 0.25


def test_what_was_repainted_outside_of_the_mask_does_not_count() -> None:
    picture, planted = photograph("astronaut"), Motion(3, 2, 1)
    painted = moved(picture, planted)
    painted[120:, 120:] = photograph("coffee", 300)[:72, :72]
    painted[:48] *= 0.7
    found = registration.find_motion(painted, picture, middle(picture))
    assert found is not None
    assert apart(found, planted, picture.shape) < 0.25


def test_beyond_the_frame_the_rim_is_repeated() -> None:
    picture = photograph("astronaut")
    back = registration.undo(picture, Motion(4, 0, 1))
    assert np.abs(back[:, -4:] - picture[:, -1:]).max() < 1e-4
    assert np.abs(back[:, :-4] - picture[:, 4:]).max() < 1e-4
    assert np.abs(registration.undo(picture, Motion(0, 0, 1)) - picture).max() < 1e-5


def test_it_is_the_same_every_time_and_scales_with_the_picture() -> None:
    picture = photograph("chelsea")
    painted = painted_over(picture, middle(picture), Motion(3.5, -2, 1.01))
    found, again = (registration.find_motion(painted, picture, middle(picture)) for _ in range(2))
    assert found == again
    assert found is not None
    assert found.times(2) == Motion(2 * found.dx, 2 * found.dy, found.scale)
    assert Motion(3, 4, 1).at(100, 50) == 5
