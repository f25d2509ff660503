"""Refinements of the mask beyond the paper: automatic threshold, outline along edges, thin parts, holes, islands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine.diffedit import rescale, resize
from diffedit_cli.engine.region import widen

BINS = 256  # of the histogram from which Otsu's threshold is computed
FLAT = 1e-4  # guided filter: variance of colours in [0, 1] below which a window has no edge to follow
RUNGS = 20  # thresholds k / RUNGS in [0, 1): islands are removed at each one from 0.5 up to the requested threshold
CHANNEL = 0.5  # latent cells: a hole is filled even if it is open to the outside by a channel up to twice as wide
INSIDE, OUTSIDE = 0.5, 0.25  # map values in [0, 1]: above the first lies the object, up to the second its surroundings
SHADES = 16  # bins of each colour channel in the colour histograms
LIKELIER = 20  # a colour counts as the object's if it is this many times as frequent inside as outside
RARE = 1e-5  # share of pixels added to each frequency outside, so that rare colours are no evidence


def mask(
    contrast: Tensor, size: tuple[int, int], *, clamp: float = 3.0, threshold: float | None = 0.5, smooth: float = 0.0,
    edges: float = 0.0, guide: Tensor | None = None, reach_down: float = 0.0, fill_holes: bool = False,
    islands: float = 0.0, grow: float = 0.0, soft: bool = False,
) -> Tensor:  # fmt: skip
    """Returns the mask of a contrast map: `binarise`, refined in the order of the arguments.

    A higher threshold adds no pixel to the mask. With `islands` this holds for multiples of 1 / RUNGS from 0.5 on.

    Args:
        contrast: (h, w) contrast map, at least 0.
        size: (H, W) of the mask, that of the picture.
        clamp: Limit of the map, in multiples of its mean (`rescale`). Default 3.
        threshold: Threshold in [0, 1); None: Otsu's (`otsu`). Default 0.5.
        smooth: Standard deviation of a blur of the map, in latent cells. Default 0: none.
        edges: Distance, in latent cells, in which the outline follows edges of `guide` (`follow_edges`). Default 0.
        guide: (3, gh, gw) picture in [-1, 1]; without it, `edges` and `reach_down` do nothing.
        reach_down: Share of the threshold below it, 0 to 1, at which thin parts of the object's colours still count
            (`grow_to_threshold`). Default 0.
        fill_holes: Whether holes are filled. Default false.
        islands: Share of the largest region's area, 0 to 1, below which a region is dropped. Default 0.
        grow: Latent cells by which the mask grows. Default 0.
        soft: Whether the mask is graded at its outline (`ramp`). Default false.

    Returns:
        (H, W), boolean, or with `soft` in [0, 1].
    """
    contrast = _blurred(contrast, smooth) if smooth else contrast
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
    lower = [rung / RUNGS for rung in range(RUNGS // 2, RUNGS) if rung / RUNGS < threshold] if islands else []
    regions = [(one > 0).cpu().numpy() for one in (*map(above, lower), M)]
    return _filled(M, _tidied(regions, max(size) / max(contrast.shape), fill_holes, islands, grow), soft)


def outline(probabilities: Tensor, size: tuple[int, int], threshold: float, grow: float, soft: bool) -> Tensor:
    """Returns the mask of a segmenter's map: where it is at least the threshold, grown.

    Args:
        probabilities: (h, w) in [0, 1].
        size: (H, W) of the mask, that of the picture.
        threshold: Probability from which a place belongs to the thing, above 0.
        grow: Pixels by which the mask grows.
        soft: Whether the mask is graded at its outline (`ramp`).

    Returns:
        (H, W), boolean, or with `soft` in [0, 1].
    """
    shown = resize(probabilities, size)
    M = ramp(shown, threshold) if soft else shown >= threshold
    return _filled(M, widen((M > 0).cpu().numpy(), grow), soft) if grow else M


def _filled(M: Tensor, shape: NDArray[np.bool_], soft: bool) -> Tensor:
    """Returns a mask of this shape, both (H, W): as graded as M with `soft`, and full where only the shape reaches."""
    kept = torch.from_numpy(shape).to(M.device)
    return torch.where(M > 0, M, 1.0) * kept if soft else kept


def _blurred(contrast: Tensor, cells: float) -> Tensor:
    from scipy import ndimage  # imported here: takes a third of a second

    return torch.from_numpy(ndimage.gaussian_filter(contrast.cpu().numpy(), cells)).to(contrast.device)


def _tidied(
    regions: Sequence[NDArray[np.bool_]], cell: float, fill_holes: bool, islands: float, grow: float
) -> NDArray[np.bool_]:
    """Returns the last of the regions (H, W) of rising thresholds, without holes and islands, and grown.

    It is intersected with the earlier regions, which are treated likewise, so that a higher threshold adds no pixel.
    `cell` is the side of a latent cell in pixels.
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
    """Returns where a map is above the threshold, with the fainter parts of the object's colours connected to that.

    Such parts are thin, as the tail of a cat or the handle of a pot: a latent cell of theirs is mostly ground, so the
    map is weak there. A lower threshold alone would include as much of the ground. A colour is the object's if it is
    LIKELIER times as frequent where the map is high as where it is low. This does not depend on the threshold, so the
    mask of a higher threshold lies within that of a lower one.

    Args:
        drawn: (h, w) map in [0, 1], at the size of the picture.
        guide: (3, h, w) picture in [-1, 1].
        threshold: Threshold of the map, 0 to 1.
        down: How far below the threshold connected pixels may lie, as a share of it, 0 to 1.

    Returns:
        Boolean mask (h, w).
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
    """Returns a mask with its holes filled: ground that the mask encloses, but none that reaches the picture's border.

    Args:
        M: (H, W) boolean mask.
        channel: Pixels. Also fills a hole that is open to the outside by a channel less than twice as wide, as far as
            the mask grown by this distance encloses it. Default 0: closed holes only.

    Returns:
        Boolean mask (H, W).
    """
    from scipy import ndimage

    if not channel:
        holeless: NDArray[np.bool_] = ndimage.binary_fill_holes(M)
        return holeless
    closed = without_holes(widen(M, channel))
    if closed.all():  # the distance transform needs some ground
        return closed
    shrunk: NDArray[np.bool_] = ndimage.distance_transform_edt(closed) > channel
    return shrunk


def follow_edges(scaled: Tensor, guide: Tensor, cells: float) -> Tensor:
    """Returns a map at the size of a picture, its outline moved to the picture's edges.

    This is the guided filter (K. He et al., Guided image filtering, TPAMI 35, 2013; the fast one, arXiv:1505.00996): in
    each window the result is linear in the picture's colours, and so has its edges.

    Args:
        scaled: (h, w) map in [0, 1].
        guide: (3, gh, gw) picture in [-1, 1].
        cells: Distance in latent cells within which the outline is moved.

    Returns:
        Map (gh, gw) in [0, 1].
    """
    from kornia.filters import guided_blur  # imported here: takes a fifth of a second

    colours = (guide.to(scaled.device, scaled.dtype)[None] + 1) / 2
    cell = max(1, guide.shape[-1] // scaled.shape[-1])
    wide = resize(scaled, (guide.shape[-2], guide.shape[-1]))[None, None]
    window = 2 * round(cells * cell) + 1
    drawn: Tensor = guided_blur(colours, wide, window, FLAT, border_type="replicate", subsample=max(1, cell // 2))
    return drawn[0, 0].clamp(0, 1)


def ramp(scaled: Tensor, threshold: float) -> Tensor:
    """Returns a graded mask of a map: 1 from the threshold on, falling linearly to 0 at half the threshold.

    What the paper repaints is then repainted fully, and what differs less than half as much is not repainted at all.
    Between them lie the surroundings of the edit, which may follow it a little.

    Args:
        scaled: (h, w) map in [0, 1].
        threshold: Threshold of the map, 0 to 1. With 0 the mask is 1 wherever the map is above 0.

    Returns:
        Mask (h, w) in [0, 1].
    """
    return (2 * scaled / threshold - 1).clamp(0, 1) if threshold else (scaled > 0).float()


def otsu(contrast: Tensor, clamp: float) -> float:
    """Returns Otsu's threshold of a clamped and rescaled contrast map.

    It maximises the variance between the cells below and above it (N. Otsu, A threshold selection method from
    gray-level histograms, IEEE Trans. SMC 9, 1979).

    Args:
        contrast: (h, w) contrast map, at least 0.
        clamp: Values are cut at this multiple of the map's mean, which becomes 1.

    Returns:
        Threshold in [0, 1); 0 for a map without contrast.
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
    """Returns the map with its outline moved, stretched to the maximum of the plain one.

    Otherwise a threshold could leave a mask in the plain map and none in the other, as a faint speck can drown in its
    filter window. If at most half of the maximum is left, the plain map is returned. Else the values above half of it
    are stretched, independently of the threshold, so that masks stay within those of lower thresholds.
    """
    most, left = plain.max(), drawn.max()
    if left >= most:
        return drawn
    half = most / 2
    if left <= half:
        return plain
    return torch.where(drawn > half, half + (drawn - half) * ((most - half) / (left - half)), drawn)


def _without(M: NDArray[np.bool_], islands: float) -> NDArray[np.bool_]:
    """Returns a mask (H, W) without regions smaller than the share `islands` of the largest one."""
    from scipy import ndimage

    regions, count = ndimage.label(M)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= islands * sizes.max())[regions] & M
    return large
