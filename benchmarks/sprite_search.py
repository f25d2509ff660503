"""Finds the clean sprite and its placement that explain a picture best: analysis by synthesis with the world's sprites.

A picture of a scene is modelled as its background with one more sprite. `View` holds a picture at one scale, with its
background. `Search` finds the placement of a sprite that leaves the least energy of the difference unexplained:
everywhere at a coarse scale by Fourier transforms, then around the best places at a fine scale.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from benchmarks.textures import BLUR, Floats
from training.places import CANVAS
from training.scenes import WIDER

COARSE, FINE = 72, 96  # sides of the coarse and the fine view in pixels
PAD = 12  # 1 / PAD of the side is added around it, where the edge is repeated: sprites may be cut off by the edge
SIZES = tuple(32 * 1.25**step for step in range(9))  # longer side of a sprite in the coarse search, in pixels of 256
DARKEST, BRIGHTEST = 0.88, 1.1  # scenes are lit by 0.9 to 1.08
SHADOW = 0.65  # a shadow leaves at least this share of the light: darker pixels are an object, such as a brown one
STARTS = 3  # results of the coarse search from which the fine search starts
STEPS = (  # steps of the fine search: reach in pixels, factors of the size, factors of the aspect
    (2, (0.88, 1.0, 1.13), (0.85, 1.0, 1.18)),
    (1, (0.95, 1.0, 1.05), (0.93, 1.0, 1.07)),
)
LAST_STEP = (1, (0.97, 1.0, 1.03), (0.97, 1.0, 1.03))  # also at half pixels
LARGEST = 160  # longest side of a sprite in pixels: larger than any in a view
RIM = 2  # pixels around a drawn sprite, for its blur
NOWHERE = 1e12

Box = tuple[float, float, float, float]
"""Top, left, bottom, right, in pixels of 256."""
WHOLE: Box = (0, 0, CANVAS, CANVAS)


@dataclass(frozen=True)
class Placement:
    """The placement of a sprite: centre, height and width in pixels of 256, and the factor of the light on it."""

    y: float
    x: float
    height: float
    width: float
    flipped: bool
    light: float = 1.0


@dataclass(frozen=True)
class Found:
    """The best placement of a sprite, and the energy `cost` that it leaves unexplained in the whole picture."""

    name: str
    placement: Placement
    cost: float


class Spot(NamedTuple):
    """The best position of a sprite of one size in the coarse search, and the change of energy `gained` there."""

    gained: float
    size: int
    row: int
    column: int


@dataclass(frozen=True)
class View:
    """A picture (s, s, 3) in [0, 255] and its background without the object, both padded."""

    picture: Floats
    background: Floats
    inside: NDArray[np.bool_]  # (s, s): false in the padding

    @functools.cached_property
    def distance(self) -> Floats:
        """Squared distance (s, s) of the picture to the background; 0 in the padding."""
        return np.asarray(np.square(self.picture - self.background).sum(2) * self.inside)

    @functools.cached_property
    def spectrum(self) -> Tensor:
        """Fourier transforms (4, s, f) of the squared picture less `distance`, and of the picture's three colours.

        The coarse search takes each pixel for either the sprite's or the background's, weighted by alpha.
        """
        lost = np.square(self.picture).sum(2) - self.distance
        made: Tensor = torch.fft.rfft2(_planes(lost[None], self.picture.transpose(2, 0, 1)))
        return made

    @functools.cached_property
    def planes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Planes (2, s, s), (6, s, s) and (1, s, s), whose correlations with a sprite yield the unexplained energy.

        A sprite R of alpha A and light g on the background B leaves E + A B - A g R of a picture E + B. The planes are
        for the terms of its squared sum without g, for those times -2 g, and for those times g ** 2.
        """
        behind = self.background.transpose(2, 0, 1)
        change = self.picture.transpose(2, 0, 1) - behind
        alone = _planes(2 * (behind * change).sum(0)[None], np.square(behind).sum(0)[None])
        inside = _planes(self.inside[None])
        return alone * inside, _planes(change, behind) * inside, inside

    @property
    def scale(self) -> float:
        """Pixels of this view per pixel of 256."""
        return _side_within(self.picture.shape[0]) / CANVAS

    def place(self, spot: Spot, height: float, width: float, flipped: bool) -> Placement:
        """Returns the placement of a sprite at a spot of this view."""
        pad = (self.picture.shape[0] - _side_within(self.picture.shape[0])) / 2
        y, x = ((at + RIM - pad) / self.scale for at in (spot.row, spot.column))
        return Placement(y + height / 2, x + width / 2, height, width, flipped)


def _side_within(padded: int) -> int:
    return padded * PAD // (PAD + 2)


def _planes(*parts: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def shaded(background: Floats, picture: Floats) -> Floats:
    """Returns a background darkened at each pixel, by a factor of at least SHADOW, to be most like a picture."""
    along = (picture * background).sum(2) / np.maximum(np.square(background).sum(2), 1)
    return np.asarray(along.clip(SHADOW, 1)[..., None] * background, dtype=np.float32)


def view(picture: Floats, background: Floats) -> View:
    """Returns the view of a picture and a background, both padded with their edges."""
    pad = picture.shape[0] // PAD
    wide = ((pad, pad), (pad, pad), (0, 0))
    inside = np.pad(np.ones(picture.shape[:2], dtype=bool), pad)
    return View(np.pad(picture, wide, mode="edge"), np.pad(background, wide, mode="edge"), inside)


@functools.lru_cache(maxsize=250)
def sprite_of(name: str, flipped: bool) -> Tensor:
    """Returns a sprite (1, 4, h, w): colours in [0, 255] times alpha, and alpha."""
    image = WIDER.drawing(name).copy()
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    array = np.asarray(image, dtype=np.float32)
    array = array[:, ::-1] if flipped else array
    alpha = array[..., 3:] / 255
    return torch.from_numpy(np.concatenate([array[..., :3] * alpha, alpha], axis=2)).permute(2, 0, 1)[None]


class Drawn(NamedTuple):
    """A sprite as a view shows it: blurred like pictures, with a rim of RIM pixels for that, and its corner."""

    planes: Tensor  # (4, h, w): colours in [0, 255] times alpha, and alpha
    row: int
    column: int


def drawn(name: str, at: Placement, scale: float) -> Drawn:
    """Draws a sprite at a placement, to half a pixel."""
    high, wide = (max(6, round(2 * part * scale)) for part in (at.height, at.width))
    top, left = (int(np.floor(2 * mid * scale - part / 2 + 0.51)) for mid, part in ((at.y, high), (at.x, wide)))
    big = F.interpolate(sprite_of(name, at.flipped), (high, wide), mode="bilinear", antialias=True)
    down, right = top % 2, left % 2
    whole = F.avg_pool2d(F.pad(big, (right, (wide + right) % 2, down, (high + down) % 2)), 2)[0]
    planes = ndimage.gaussian_filter(F.pad(whole, (RIM,) * 4).numpy(), (0, BLUR, BLUR))
    return Drawn(torch.from_numpy(planes), top // 2 - RIM, left // 2 - RIM)


def energy_of(sprite: Tensor) -> Tensor:
    """Returns the sum of alpha times the squared colours."""
    return (sprite[:3].square().sum(0) / sprite[3].clamp(min=1e-3)).sum()


@dataclass(frozen=True)
class Bank:
    """A sprite at every size of the coarse search, unflipped and flipped."""

    kernels: Tensor  # (n, 4, f, g), conjugate spectra of alpha and of colours times alpha
    energy: Tensor  # (n,)
    sizes: tuple[tuple[float, float, bool], ...]  # height, width, whether flipped
    sprites: tuple[Tensor, ...]  # (4, h, w) each, as the coarse view shows them


@functools.lru_cache(maxsize=250)
def bank(name: str) -> Bank:
    side = COARSE + 2 * (COARSE // PAD)
    planes, sprites, sizes = [], [], []
    high, wide = sprite_of(name, False).shape[2:]
    for flipped, size in product((False, True), SIZES):
        height, width = (part * size / max(high, wide) for part in (high, wide))
        one = drawn(name, Placement(height / 2, width / 2, height, width, flipped), COARSE / CANVAS).planes
        if max(one.shape[1:]) > side:
            continue
        planes.append(F.pad(one.roll(1, 0), (0, side - one.shape[2], 0, side - one.shape[1])))  # alpha first
        sprites.append(one)
        sizes.append((height, width, flipped))
    kernels = torch.fft.rfft2(torch.stack(planes)).conj().resolve_conj()
    return Bank(kernels, torch.stack([energy_of(one) for one in sprites]), tuple(sizes), tuple(sprites))


def lit(own: Tensor, cross: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the change of energy with the best light, and that light."""
    light = (cross / energy.clamp(min=1)).clamp(DARKEST, BRIGHTEST)
    return own - 2 * light * cross + light.square() * energy, light


def correlated(planes: Tensor, kernel: Tensor) -> Tensor:
    """Returns the correlation (i + 1, j + 1) of planes (c, h + i, w + j) with a kernel (c, h, w).

    A convolution would take longer to prepare than to run, as the kernel is large and has few positions.
    """
    patches = planes.unfold(1, kernel.shape[1], 1).unfold(2, kernel.shape[2], 1).permute(1, 2, 0, 3, 4)
    return patches.reshape(*patches.shape[:2], -1) @ kernel.flatten()


class Search:
    """Searches one picture, in a `coarse` and a `fine` view, for sprites whose centres lie in a box."""

    def __init__(self, coarse: View, fine: View, box: Box = WHOLE) -> None:
        self.coarse, self.fine, self.box = coarse, fine, box
        self.total = float(fine.distance.sum())

    def coarsely(self, name: str) -> list[Spot]:
        """Returns the best position of a sprite at each size, unflipped and flipped."""
        known = bank(name)
        products = known.kernels * self.coarse.spectrum
        pair = torch.stack([products[:, 0], products[:, 1:].sum(1)])
        own, cross = torch.fft.irfft2(pair, s=self.coarse.distance.shape)
        gained, _ = lit(own, cross, known.energy[:, None, None])
        gained[~self._allowed(torch.tensor([one.shape[1:] for one in known.sprites]))] = NOWHERE
        least, at = (found.tolist() for found in gained.flatten(1).min(1))
        columns = gained.shape[2]
        return [
            Spot(gained, size, at[size] // columns, at[size] % columns)
            for size, gained in enumerate(least)
            if gained < NOWHERE
        ]

    def starts(self, name: str, spots: Sequence[Spot], count: int) -> list[Placement]:
        """Returns at most `count` placements for the fine search to start from.

        Chosen by the energy left, over that by which the sprite stands out from the background: a tiny sprite on a
        similar background leaves little, but explains little.
        """
        known, total = bank(name), float(self.coarse.distance.sum())

        def left(spot: Spot) -> float:
            one = known.sprites[spot.size].numpy()
            rows, columns = (slice(at, at + extent) for at, extent in zip(spot[2:], one.shape[1:], strict=True))
            colour = (one[:3] / np.maximum(one[3], 1e-3)).transpose(1, 2, 0)
            seen = one[3] * np.square(colour - self.coarse.background[rows, columns]).sum(2)
            return (total + spot.gained) / max(1.0, float(seen.sum()))

        return [self.coarse.place(spot, *known.sizes[spot.size]) for spot in sorted(spots, key=left)[:count]]

    def _allowed(self, extents: Tensor) -> Tensor:
        """Returns where sprites of these extents lie within the view, with their centres in the box (n, s, s)."""
        side, scale = self.coarse.distance.shape[0], self.coarse.scale
        pad = COARSE // PAD
        at = torch.arange(side)
        inside: list[Tensor] = []
        for axis in (0, 1):
            extent = extents[:, axis, None]
            middle = at + extent / 2 - pad
            low, high = self.box[axis] * scale, self.box[axis + 2] * scale
            inside.append((at + extent <= side) & (middle >= low) & (middle <= high))
        return inside[0][:, :, None] & inside[1][:, None, :]

    def finely(self, name: str, start: Placement) -> Found:
        """Returns the best placement around a starting point."""
        best = Found(name, start, NOWHERE)
        for reach, scales, aspects in STEPS:
            best = self._nearby(best, reach, scales, aspects, (0.0,))
        return best

    def _nearby(
        self, found: Found, reach: int, scales: Sequence[float], aspects: Sequence[float], phases: Sequence[float]
    ) -> Found:
        """Returns the best placement among variations by these factors and by fractions of a pixel."""
        at, best = found.placement, found
        for scale, aspect, down, right in product(scales, aspects, phases, phases):
            tried = replace(
                at, y=at.y + down / self.fine.scale, x=at.x + right / self.fine.scale,
                height=at.height * scale / aspect**0.5, width=at.width * scale * aspect**0.5,
            )  # fmt: skip
            best = min(best, self._tried(found.name, tried, reach), key=lambda one: one.cost)
        return best

    def _tried(self, name: str, at: Placement, reach: int) -> Found:
        """Returns the best position of a sprite of one size within `reach` pixels."""
        scale, padded = self.fine.scale, self.fine.distance.shape[0]
        one, row, column = drawn(name, at, scale)
        (high, wide), pad = one.shape[1:], (padded - _side_within(padded)) // 2
        top, left = max(0, row + pad - reach), max(0, column + pad - reach)
        bottom, right = row + pad + reach + high, column + pad + reach + wide
        windows = [part[:, top : max(0, bottom), left : max(0, right)] for part in self.fine.planes]
        if windows[0].shape[1] < high or windows[0].shape[2] < wide:
            return Found(name, at, NOWHERE)
        kernels = (
            torch.stack([one[3], one[3].square()]),
            torch.cat([one[:3], one[:3] * one[3]]),
            one[:3].square().sum(0, keepdim=True),
        )
        gained, light = lit(*map(correlated, windows, kernels))
        best = int(gained.argmin())
        down, over = (best // gained.shape[1] + top - pad - row, best % gained.shape[1] + left - pad - column)
        placed = replace(at, y=at.y + down / scale, x=at.x + over / scale, light=float(light.flatten()[best]))
        return Found(name, placed, self.total + float(gained.flatten()[best]))

    def best(self, names: Sequence[str], candidates: int, starts: int = STARTS) -> Found:
        """Returns the sprite that explains most; the fine search takes only the best `candidates` of the coarse one."""
        spots = {name: at for name in names if (at := self.coarsely(name))}
        chosen = sorted(spots, key=lambda name: min(spots[name]).gained)[:candidates]
        found = [self.finely(name, start) for name in chosen for start in self.starts(name, spots[name], starts)]
        return self._nearby(min(found, key=lambda one: one.cost), *LAST_STEP, phases=(0.0, 0.5))


def rendered(found: Found, side: int) -> tuple[Floats, Floats]:
    """Renders the clean sprite at its placement: colours (side, side, 3) and alpha (side, side)."""
    one, row, column = drawn(found.name, found.placement, side / CANVAS)
    whole = np.zeros((4, 3 * side, 3 * side), np.float32)
    whole[:, side + row : side + row + one.shape[1], side + column : side + column + one.shape[2]] = one
    whole = whole[:, side : 2 * side, side : 2 * side]
    colour = found.placement.light * whole[:3] / np.maximum(whole[3], 1e-3)
    return colour.transpose(1, 2, 0).clip(0, 255), whole[3]
