"""Beyond the paper: Poisson blending matches painted pixels to the colours around them, so that no seam shows.

Source: P. Pérez, M. Gangnet, A. Blake, Poisson image editing, SIGGRAPH 2003, sections 2 and 3. Painted pixels keep
their gradients and get the picture's colours at the rim of the mask. This is equivalent to adding the colour difference
at the rim, continued into the mask by the smoothest surface, the harmonic one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

GRAIN = 256  # pixels of the longer side at which the surface is computed: it is smooth, so that this is enough
MOST = 0.35  # of a range of [-1, 1]: a larger difference at the rim is another object, whose colour must not bleed in
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def blend_seam(painted: Floats, picture: Floats, M: Bools) -> Floats:
    """Returns a painted picture, matched inside the mask to the original colours around it.

    Args:
        painted: (H, W, 3) painted picture in [-1, 1].
        picture: (H, W, 3) original picture in [-1, 1].
        M: (H, W) boolean mask of the painted pixels.

    Returns:
        Picture (H, W, 3) in [-1, 1], float32. It equals `painted` outside of the mask, and everywhere if the mask is
        empty or covers everything and so has no rim.
    """
    height, width = M.shape
    scale = min(1.0, GRAIN / max(M.shape))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    m = _small(M.astype(np.float32), size) > 0
    if m.all() or not m.any():
        return painted
    apart = np.clip(picture - painted, -MOST, MOST)
    surface = continue_colours(np.stack([_small(apart[..., band], size) for band in range(3)], axis=2), m)
    shift = np.stack([_large(surface[..., band], (width, height)) for band in range(3)], axis=2)
    return np.where(M[..., None], np.clip(painted + shift, -1, 1), painted).astype(np.float32)


def continue_colours(values: Floats, M: Bools) -> Floats:
    """Returns values with those in a mask replaced by the harmonic continuation of those around it.

    Each replaced value is the mean of its neighbours (four, fewer at the border of the array).

    Args:
        values: (h, w, bands) values, float32.
        M: (h, w) boolean mask.

    Returns:
        Values (h, w, bands), float32; 0 in parts of the mask that have no neighbour outside of it.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    (height, width), (rows, columns) = M.shape, np.nonzero(M)
    number = np.full(M.shape, -1)
    number[rows, columns] = unknowns = np.arange(len(rows))
    neighbours = np.full(
        len(rows), 1e-6
    )  # keeps the system solvable where no neighbour is known; the solution is 0 there
    around = np.zeros((len(rows), values.shape[2]))
    pairs = []
    for down, right in NEIGHBOURS:
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x, some = y[inside], x[inside], unknowns[inside]
        other = number[y, x]
        neighbours[some] += 1
        around[some] += np.where(other[:, None] < 0, values[y, x], 0)
        pairs.append(np.stack([some, other])[:, other >= 0])
    one, other = np.concatenate(pairs, axis=1)
    beside = sparse.coo_array((np.ones(len(one)), (one, other)), shape=(len(rows),) * 2)
    found = values.astype(np.float32)
    found[rows, columns] = splu((sparse.diags_array(neighbours) - beside).tocsc()).solve(around)
    return found


def _small(band: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(band.astype(np.float32)).resize(size, Image.Resampling.BOX))


def _large(band: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BILINEAR))
