"""Beyond the paper: a contrast map's own threshold, and what makes a mask fit an object better."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine.diffedit import rescale, resized

BINS = 256  # of the histogram that a threshold is found in
FLAT = 1e-4  # variance of colours in [0, 1] below which a place has no edge to follow


def mask(
    contrast: Tensor,
    size: tuple[int, int],
    *,
    clamp: float = 3.0,
    threshold: float | None = 0.5,
    smooth: float = 0.0,
    edges: float = 0.0,
    guide: Tensor | None = None,
    fill_holes: bool = False,
    islands: float = 0.0,
    grow: float = 0.0,
    soft: bool = False,
) -> Tensor:
    """A contrast map (h, w) -> boolean mask of `size` (H, W): the paper's `binarise`, and what is asked for around it.

    `threshold` None finds the map's own (`otsu`). Before, the map is blurred by a Gaussian of `smooth` latent cells,
    and its outline drawn to the edges of the picture `guide` (3, gh, gw), in [-1, 1], within `edges` cells
    (`along_edges`). After, holes are filled, regions smaller than the share `islands` of the largest are dropped, and
    what is left grows by `grow` cells. With `soft` it is graded (`ramp`), in [0, 1]; what is filled in is then 1.
    """
    if smooth:
        from scipy import ndimage  # a third of a second that only this need pay

        blurred = ndimage.gaussian_filter(contrast.cpu().numpy(), smooth)
        contrast = torch.from_numpy(blurred).to(contrast.device)
    threshold = otsu(contrast, clamp) if threshold is None else threshold
    scaled = None
    if edges and guide is not None:
        scaled = resized(along_edges(rescale(contrast, clamp), guide, edges), size)
    if scaled is None or not (scaled > threshold).any():  # a faint speck can drown in its window
        scaled = rescale(contrast, clamp, size)
    M = ramp(scaled, threshold) if soft else scaled > threshold
    if not (fill_holes or islands or grow) or not M.any():
        return M
    cell, some = max(size) / max(contrast.shape), M > 0
    shaped = torch.from_numpy(_shaped(some.cpu().numpy(), fill_holes, islands, grow * cell)).to(M.device)
    return torch.where(some, M, 1.0) * shaped if soft else shaped


def along_edges(scaled: Tensor, guide: Tensor, cells: float) -> Tensor:
    """A map (h, w) at the size of a picture (3, gh, gw), in [-1, 1], its outline drawn to edges within so many cells.

    The guided filter (K. He et al., Guided image filtering, TPAMI 35, 2013; the fast one, arXiv:1505.00996): in each
    window the result is linear in the picture's colours, and so has its edges.
    """
    from kornia.filters import guided_blur  # a fifth of a second that only this need pay

    colours = (guide.to(scaled.device, scaled.dtype)[None] + 1) / 2
    cell = max(1, guide.shape[-1] // scaled.shape[-1])
    wide = resized(scaled, (guide.shape[-2], guide.shape[-1]))[None, None]
    window = 2 * round(cells * cell) + 1
    drawn: Tensor = guided_blur(colours, wide, window, FLAT, border_type="replicate", subsample=max(1, cell // 2))
    return drawn[0, 0].clamp(0, 1)


def ramp(scaled: Tensor, threshold: float) -> Tensor:
    """A map in [0, 1] -> M of its size, in [0, 1]: 1 from the threshold on, falling to 0 at half of it.

    So what the paper repaints is repainted as fully, and what differs less than half as much is not touched at all:
    between them lies an edit's own surroundings, which may follow it a little.
    """
    return (2 * scaled / threshold - 1).clamp(0, 1) if threshold else (scaled > 0).float()


def otsu(contrast: Tensor, clamp: float) -> float:
    """The threshold of the clamped and rescaled map that tells its two kinds of cells apart best, in [0, 1).

    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979): the one that maximises
    the variance between the two. A map without contrast gives 0.
    """
    limit = contrast.mean() * clamp
    if not limit > 0:
        return 0.0
    scaled = (contrast.clamp(max=limit) / limit).float().cpu()
    least, most = float(scaled.min()), float(scaled.max())
    counts = torch.histc(scaled, BINS, least, most).double()
    centres = least + (torch.arange(BINS) + 0.5).double() * (most - least) / BINS
    below, sums = counts.cumsum(0)[:-1], (counts * centres).cumsum(0)
    above = counts.sum() - below
    apart = sums[:-1] / below.clamp(min=1) - (sums[-1] - sums[:-1]) / above.clamp(min=1)
    return float(centres[int((below * above * apart.square()).argmax())])


def _shaped(M: NDArray[np.bool_], fill_holes: bool, islands: float, reach: float) -> NDArray[np.bool_]:
    """`reach` is the growth in pixels."""
    from scipy import ndimage

    if fill_holes:
        M = ndimage.binary_fill_holes(M)
    if islands:
        regions, count = ndimage.label(M)
        sizes = np.bincount(regions.ravel(), minlength=count + 1)
        sizes[0] = 0
        M = (sizes >= islands * sizes.max())[regions] & M
    if reach:
        M = ndimage.distance_transform_edt(~M) <= reach
    return M
