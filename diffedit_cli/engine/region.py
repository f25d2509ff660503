"""Beyond the paper: the region that an edit may paint in, and the part of the painted pixels that is kept.

Masks are boolean (H, W), pictures uint8 (H, W, 3), maps float (h, w) with one value per latent cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

LARGE = 0.25  # share of the largest region's area: smaller regions get no room
LEAST_ROOM = 14 / 256  # least room around an object, as a share of the picture's longer side
SHADOW_DEPTH, SHADOW_WIDTH = 0.15, 0.55  # half axes of a shadow: shares of an object's longer side and of its width
ROUNDNESS = 4  # exponent of the superellipse that rounds a box
WINDOW = 0.5  # side of the window for an added object of unknown size: share of the picture's shorter side
OVERLAP = 2.0  # weight of a window's overlap with existing objects against the share of the map that it shows
BESIDE = 4 / 256  # margin kept free around existing objects, as a share of the picture's longer side
FAINT = 0.5  # share of the limit: changes above it count where they touch a change above the limit
SPECK = 0.05  # share of the largest change's pixels: smaller changes are dropped
CLOSING = 2  # pixels: radius of the closing that joins changes
MOVED = 2  # pixels: an edge displaced by up to this is unchanged
BRIDGE = 3  # pixels: parts up to twice as wide are thin: an edge, or a bridge between two changes
ON_THE_OLD = 0.2  # least share of a change's clear pixels on the old object; with less it belongs to something else
SMOOTH = 10.0  # of 255: places belong to the same ground if the colours change by less in total on a path between them
FILL_BLUR = 0.25  # sigma of a fill's blur, as a share of the greatest distance from the region's border


def roomy(M: Bools, room: float) -> Bools:
    """Returns a mask with room around each of its large regions: a rounded box, grown on every side.

    Args:
        M: (H, W) mask.
        room: Growth of a region's bounding box on every side, as a share of the box's sides; at least LEAST_ROOM of
            the picture's longer side, in proportion less for a `room` below 0.22. 0 adds nothing.

    Returns:
        Mask (H, W).
    """
    if not room or not M.any():
        return M
    result, least = M.copy(), LEAST_ROOM * max(M.shape) * min(1.0, room / 0.22)
    for box in _large(M):
        result |= rounded_box(M.shape, box, room, least)
    return result


def rounded_box(shape: tuple[int, ...], box: tuple[slice, ...], room: float = 0.0, least: float = 0.0) -> Bools:
    """Returns the mask of a box with rounded corners.

    Args:
        shape: (H, W) of the mask.
        box: Slices of the rows and the columns.
        room: Growth on every side, as a share of the box's sides. Default 0.
        least: Least growth on every side, in pixels. Default 0.

    Returns:
        Mask (H, W).
    """
    shares = []
    for span, length in zip(box, shape, strict=True):
        half = (span.stop - span.start) / 2
        reach = half + max(room * 2 * half, least)
        shares.append(np.abs((np.arange(length) + 0.5 - (span.start + span.stop) / 2) / reach) ** ROUNDNESS)
    down, across = shares
    rows, columns = (np.flatnonzero(share <= 1) for share in shares)
    found = np.zeros(shape, dtype=bool)  # computed in the box alone, as pictures are large
    found[np.ix_(rows, columns)] = down[rows, None] + across[columns] <= 1
    return found


def widen(M: Bools, reach: float) -> Bools:
    """Returns a mask grown by a distance.

    Args:
        M: (H, W) mask.
        reach: Euclidean distance in pixels.

    Returns:
        Mask (H, W).
    """
    from scipy import ndimage

    if not M.any():  # the distance transform needs a masked pixel
        return M
    wider: Bools = ndimage.distance_transform_edt(~M) <= reach
    return wider


def grow(M: Bools, room: float) -> Bools:
    """Returns a mask grown for a removal: by a margin, and by the shadow at the foot of each large region.

    Args:
        M: (H, W) mask.
        room: Margin as a share of the longer side of the mask's bounding box. 0 adds neither margin nor shadow.

    Returns:
        Mask (H, W). A shadow is a flat ellipse around the middle of a region's lower edge.
    """
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
    """Returns the bounding boxes of the large regions, rows and columns."""
    from scipy import ndimage

    regions, count = ndimage.label(M)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    boxes = zip(ndimage.find_objects(regions), sizes, strict=True)
    return [box for box, size in boxes if size >= LARGE * sizes.max()]


def window_around(shape: tuple[int, int], at: tuple[int, int]) -> Bools:
    """Returns the window for an added object around a pixel: a rounded square of side WINDOW.

    Args:
        shape: (H, W) of the picture.
        at: Pixel (x, y) at the centre. The window is moved into the picture where it would leave it.

    Returns:
        Mask (H, W).
    """
    (height, width), side = shape, round(WINDOW * min(shape))
    top = min(max(0, at[1] - side // 2), height - side)
    left = min(max(0, at[0] - side // 2), width - side)
    return rounded_box(shape, (slice(top, top + side), slice(left, left + side)))


def best_window(seen: NDArray[np.float32], shape: tuple[int, int], avoid: Bools | None = None) -> Bools:
    """Returns the window for an added object where a map is highest: a rounded square of side WINDOW.

    Args:
        seen: (h, w) map, at least 0.
        shape: (H, W) of the picture.
        avoid: (H, W) mask of existing objects. The window lies beside them as far as there is room, and their pixels
            with a margin are cut out of it. Default: none.

    Returns:
        Mask (H, W).
    """
    from scipy import ndimage

    cell = max(shape) / max(seen.shape)
    cells = max(1, round(round(WINDOW * min(shape)) / cell))
    taken = np.zeros(seen.shape) if avoid is None else _shares(avoid, seen.shape)
    score = ndimage.uniform_filter(seen * (1 - taken), cells, mode="constant")
    score = score / max(score.max(), 1e-12) - OVERLAP * ndimage.uniform_filter(taken, cells, mode="constant")
    edge, (rows, columns) = cells // 2, (length - cells + 1 for length in seen.shape)  # centres of whole windows
    inner = score[edge : edge + rows, edge : edge + columns]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    window = window_around(shape, (round((column + cells / 2) * cell), round((row + cells / 2) * cell)))
    if avoid is None or not avoid.any():
        return window
    free: Bools = window & (ndimage.distance_transform_edt(~avoid) > BESIDE * max(shape))
    return free


def _shares(M: Bools, grid: tuple[int, ...]) -> NDArray[np.float64]:
    """Returns the share of each cell (h, w) that a mask (H, W) covers, 0 to 1."""
    image = Image.fromarray(M.astype(np.uint8) * 255).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return np.asarray(image) / 255


def find_changes(painted: Pixels, before: Pixels, limit: float, old: Bools | None = None) -> Bools:
    """Returns where two pictures differ, with specks dropped, near parts joined and holes filled.

    Pixels differ if any colour channel differs by more than the limit, or by more than FAINT of it in a region that
    contains such a pixel. An edge displaced by up to MOVED pixels is no difference.

    Args:
        painted: (H, W, 3) painted picture, uint8.
        before: (H, W, 3) picture that it is compared with, uint8.
        limit: Difference above which a pixel has changed, 0 to 255.
        old: (H, W) mask of the object that is replaced. Changes that hardly lie on it, but for the largest one, belong
            to something else and are dropped, as are thin lines, which are edges in the background. Default: none.

    Returns:
        Mask (H, W), one pixel wider than the changes; empty if nothing changed.
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
    """Returns the difference (H, W) of pixels to their best match nearby, the larger one of both directions."""
    return np.maximum(_beyond(one, other), _beyond(other, one))


def _beyond(one: Pixels, other: Pixels) -> NDArray[np.int16]:
    """Returns the least difference (H, W), that of the largest channel, to the other moved by up to MOVED pixels."""
    now, then = (np.ascontiguousarray(pixels.transpose(2, 0, 1), np.int16) for pixels in (one, other))
    (height, width), around = one.shape[:2], np.pad(then, ((0, 0), (MOVED, MOVED), (MOVED, MOVED)), mode="edge")
    least = np.full((height, width), 255, dtype=np.int16)
    for down, across in np.argwhere(_disk(MOVED)):
        moved = around[:, down : down + height, across : across + width]
        np.minimum(least, np.abs(now - moved).max(axis=0), out=least)
    return least


def _of_the_edit(differs: Bools, clear: Bools, old: Bools) -> Bools:
    """Returns a region (H, W) around the changes on `old` and the largest change, but not around thin changes.

    Thin changes are edges of other things. If all changes are thin, the region is the whole picture.
    """
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
    """Returns the regions of `differs` whose number of clear pixels is at least SPECK of the largest number."""
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
    """Returns the part of an object's mask that belongs to the ground around it, as no edge lies between them.

    It is where the colours change by less than SMOOTH of 255 in total on some path from outside of the mask (geodesic
    distance: X. Bai, G. Sapiro, 2007).

    Args:
        picture: (H, W, 3) picture, uint8.
        M: (H, W) mask of the object.

    Returns:
        Mask (H, W) within `M`.
    """
    from scipy import ndimage, sparse
    from scipy.sparse.csgraph import dijkstra

    cells, colours = np.arange(M.size).reshape(M.shape), picture.astype(np.float32)
    rim = cells[~M & ndimage.binary_dilation(M)]
    outside = np.full(rim.size, M.size)  # an additional node, connected to every pixel of the rim
    begins, ends, steps = [outside], [rim], [np.zeros(rim.size, dtype=np.float32)]
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        begins.append(cells[one].ravel())
        ends.append(cells[other].ravel())
        steps.append(np.abs(colours[one] - colours[other]).max(axis=2).ravel())
    ways = (np.concatenate(steps) + 1e-3, (np.concatenate(begins), np.concatenate(ends)))  # length 0 is no edge
    graph = sparse.coo_matrix(ways, shape=(M.size + 1,) * 2).tocsr()
    away = dijkstra(graph, directed=False, indices=M.size, limit=SMOOTH)[:-1].reshape(M.shape)
    found: Bools = M & (away < SMOOTH)
    return found


def fill_region(picture: Pixels, M: Bools) -> Pixels:
    """Returns a picture with a region filled by the nearest pixels around it, smoothed.

    Args:
        picture: (H, W, 3) picture, uint8.
        M: (H, W) mask of the region. If it is empty or covers everything, the picture stays as it is.

    Returns:
        Picture (H, W, 3), uint8, without anything of the region's old content.
    """
    from scipy import ndimage

    if M.all() or not M.any():
        return picture
    distance, nearest = ndimage.distance_transform_edt(M, return_indices=True)
    spread = picture[tuple(nearest)].astype(np.float32)
    blur = FILL_BLUR * float(distance.max())
    smooth = np.stack([ndimage.gaussian_filter(spread[..., band], blur) for band in range(3)], axis=2)
    return np.where(M[..., None], smooth.round().astype(np.uint8), picture)
