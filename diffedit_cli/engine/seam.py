"""Beyond the paper: what is painted over takes on the colours around it, so that no patch shows.

P. Pérez, M. Gangnet, A. Blake, Poisson image editing, SIGGRAPH 2003, sections 2 and 3: painted pixels keep their
gradients and get the picture's own colours at the rim. It comes to this: the difference at the rim is continued inwards
by the smoothest surface there is, the harmonic one, and added.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

GRAIN = 256  # pixels of the longer side that the surface is computed in: it is smooth
MOST = 0.35  # in [-1, 1]: a rim that differs by more shows another thing, whose colour must not bleed in
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def blend_seam(painted: Floats, picture: Floats, M: Bools) -> Floats:
    """A painted picture (H, W, 3) in [-1, 1] with the colours of `picture` around the mask M (H, W), continued in it.

    Outside of the mask it stays as it was painted; so it does everywhere where the mask has no rim.
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
    """Values (h, w, bands) with those in the mask M (h, w) replaced by the harmonic continuation of those around it.

    Each is then the mean of its neighbours. Parts of the mask that no value is beside get 0.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    (height, width), (rows, columns) = M.shape, np.nonzero(M)
    number = np.full(M.shape, -1)
    number[rows, columns] = unknowns = np.arange(len(rows))
    neighbours = np.full(len(rows), 1e-6)  # beside nothing known any surface is smooth: then the flat one at 0
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
