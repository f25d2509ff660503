"""Beyond the paper: painted pixels take on the colours around them, so that no seam shows.

A model repaints the surroundings of a mask too. How they differ there from the picture is the error of its colours, and
both functions carry it into the mask: `match_colours` as one shift for each region, `blend_gradients` as the smoothest
surface, which is Poisson blending (P. Pérez, M. Gangnet, A. Blake, Poisson image editing, SIGGRAPH 2003, sections 2
and 3): painted pixels keep their gradients, and have the picture's colours at the rim. Where the difference is too
large for an error, one of the two pictures shows another object; such pixels say nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

GRAIN = 512  # pixels of the longer side at which the surface is computed: it is smooth, so that this is enough
MOST = 0.25  # of a range of [-1, 1]: a larger difference is another object, whose colour must not bleed in
WINDOW = 5  # pixels: side of the square around a pixel in which nothing may be another object: its edges are soft


def match_colours(painted: Floats, picture: Floats, M: Bools, reach: float) -> Floats:
    """Returns a painted picture with each region of the mask shifted to the picture's colours in a ring around it.

    The shift is the median difference in the ring, for each colour channel. A scale would not do: estimated from one
    ring, it takes a slope across the picture for contrast (see docs/regions.md).

    Args:
        painted: (H, W, 3) painted picture in [-1, 1], also of the surroundings of the mask.
        picture: (H, W, 3) original picture in [-1, 1].
        M: (H, W) boolean mask of the painted pixels.
        reach: Width of the ring in pixels, at least 1.

    Returns:
        Picture (H, W, 3) in [-1, 1], float32. Outside of the mask it is the painted picture, shifted like the nearest
        region. Without a ring it is `painted`.
    """
    from scipy import ndimage

    if M.all() or not M.any():
        return painted
    regions, count = ndimage.label(M, np.ones((3, 3)))
    away, nearest = ndimage.distance_transform_edt(~M, return_indices=True)
    near, apart = regions[tuple(nearest)], picture - painted
    ring = np.where((away <= max(1.0, reach)) & _reliable(apart, M), near, 0)
    told = np.unique(ring)[1:]
    shift = np.zeros((count + 1, 3), dtype=np.float32)
    for band in range(3):
        shift[told, band] = ndimage.median(apart[..., band], ring, told)
    return _shifted(painted, shift[near])


def blend_gradients(painted: Floats, picture: Floats, M: Bools) -> Floats:
    """Returns a painted picture that keeps its gradients in the mask, and meets the picture's colours at its rim.

    Args:
        painted: (H, W, 3) painted picture in [-1, 1], also of the surroundings of the mask.
        picture: (H, W, 3) original picture in [-1, 1].
        M: (H, W) boolean mask of the painted pixels.

    Returns:
        Picture (H, W, 3) in [-1, 1], float32. Outside of the mask it is the painted picture, shifted like the nearest
        pixel of the rim. Without a rim it is `painted`.
    """
    from scipy import ndimage

    height, width = M.shape
    scale = min(1.0, GRAIN / max(M.shape))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    m = _resized(M.astype(np.float32), size, Image.Resampling.BOX) > 0
    if m.all() or not m.any():
        return painted
    apart = _resized(picture - painted, size, Image.Resampling.BOX)
    rim = ndimage.binary_dilation(m) & _reliable(apart, m)
    surface = continue_colours(apart, m, rim)
    nearest = ndimage.distance_transform_edt(~(m | rim), return_distances=False, return_indices=True)
    return _shifted(painted, _resized(surface[tuple(nearest)], (width, height), Image.Resampling.BILINEAR))


def continue_colours(values: Floats, M: Bools, known: Bools) -> Floats:
    """Returns values with those in a mask replaced by the harmonic continuation of known ones.

    Each replaced value is the mean of its neighbours in the mask and of its known ones, four at most.

    Args:
        values: (h, w, bands) values, float32.
        M: (h, w) boolean mask.
        known: (h, w) boolean mask of the pixels whose values count, outside of `M`.

    Returns:
        Values (h, w, bands), float32; 0 in parts of the mask that have no known neighbour.
    """
    from scipy import sparse
    from scipy.sparse import csgraph
    from scipy.sparse.linalg import LaplacianNd, splu

    nodes = np.flatnonzero(M | known)
    edges = LaplacianNd(M.shape).tosparse().tocsr()[nodes][:, nodes].astype(np.float64)
    edges.setdiag(0)
    inside = M.ravel()[nodes]
    rows = csgraph.laplacian(edges).tocsr()[inside]
    around = -rows[:, ~inside] @ values[known]
    # solvable also where no neighbour is known: there the solution is 0
    system = rows[:, inside] + 1e-6 * sparse.eye_array(int(inside.sum()))
    found = values.astype(np.float32)
    found[M] = splu(system.tocsc()).solve(around)
    return found


def _shifted(painted: Floats, shift: Floats) -> Floats:
    found: Floats = np.clip(painted + shift, -1, 1).astype(np.float32)
    return found


def _reliable(apart: Floats, M: Bools) -> Bools:
    """Returns the pixels (H, W) outside of a mask whose difference is an error of colours, as around them."""
    from scipy import ndimage

    outside = np.where(M, np.float32(0), np.abs(apart).max(axis=2))
    found: Bools = ~M & (ndimage.maximum_filter(outside, WINDOW) <= MOST)
    return found


def _resized(values: Floats, size: tuple[int, int], how: Image.Resampling) -> Floats:
    """Returns values (H, W) or (H, W, bands) resized to a width and a height."""
    if values.ndim == 3:
        return np.stack([_resized(values[..., band], size, how) for band in range(values.shape[2])], axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size, how))
