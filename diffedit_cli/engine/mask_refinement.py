"""Beyond the paper: a contrast map's own threshold, and what makes a mask fit an object better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine.diffedit import rescale, resize
from diffedit_cli.engine.region import widen

BINS = 256  # of the histogram that a threshold is found in
FLAT = 1e-4  # variance of colours in [0, 1] below which a place has no edge to follow
RUNGS = 20  # thresholds in [0, 1), of which those from a half on are steps towards a higher one
CHANNEL = 0.5  # cells: what leads out of a hole and is at most twice as wide does not keep it from being filled
INSIDE, OUTSIDE = 0.5, 0.25  # of a map in [0, 1]: from here on colours are the object's, up to here its surroundings'
SHADES = 16  # of each primary, that colours are counted in
LIKELIER = 20  # times as frequent inside as outside: then a colour tells that a place belongs to the object
RARE = 1e-5  # share of all colours that says nothing


def mask(
    contrast: Tensor,
    size: tuple[int, int],
    *,
    clamp: float = 3.0,
    threshold: float | None = 0.5,
    smooth: float = 0.0,
    edges: float = 0.0,
    guide: Tensor | None = None,
    reach_down: float = 0.0,
    fill_holes: bool = False,
    islands: float = 0.0,
    grow: float = 0.0,
    soft: bool = False,
) -> Tensor:
    """A contrast map (h, w) -> boolean mask of `size` (H, W): the paper's `binarise`, and what refines it.

    Before the threshold (None: the map's own, `otsu`) the map is blurred by `smooth` latent cells, its outline follows
    edges of the picture `guide` (3, gh, gw) in [-1, 1] within `edges` cells, and thin parts of the object's colours
    join from a share `reach_down` below it (`grow_to_threshold`). Then regions below the share `islands` of the largest
    go, the mask grows by `grow` cells, and holes are filled. With `soft` it is graded in [0, 1] (`ramp`).

    A higher threshold gives no pixel that a lower one does not; with islands from a half on in steps of 1 / RUNGS.
    """
    if smooth:
        contrast = _blurred(contrast, smooth)
    threshold = otsu(contrast, clamp) if threshold is None else threshold
    scaled, drawn = rescale(contrast, clamp), None
    if guide is not None and (edges or reach_down):
        drawn = resize(scaled, (guide.shape[-2], guide.shape[-1]))
        drawn = _undrowned(follow_edges(scaled, guide, edges), drawn) if edges else drawn
    shown = resize(scaled if drawn is None else drawn, size)

    def above(level: float) -> Tensor:
        found = shown
        if reach_down and drawn is not None and guide is not None:
            N = grow_to_threshold(drawn, guide, level, reach_down)
            found = torch.where(resize(N.to(shown.dtype), size) > 0.5, 1.0, shown)
        return ramp(found, level) if soft else found > level

    M = above(threshold)
    if not (fill_holes or islands or grow) or not M.any():
        return M
    cell, some = max(size) / max(contrast.shape), M > 0
    lower = [rung / RUNGS for rung in range(RUNGS // 2, RUNGS) if rung / RUNGS < threshold] if islands else []
    regions = [*((above(level) > 0).cpu().numpy() for level in lower), some.cpu().numpy()]
    kept = torch.from_numpy(_tidied(regions, cell, fill_holes, islands, grow)).to(M.device)
    return torch.where(some, M, 1.0) * kept if soft else kept


def _blurred(contrast: Tensor, cells: float) -> Tensor:
    from scipy import ndimage  # a third of a second that only this need pay

    return torch.from_numpy(ndimage.gaussian_filter(contrast.cpu().numpy(), cells)).to(contrast.device)


def _tidied(
    regions: Sequence[NDArray[np.bool_]], cell: float, fill_holes: bool, islands: float, grow: float
) -> NDArray[np.bool_]:
    """The mask (H, W) of the last of these regions, of ever higher thresholds, without holes and islands, and grown.

    `cell` is a latent cell's side in pixels.
    """
    shaped = np.ones_like(regions[-1])
    for one in regions:
        shaped &= without_holes(one, CHANNEL * cell) if fill_holes else one
        shaped = _without(shaped, islands) if islands else shaped
    if not grow:
        return shaped
    shaped = widen(shaped, grow * cell)
    return without_holes(shaped) if fill_holes else shaped


def grow_to_threshold(drawn: Tensor, guide: Tensor, threshold: float, down: float) -> Tensor:
    """Where a map (h, w) in [0, 1] is above the threshold, and what hangs together with that by pixels which are above
    the share 1 - `down` of it and have a colour that tells, in the picture `guide` (3, h, w), in [-1, 1]; boolean.

    Such are the tail of a cat, the handle of a pot: a latent cell of it is mostly ground, so the map is weak there. A
    lower threshold alone would take in as much of the ground. A colour tells if it is LIKELIER where the map is high
    than where it is low. Which colours these are does not depend on the threshold: masks of a higher one stay within.
    """
    from scipy import ndimage

    values = drawn.cpu().numpy()
    M, inside, outside = values > threshold, values > INSIDE, values <= OUTSIDE
    if not (M.any() and inside.any() and outside.any()):
        return torch.from_numpy(M).to(drawn.device)
    red, green, blue = ((guide.cpu().numpy() + 1) / 2 * SHADES).astype(np.intp).clip(0, SHADES - 1)
    colours = (red * SHADES + green) * SHADES + blue

    def frequency(where: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = np.bincount(colours[where], minlength=SHADES**3).reshape((SHADES,) * 3) / where.sum()
        smooth: NDArray[np.float64] = ndimage.gaussian_filter(counts, 1.0, mode="constant")
        return smooth.ravel()

    telling = frequency(inside) > LIKELIER * (frequency(outside) + RARE)
    regions, count = ndimage.label(M | ((values > (1 - down) * threshold) & telling[colours]), np.ones((3, 3)))
    begun = np.zeros(count + 1, dtype=np.bool_)
    begun[regions[M]] = True
    return torch.from_numpy(begun[regions]).to(drawn.device)


def without_holes(M: NDArray[np.bool_], channel: float = 0.0) -> NDArray[np.bool_]:
    """A mask (H, W) without holes: ground that the mask encloses is masked, but none that reaches the picture's border.

    Of a hole that leads out by less than twice `channel` pixels, what the mask still encloses at that distance counts.
    """
    from scipy import ndimage

    if not channel:
        holeless: NDArray[np.bool_] = ndimage.binary_fill_holes(M)
        return holeless
    closed = without_holes(widen(M, channel))
    if closed.all():  # from no ground there is no distance
        return closed
    shrunk: NDArray[np.bool_] = ndimage.distance_transform_edt(closed) > channel
    return shrunk


def follow_edges(scaled: Tensor, guide: Tensor, cells: float) -> Tensor:
    """A map (h, w) at the size of a picture (3, gh, gw), in [-1, 1], its outline drawn to edges within so many cells.

    The guided filter (K. He et al., Guided image filtering, TPAMI 35, 2013; the fast one, arXiv:1505.00996): in each
    window the result is linear in the picture's colours, and so has its edges.
    """
    from kornia.filters import guided_blur  # a fifth of a second that only this need pay

    colours = (guide.to(scaled.device, scaled.dtype)[None] + 1) / 2
    cell = max(1, guide.shape[-1] // scaled.shape[-1])
    wide = resize(scaled, (guide.shape[-2], guide.shape[-1]))[None, None]
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


def _undrowned(drawn: Tensor, plain: Tensor) -> Tensor:
    """A map with its outline drawn, whose most is that of the plain one: no threshold leaves something of one only.

    A faint speck can drown in its window: where less than half of its height is left, it is better as it was. Else
    what is above that is stretched, by the same for every threshold, so that masks stay within those of lower ones.
    """
    most, left = plain.max(), drawn.max()
    if left >= most:
        return drawn
    half = most / 2
    if left <= half:
        return plain
    return torch.where(drawn > half, half + (drawn - half) * ((most - half) / (left - half)), drawn)


def _without(M: NDArray[np.bool_], islands: float) -> NDArray[np.bool_]:
    """A mask (H, W) without regions smaller than this share of the largest."""
    from scipy import ndimage

    regions, count = ndimage.label(M)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= islands * sizes.max())[regions] & M
    return large
