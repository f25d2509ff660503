"""Beyond the paper: finds how far a painter moved the picture, so that what it painted can be moved back.

Models that repaint the whole picture by an instruction return it shifted or scaled by a few pixels. What lies outside
of the mask should be the picture itself, and so tells the motion: a shift and a scale, fitted from coarse to fine by
least squares of grey values (B. Lucas, T. Kanade, IJCAI 1981), with gain and offset, because painters change the
brightness, and with a robust loss, because they repaint things outside of the mask, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Fit = NDArray[np.float64]

SIDE = 512  # pixels of the longer side at which the motion is fitted, to less than a tenth of one
SIDES = (64, 128, 256, SIDE)
LEAST = 0.25  # pixels: a smaller motion is none
MOST = 0.05  # of the longer side, and of the scale: a larger motion is another picture
BETTER = 0.95  # share of the error without motion that may remain
ALIKE = 0.5  # share of the error of a uniform picture that may remain
FEWEST = 500  # pixels outside of the mask, at SIDE, that tell a motion
FLAT = 0.01  # standard deviation, in a range of [-1, 1], of a picture that shows no motion
ROBUST = 0.2  # standard deviations: larger differences count less than their square
MOST_STEPS = 30  # of the fit at one size
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue
NO_MOTION, LIGHT = np.array([0.0, 0, 0, 1, 0]), slice(3, None)  # a fit, and its numbers for brightness


@dataclass(frozen=True)
class Motion:
    """What a painter did: scaled the picture about its centre, then moved it right by dx and down by dy pixels."""

    dx: float
    dy: float
    scale: float

    def times(self, factor: float) -> Motion:
        """Returns the motion of the same picture, enlarged by a factor."""
        return Motion(self.dx * factor, self.dy * factor, self.scale)

    def at(self, width: int, height: int) -> float:
        """Returns the longest distance in pixels by which a corner of a picture moves.

        Args:
            width: Width of the picture in pixels.
            height: Height of the picture in pixels.
        """
        x, y = ((self.scale - 1) * side / 2 for side in (width, height))
        return float(np.hypot(abs(self.dx) + abs(x), abs(self.dy) + abs(y)))


def find_motion(painted: Floats, picture: Floats, M: Bools) -> Motion | None:
    """Returns how far the painter moved the picture, by what is outside of the mask.

    Args:
        painted: (H, W, 3) picture as the painter returned it, in [-1, 1].
        picture: (H, W, 3) original picture in [-1, 1].
        M: (H, W) boolean mask of the pixels that were to be painted.

    Returns:
        The motion. None if it is smaller than LEAST or larger than MOST, if undoing it does not bring the pixels
        outside of the mask closer to the original by a margin (BETTER, ALIKE), or if these are too few or flat.
    """
    ours, theirs = (np.ascontiguousarray(one @ np.array(GREY, dtype=np.float32)) for one in (painted, picture))
    drawn, found = M.astype(np.float32), NO_MOTION
    for side in SIDES:
        compared = _Comparison(_small(ours, side), _small(theirs, side), _small(drawn, side) == 0)
        if not compared.tells:
            return None
        found = compared.best(found)
        if side >= max(M.shape):
            break
    unit, moved = max(M.shape) / 2, np.abs(found[:3])
    motion = Motion(float(found[0] * unit), float(found[1] * unit), float(1 + found[2]))
    if motion.at(*M.shape[::-1]) < LEAST or moved[:2].max() > 2 * MOST or moved[2] > MOST:
        return None
    still = compared.error(compared.best(NO_MOTION, LIGHT))
    is_better = compared.error(found) < min(BETTER * still, ALIKE * compared.spread)
    return motion if found[3] > 0 and is_better else None


def undo(painted: Floats, motion: Motion) -> Floats:
    """Returns a painted picture moved back; what lay outside of its frame repeats the pixels at its rim.

    Args:
        painted: (H, W, 3) painted picture in [-1, 1].
        motion: How far it was moved.

    Returns:
        Picture (H, W, 3) in [-1, 1].
    """
    unit, given = max(painted.shape) / 2, torch.from_numpy(painted).permute(2, 0, 1)[None]
    fit = np.array([motion.dx / unit, motion.dy / unit, motion.scale - 1])
    moved = _sampled(given, _places(*painted.shape[:2]), fit, mode="bicubic", padding_mode="border")
    return moved[0].permute(1, 2, 0).clamp(-1, 1).numpy()


class _Comparison:
    """Compares a painted picture, moved back, with the original at one size, outside of the mask.

    A fit is an array of the shift right and down, in halves of the longer side, of the scale less 1, and of gain and
    offset of the painted grey values.
    """

    def __init__(self, painted: Floats, picture: Floats, outside: Bools) -> None:
        """Takes grey pictures (h, w) and the pixels (h, w) to compare."""
        self.picture, self.outside, self.shape = picture, outside, outside.shape
        down, right = np.gradient(painted)
        self.given = torch.from_numpy(np.stack([painted, right, down, np.ones_like(painted)]))[None]
        self.unit, self.at = max(self.shape) / 2, _places(*self.shape)[outside]
        self._moved: tuple[Fit, Floats] = NO_MOTION, self._sample(NO_MOTION)

    @property
    def tells(self) -> bool:
        """Whether there is enough to compare."""
        seen = self.picture[self.outside]
        return len(seen) >= FEWEST * (max(self.shape) / SIDE) ** 2 and float(seen.std()) >= FLAT

    @property
    def spread(self) -> float:
        """The mean absolute difference of the original from a uniform picture."""
        seen = self.picture[self.outside]
        return float(np.abs(seen - np.median(seen)).mean())

    def best(self, start: Fit, free: slice = slice(None)) -> Fit:
        """Returns the best fit near to `start`, of which only the numbers in `free` change."""
        from scipy import optimize  # imported here: only edits by a painter need it

        def whole(part: Fit) -> Fit:
            both: Fit = np.append(start[: free.start or 0], part)
            return both

        found = optimize.least_squares(
            lambda part: self._apart(whole(part))[0],
            start[free],
            lambda part: self._slopes(whole(part))[:, free],
            loss="soft_l1",
            f_scale=ROBUST * float(self.picture[self.outside].std()),
            ftol=1e-5,
            xtol=1e-5,
            max_nfev=MOST_STEPS,
        )
        return whole(np.asarray(found.x))

    def error(self, fit: Fit) -> float:
        """Returns the mean absolute difference."""
        apart, seen, _ = self._apart(fit)
        return float(np.abs(apart).sum() / max(1, seen.sum()))

    def _apart(self, fit: Fit) -> tuple[NDArray[np.float64], Bools, Floats]:
        """Returns the differences outside of the mask, 0 beyond the frame, what is inside, and the moved values."""
        if not np.array_equal(self._moved[0], fit):  # the solver asks for differences and slopes at the same fit
            self._moved = fit.copy(), self._sample(fit)
        moved = self._moved[1]
        seen = moved[3] > 1 - 1e-3
        return seen * (fit[3] * moved[0] + fit[4] - self.picture[self.outside]), seen, moved

    def _sample(self, fit: Fit) -> Floats:
        values: Floats = _sampled(self.given, self.at[None], fit)[0, :, 0].numpy()
        return values

    def _slopes(self, fit: Fit) -> NDArray[np.float64]:
        """Returns the derivatives of the differences by the numbers of a fit."""
        _, seen, (grey, right, down, _) = self._apart(fit)
        outwards = self.at[:, 0] * right + self.at[:, 1] * down
        by_motion = [fit[3] * self.unit * slope for slope in (right, down, outwards)]
        slopes: Fit = (seen * np.stack([*by_motion, grey, np.ones_like(grey)])).T.astype(np.float64)
        return slopes


def _places(height: int, width: int) -> Floats:
    """Returns the places (h, w, 2) of pixels right of and below the centre, in halves of the longer side."""
    y, x = np.indices((height, width), dtype=np.float32)
    return (np.stack([x - (width - 1) / 2, y - (height - 1) / 2], axis=2) / (max(height, width) / 2)).astype(np.float32)


def _sampled(pictures: torch.Tensor, at: Floats, fit: Fit, **how: str) -> torch.Tensor:
    """Returns the values (1, bands, h, w) of pictures (1, bands, H, W) where a fit moves the places `at` (h, w, 2)."""
    size = np.array(pictures.shape[:1:-1])
    moved = ((1 + fit[2]) * at + fit[:2]) * size.max() / size
    return F.grid_sample(pictures, torch.from_numpy(moved.astype(np.float32))[None], align_corners=False, **how)


def _small(picture: Floats, side: int) -> Floats:
    """Returns a picture (H, W) with a longer side of at most this number of pixels, and a shorter one of at least 2."""
    times = min(1.0, side / max(picture.shape))
    size = [max(2, round(length * times)) for length in picture.shape]
    return F.interpolate(torch.from_numpy(picture)[None, None], size, mode="area")[0, 0].numpy()
