"""Where an edit may paint, and what counts as a change: rooms, windows, differences and fills, on drawn masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_noise import HALF, SOURCE, close, constant, draw, trajectory
from numpy.typing import NDArray
from scipy import ndimage

from diffedit_cli.engine import region
from diffedit_cli.engine.diffedit import Text, edit
from diffedit_cli.engine.region import best_window, fill_region, find_changes, grow, roomy, rounded_box, window_around

SIZE = (256, 256)
Bools = NDArray[np.bool_]


def boxed(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Bools:
    """A mask (H, W), true in some boxes (top, left, bottom, right)."""
    M = np.zeros(size, dtype=bool)
    for top, left, bottom, right in boxes:
        M[top:bottom, left:right] = True
    return M


def ends(M: Bools) -> tuple[int, int, int, int]:
    """The box (top, left, bottom, right) that holds a mask."""
    rows, columns = np.flatnonzero(M.any(axis=1)), np.flatnonzero(M.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


# room around a mask


@pytest.mark.parametrize("room", [0.0, 0.4])
def test_nothing_gets_no_room(room: float) -> None:
    assert not roomy(boxed(), room).any()
    assert not grow(boxed(), room).any()


def test_without_room_a_mask_stays_as_it_is() -> None:
    M = boxed((100, 90, 140, 170))
    for spread in (roomy, grow):
        assert (spread(M, 0.0) == M).all()


@pytest.mark.parametrize(
    ("room", "expected"), [(0.25, (86, 70, 154, 190)), (0.5, (80, 50, 160, 210)), (2, (20, 0, 220, 256))]
)
def test_room_is_a_share_of_the_box_on_every_side(room: float, expected: tuple[int, int, int, int]) -> None:
    """And no less than 14 of 256 pixels, as on the short side of the first, unless less than the usual is asked for."""
    M = boxed((100, 90, 140, 170))
    found = roomy(M, room)
    assert ends(found) == expected
    assert found[M].all()


def test_little_room_is_little() -> None:
    least = region.LEAST_ROOM * 256 * 0.022 / 0.22
    assert ends(roomy(boxed((100, 90, 140, 170)), 0.022)) == pytest.approx((100, 88, 140, 172), abs=least + 1)
    assert ends(roomy(boxed((100, 100, 110, 110)), 0.11)) == pytest.approx((93, 93, 117, 117), abs=1)


def test_room_grows_with_the_picture() -> None:
    small, large = (
        boxed(tuple(side * times for side in (50, 45, 70, 85)), size=(128 * times,) * 2) for times in (1, 2)
    )
    assert (roomy(large, 0.3)[::2, ::2] == roomy(small, 0.3)).mean() > 0.99


def test_the_box_has_round_corners() -> None:
    box = (slice(50, 150), slice(20, 220))
    found = rounded_box(SIZE, box)
    assert ends(found) == (50, 20, 150, 220)
    assert not found[50, 20]
    assert not found[149, 219]
    assert found[50, 120]
    assert found[100, 20]
    assert 0.85 < found[box].mean() < 1  # rounder than the box, squarer than an ellipse
    assert (found == found[::-1]).sum() > 0
    assert (found[50:150] == found[50:150][::-1]).all()
    assert (found[:, 20:220] == found[:, 20:220][:, ::-1]).all()


def test_a_box_at_the_border_ends_with_the_picture() -> None:
    found = rounded_box(SIZE, (slice(0, 100), slice(0, 100)), 0.5)
    assert found[0, 0]
    assert ends(found) == (0, 0, 150, 150)


def test_specks_beside_the_mask_get_no_room() -> None:
    M = boxed((100, 100, 150, 150), (10, 10, 14, 14))
    found = roomy(M, 0.4)
    assert found[M].all()
    assert (found[:30, :30] == M[:30, :30]).all()
    assert not found[100:150, 60:79].any()
    assert found[120, 90]


def test_regions_of_some_size_get_room_each() -> None:
    M = boxed((20, 20, 60, 60), (180, 180, 204, 204))  # the second a bit more than a quarter of the first
    found = roomy(M, 0.5)
    assert found[40, 75]
    assert found[192, 170]
    assert not found[128, 128]


def test_what_goes_grows_by_its_own_outline_and_its_shadow() -> None:
    M = boxed((100, 100, 150, 200))
    found = grow(M, 0.1)
    assert ends(found) == (90, 90, 165, 210)
    assert not found[90, 90]  # by distance, not in a box
    assert (found == (ndimage.distance_transform_edt(~M) <= 10))[:135].all()
    shadow = found[160:]  # deepest under the middle, as wide as the thing
    assert (shadow.sum(axis=0)[[110, 150, 190]] > 0).tolist() == [False, True, False]
    two = grow(boxed((100, 20, 150, 60), (20, 150, 60, 200)), 0.1)  # each its own
    assert two[155, 40]
    assert two[65, 175]


# a window for what is added


def shown(*places: tuple[int, int, float], cells: int = 32) -> NDArray[np.float32]:
    """A map with blobs at some cells (row, column, height)."""
    seen = np.zeros((cells, cells), dtype=np.float32)
    for row, column, height in places:
        seen[row - 1 : row + 2, column - 1 : column + 2] = height
    return seen


def centre(M: Bools) -> tuple[float, float]:
    top, left, bottom, right = ends(M)
    return (top + bottom) / 2, (left + right) / 2


def test_a_window_is_where_a_map_shows_most() -> None:
    found = best_window(shown((16, 20, 1.0), (8, 8, 0.4)), SIZE)
    top, left, bottom, right = ends(found)
    assert (bottom - top, right - left) == (128, 128)  # half of the picture
    assert found[16 * 8 + 4, 20 * 8 + 4]


def test_a_window_stays_in_the_picture_and_in_its_shape() -> None:
    for size in ((256, 256), (200, 300), (300, 200)):
        rows, columns = (round(32 * side / max(size)) for side in size)
        seen = np.zeros((rows, columns), dtype=np.float32)
        seen[-1, -1] = 1.0
        found = best_window(seen, size)
        assert found.shape == size
        top, left, bottom, right = ends(found)
        assert (bottom - top, right - left) == (min(size) // 2,) * 2
        assert (bottom, right) == pytest.approx(size, abs=max(size) / 32)


def test_a_flat_map_shows_no_place_and_some_window_is_found() -> None:
    for seen in (np.zeros((32, 32), dtype=np.float32), np.ones((1, 1), dtype=np.float32)):
        assert best_window(seen, SIZE).sum() > 0.8 * 128**2


@pytest.mark.parametrize(
    ("at", "expected"),
    [((128, 100), (100, 128)), ((0, 0), (64, 64)), ((255, 255), (192, 192)), ((40, 255), (192, 64))],
)
def test_a_window_around_a_point(at: tuple[int, int], expected: tuple[float, float]) -> None:
    """(x, y), and the window as near to it as the picture lets it."""
    found = window_around(SIZE, at)
    assert centre(found) == expected
    assert found[min(at[1], 250), min(at[0], 250)] or at in ((0, 0), (255, 255))


def test_a_window_lies_beside_what_is_there() -> None:
    there = boxed((64, 20, 192, 140))
    seen = shown((16, 12, 1.0), (16, 22, 0.3))
    assert (best_window(seen, SIZE) & there).any()
    found = best_window(seen, SIZE, avoid=there)
    assert not (found & there).any()
    assert found.sum() > 0.5 * 128**2
    assert centre(found)[1] > 160
    near = ndimage.distance_transform_edt(~there) <= region.BESIDE * 256
    assert not (found & near).any()


def test_a_window_with_nothing_to_avoid_is_whole() -> None:
    seen = shown((16, 20, 1.0))
    assert (best_window(seen, SIZE, avoid=boxed()) == best_window(seen, SIZE)).all()


def test_what_is_all_there_leaves_no_window() -> None:
    assert not best_window(shown((16, 20, 1.0)), SIZE, avoid=boxed((0, 0, 256, 256))).any()


# what changed


def painted(*boxes: tuple[tuple[int, int, int, int], int]) -> NDArray[np.uint8]:
    """A grey picture with boxes that are so much brighter in green."""
    pixels = np.full((*SIZE, 3), 100, dtype=np.uint8)
    for (top, left, bottom, right), apart in boxes:
        pixels[top:bottom, left:right, 1] += apart
    return pixels


BEFORE = painted()
THING = (100, 100, 150, 150)
RIM = (99, 99, 151, 151)


def test_what_differs_by_more_than_the_limit_changed_and_a_pixel_around_it() -> None:
    for apart, is_change in ((51, True), (50, False), (26, False)):
        found = find_changes(painted((THING, apart)), BEFORE, 50.0)
        assert found.any() == is_change
    found = find_changes(painted((THING, 51)), BEFORE, 50.0)
    assert ends(found) == RIM
    assert found[100:150, 100:150].all()


def test_it_does_not_matter_which_is_brighter_or_in_which_colour() -> None:
    brighter = painted((THING, 80))
    found = find_changes(brighter, BEFORE, 50.0)
    assert (find_changes(BEFORE, brighter, 50.0) == found).all()
    assert (find_changes(brighter[..., [2, 0, 1]], BEFORE, 50.0) == found).all()


def test_a_faint_change_counts_where_it_touches_a_strong_one() -> None:
    beside, apart = (120, 150, 130, 180), (200, 20, 230, 50)
    found = find_changes(painted((THING, 80), (beside, 30), (apart, 30)), BEFORE, 50.0)
    assert found[120:130, 150:180].all()
    assert not found[195:, :60].any()
    found = find_changes(painted((THING, 80), (beside, 25)), BEFORE, 50.0)  # no more than half of the limit
    assert not found[125, 160:].any()


def test_what_only_moved_a_little_is_no_change() -> None:
    """An edge that the model draws a pixel or two elsewhere is the same edge; a thing that goes leaves no rim."""
    ground = np.arange(SIZE[0])[:, None, None] >= 128
    before, moved, far = (np.where(np.roll(ground, rows, axis=0), BEFORE + 80, BEFORE) for rows in (0, 2, 5))
    before, moved, far = (one.astype(np.uint8)[8:-8] for one in (before, moved, far))  # without what rolls over
    assert not find_changes(moved, before, 50.0).any()
    assert find_changes(far, before, 50.0)[122:124].all()
    assert ends(find_changes(BEFORE, painted((THING, 80)), 50.0)) == RIM


def test_what_belongs_to_something_else_is_no_change() -> None:
    """What hardly lies on what gives way, and is not the largest, is dropped with the bridge between, and a horizon;
    a tail stays."""
    new, other = (100, 100, 160, 160), (100, 190, 130, 220)
    bridge, tail, horizon = (120, 160, 124, 190), (60, 120, 100, 128), (110, 30, 113, 100)
    old = np.zeros(SIZE, dtype=bool)
    old[110:150, 110:150] = True
    pixels = painted((new, 80), (other, 80), (bridge, 80), (tail, 80), (horizon, 80))
    found = find_changes(pixels, BEFORE, 50.0, old)
    assert found[100:160, 100:160].all()
    assert found[62:100, 121:127].all()
    assert not found[:, 190:].any()
    assert not found[:, :90].any()
    assert find_changes(pixels, BEFORE, 50.0)[100:130, 190:220].all()
    assert find_changes(painted((horizon, 80)), BEFORE, 50.0, old)[111, 40:90].all()  # there is nothing else
    both = old.copy()
    both[100:130, 190:200] = True
    assert find_changes(pixels, BEFORE, 50.0, both)[100:130, 190:220].all()


def test_ground_that_a_mask_took_with_a_thing_is_told_from_it() -> None:
    """Up to its edge, over a slope of colours, but not into it; nothing of a thing that is like what is around it."""
    ground = np.arange(256, dtype=np.uint8)[:, None, None] // 3 + np.zeros((256, 256, 3), dtype=np.uint8)
    thing, mask = np.zeros((2, *SIZE), dtype=bool)
    thing[100:150, 100:150], mask[80:170, 60:190] = True, True
    picture = np.where(thing[..., None], ground + 60, ground).astype(np.uint8)
    assert (region.grow_into(picture, mask) == (mask & ~thing)).all()
    assert not region.grow_into(picture, thing).any()
    assert (region.grow_into(ground, thing)[[100, 149], 100:150]).all()


def test_specks_are_dropped() -> None:
    speck, part = (20, 20, 24, 24), (200, 200, 215, 215)  # of 2500 pixels less than a twentieth, and more
    found = find_changes(painted((THING, 80), (speck, 80), (part, 80)), BEFORE, 50.0)
    assert not found[:40, :40].any()
    assert found[200:215, 200:215].all()
    assert find_changes(painted((speck, 80)), BEFORE, 50.0)[20:24, 20:24].all()  # alone it is the largest


def test_holes_are_filled_and_near_parts_joined() -> None:
    pixels = painted((THING, 80), ((100, 153, 150, 180), 80))
    pixels[115:135, 115:135] = 100
    found = find_changes(pixels, BEFORE, 50.0)
    assert found[103:147, 100:180].all()
    far = find_changes(painted((THING, 80), ((100, 170, 150, 190), 80)), BEFORE, 50.0)
    assert not far[125, 155:165].any()


def test_changes_at_the_border_are_whole() -> None:
    found = find_changes(painted(((0, 0, 40, 256), 80)), BEFORE, 50.0)
    assert found[:40].all()
    assert not found[41:].any()


def test_nothing_changed_is_nothing_and_at_a_limit_of_0_all_that_differs_is() -> None:
    assert not find_changes(BEFORE, BEFORE, 50.0).any()
    assert not find_changes(BEFORE, BEFORE, 0.0).any()
    assert ends(find_changes(painted((THING, 1)), BEFORE, 0.0)) == RIM


# what an edit starts from


def test_an_edit_starts_from_what_is_put_under_its_noise_in_its_mask() -> None:
    """With constant noises, of which inversion and edit are exact, that is what comes out."""
    text, x_0 = Text(SOURCE), draw(0)
    given = trajectory(constant(), text)
    for under in (torch.zeros_like(x_0), draw(3)):
        *_, y_0 = edit(constant(), given, HALF, text, under=under)
        close(y_0, torch.where(HALF > 0, under, x_0))


# what a hole is filled with


def test_a_fill_is_of_what_is_around_it_and_nothing_else_changes() -> None:
    pixels = np.empty((*SIZE, 3), dtype=np.uint8)
    pixels[:], pixels[:, 128:] = (200, 40, 40), (40, 40, 200)
    M = boxed((60, 100, 200, 156))
    pixels[M] = (0, 255, 0)
    found = fill_region(pixels, M)
    assert (found[~M] == pixels[~M]).all()
    inside = found[M].astype(int)
    assert inside[:, 1].max() <= 41
    assert (found[130, 102] == pytest.approx((200, 40, 40), abs=12)) & (
        found[130, 153] == pytest.approx((40, 40, 200), abs=12)
    )
    steps = np.abs(np.diff(found[130].astype(int), axis=0)).max()
    assert steps < 80  # it goes over from one to the other


@pytest.mark.parametrize("M", [boxed(), boxed((0, 0, 256, 256))])
def test_where_there_is_no_hole_or_nothing_around_it_a_picture_stays(M: Bools) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert (fill_region(pixels, M) == pixels).all()
