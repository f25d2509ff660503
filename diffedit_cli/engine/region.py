"""Beyond the paper: the region that an edit paints in, and how much of what it painted is kept.

Masks are boolean (H, W), pictures (H, W, 3) of 8 bits, maps (h, w) of the latents' cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

LARGE = 0.25  # of the largest region: smaller ones get no room
LEAST_ROOM = 14 / 256  # of the picture's longer side, around an object that gets room
SHADOW_DEPTH, SHADOW_WIDTH = 0.15, 0.55  # of a thing's longer side and its width, from the middle of its feet
ROUNDNESS = 4  # exponent of the superellipse that a box is rounded to
WINDOW = 0.5  # of the picture's shorter side: what is added where nothing says how large
OVERLAP = 2.0  # how much a window's share on what is there counts against the share of the map that it shows
BESIDE = 4 / 256  # of the picture's longer side, kept free around what is there
FAINT = 0.5  # of the limit: a change so small counts where it touches one above the limit
SPECK = 0.05  # of the largest change: smaller ones are dropped
CLOSING = 2  # pixels, over which changes grow together
MOVED = 2  # pixels: an edge that lies elsewhere by so little is the same edge
BRIDGE = 3  # pixels: what is up to twice as wide is thin: an edge, or a bridge between two changes
ON_THE_OLD = 0.2  # of a change's clear pixels those on what gives way, lest it is of something else
SMOOTH = 10.0  # of 255: colours that change by less along a way are of one ground
FILL_BLUR = 0.25  # of the reach of a region, by which its fill is smoothed


def roomy(M: Bools, room: float) -> Bools:
    """A mask and, around each of its large regions, a rounded box with `room` times its sides on every side."""
    if not room or not M.any():
        return M
    result, least = M.copy(), LEAST_ROOM * max(M.shape) * min(1.0, room / 0.22)
    for box in _large(M):
        result |= rounded_box(M.shape, box, room, least)
    return result


def rounded_box(shape: tuple[int, ...], box: tuple[slice, ...], room: float = 0.0, least: float = 0.0) -> Bools:
    """A box, grown by a share of its sides and by `least` pixels at least, with rounded corners, in a mask (H, W)."""
    shares = []
    for span, length in zip(box, shape, strict=True):
        half = (span.stop - span.start) / 2
        reach = half + max(room * 2 * half, least)
        shares.append(np.abs((np.arange(length) + 0.5 - (span.start + span.stop) / 2) / reach) ** ROUNDNESS)
    down, across = shares
    rows, columns = (np.flatnonzero(share <= 1) for share in shares)
    found = np.zeros(shape, dtype=bool)  # computed in the box alone: pictures are large
    found[np.ix_(rows, columns)] = down[rows, None] + across[columns] <= 1
    return found


def widen(M: Bools, reach: float) -> Bools:
    """A mask grown by so many pixels."""
    from scipy import ndimage

    if not M.any():  # to nothing there is no distance
        return M
    wider: Bools = ndimage.distance_transform_edt(~M) <= reach
    return wider


def grow(M: Bools, room: float) -> Bools:
    """A mask grown by `room` times the longer side of its box, and by a flat ellipse at the feet of each large region:
    the shadow that a thing throws there goes with it."""
    if not room or not M.any():
        return M
    rows, columns = np.flatnonzero(M.any(axis=1)), np.flatnonzero(M.any(axis=0))
    found = widen(M, room * max(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
    for down, across in _large(M):
        height, width = down.stop - down.start, across.stop - across.start
        below = (np.arange(M.shape[0]) + 0.5 - down.stop) / (SHADOW_DEPTH * max(height, width))
        beside = (np.arange(M.shape[1]) + 0.5 - (across.start + across.stop) / 2) / (SHADOW_WIDTH * width)
        found |= below[:, None] ** 2 + beside**2 <= 1
    return found


def _large(M: Bools) -> list[tuple[slice, slice]]:
    """The boxes of its large regions."""
    from scipy import ndimage

    regions, count = ndimage.label(M)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    boxes = zip(ndimage.find_objects(regions), sizes, strict=True)
    return [box for box, size in boxes if size >= LARGE * sizes.max()]


def window_around(shape: tuple[int, int], at: tuple[int, int]) -> Bools:
    """The rounded square of the usual size, in a mask (H, W), around a pixel (x, y) as far as the picture has room."""
    (height, width), side = shape, round(WINDOW * min(shape))
    top = min(max(0, at[1] - side // 2), height - side)
    left = min(max(0, at[0] - side // 2), width - side)
    return rounded_box(shape, (slice(top, top + side), slice(left, left + side)))


def best_window(seen: NDArray[np.float32], shape: tuple[int, int], avoid: Bools | None = None) -> Bools:
    """The rounded square of the usual size, in a mask (H, W), where a map (h, w) shows most.

    It lies beside what it is to `avoid` (H, W), as far as there is room, and never on it.
    """
    from scipy import ndimage

    cell = max(shape) / max(seen.shape)
    cells = max(1, round(round(WINDOW * min(shape)) / cell))
    taken = np.zeros(seen.shape) if avoid is None else _shares(avoid, seen.shape)
    score = ndimage.uniform_filter(seen * (1 - taken), cells, mode="constant")
    score = score / max(score.max(), 1e-12) - OVERLAP * ndimage.uniform_filter(taken, cells, mode="constant")
    edge, (rows, columns) = cells // 2, (length - cells + 1 for length in seen.shape)  # where a window may begin
    inner = score[edge : edge + rows, edge : edge + columns]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    window = window_around(shape, (round((column + cells / 2) * cell), round((row + cells / 2) * cell)))
    if avoid is None or not avoid.any():
        return window
    free: Bools = window & (ndimage.distance_transform_edt(~avoid) > BESIDE * max(shape))
    return free


def _shares(M: Bools, grid: tuple[int, ...]) -> NDArray[np.float64]:
    """How much of each cell (h, w) a mask (H, W) covers, 0 to 1."""
    image = Image.fromarray(M.astype(np.uint8) * 255).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return np.asarray(image) / 255


def find_changes(painted: Pixels, before: Pixels, limit: float, old: Bools | None = None) -> Bools:
    """Where two pictures differ by more than a limit of 255 in any colour; what differs by half of that and touches it
    counts, too. What is only moved a little does not differ. Specks are dropped, near parts joined and holes filled.

    `old` is what gives way: what hardly lies on it, and is not the largest, is of something else and dropped, and so
    are thin lines, which are edges of what is behind.
    """
    from scipy import ndimage

    apart = _difference(painted, before)
    differs, clear = apart > limit * FAINT, apart > limit
    if old is not None and old.any():
        differs &= _of_the_edit(differs, clear, old)
    kept = _largest(differs, clear)
    if not kept.any():
        return kept
    kept = ndimage.binary_closing(np.pad(kept, 2 * CLOSING), iterations=CLOSING)[
        2 * CLOSING : -2 * CLOSING, 2 * CLOSING : -2 * CLOSING
    ]
    found: Bools = ndimage.binary_dilation(ndimage.binary_fill_holes(kept))
    return found


def _difference(one: Pixels, other: Pixels) -> NDArray[np.int16]:
    """How much a pixel (H, W) of either has, in the colour where it is most, that the other has nowhere near."""
    return np.maximum(_beyond(one, other), _beyond(other, one))


def _beyond(one: Pixels, other: Pixels) -> NDArray[np.int16]:
    """The least difference to the other, moved by up to MOVED pixels."""
    (height, width), now = one.shape[:2], one.astype(np.int16)
    around = np.pad(other.astype(np.int16), ((MOVED, MOVED), (MOVED, MOVED), (0, 0)), mode="edge")
    least = np.full((height, width), 255, dtype=np.int16)
    for down, across in np.argwhere(_disk(MOVED)):
        moved = around[down : down + height, across : across + width]
        np.minimum(least, np.abs(now - moved).max(axis=2), out=least)
    return least


def _of_the_edit(differs: Bools, clear: Bools, old: Bools) -> Bools:
    """Where changes lie on `old`, and the largest; without the thin ones beside them, which are edges of other things.
    Everywhere, if all are thin."""
    from scipy import ndimage

    joined = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(differs, 8), _disk(CLOSING)))[8:-8, 8:-8]
    regions, count = ndimage.label(ndimage.binary_opening(joined, _disk(BRIDGE)))
    if not count:
        return np.ones_like(differs)
    sizes, inside = (np.bincount(regions.ravel(), what.ravel(), count + 1)[1:] for what in (clear, clear & old))
    ours = (inside >= ON_THE_OLD * sizes) | (sizes == sizes.max())
    found: Bools = ndimage.binary_dilation(np.concatenate([[False], ours])[regions], _disk(BRIDGE + 1))
    return found


def _largest(differs: Bools, clear: Bools) -> Bools:
    """The regions that hold more than specks of what differs clearly."""
    from scipy import ndimage

    regions, count = ndimage.label(differs)
    strong = np.bincount(regions.ravel(), clear.ravel(), count + 1)
    strong[0] = 0
    found: Bools = (strong >= max(1.0, SPECK * strong.max()))[regions]
    return found


def _disk(radius: int) -> Bools:
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    within: Bools = down**2 + across**2 <= radius * (radius + 1)
    return within


def grow_into(picture: Pixels, M: Bools) -> Bools:
    """The part of a mask (H, W) that what is around it runs into without an edge: it is no part of the thing.

    The colours change by less than SMOOTH of 255 on some way to there (geodesic distance: X. Bai, G. Sapiro, 2007).
    """
    from scipy import ndimage, sparse
    from scipy.sparse.csgraph import dijkstra

    cells, colours = np.arange(M.size).reshape(M.shape), picture.astype(np.float32)
    rim = cells[~M & ndimage.binary_dilation(M)]
    outside = np.full(rim.size, M.size)  # one more node, next to all of the rim
    begins, ends, steps = [outside], [rim], [np.zeros(rim.size, dtype=np.float32)]
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        begins.append(cells[one].ravel())
        ends.append(cells[other].ravel())
        steps.append(np.abs(colours[one] - colours[other]).max(axis=2).ravel())
    ways = (np.concatenate(steps) + 1e-3, (np.concatenate(begins), np.concatenate(ends)))  # a step of 0 would be none
    graph = sparse.coo_matrix(ways, shape=(M.size + 1,) * 2).tocsr()
    away = dijkstra(graph, directed=False, indices=M.size, limit=SMOOTH)[:-1].reshape(M.shape)
    found: Bools = M & (away < SMOOTH)
    return found


def fill_region(picture: Pixels, M: Bools) -> Pixels:
    """The picture with the nearest pixels around the mask smoothed over it: nothing of what was there is left."""
    from scipy import ndimage

    if M.all() or not M.any():
        return picture
    distance, nearest = ndimage.distance_transform_edt(M, return_indices=True)
    spread = picture[tuple(nearest)].astype(np.float32)
    blur = FILL_BLUR * float(distance.max())
    smooth = np.stack([ndimage.gaussian_filter(spread[..., band], blur) for band in range(3)], axis=2)
    return np.where(M[..., None], smooth.round().astype(np.uint8), picture)
