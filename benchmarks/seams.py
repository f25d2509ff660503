"""Measures seams of painted patches in photographs: run ``python -m benchmarks.seams --out DIR``.

A photograph counts as painted anew with an error of colours, and with a new object inside of the mask; the truth is the
photograph with that object. The errors (`ERRORS`) are a shift, a gain and a slope across the picture. Each lies over
the whole of the painted picture, or in the latent cells of the mask alone, as where the others keep their latents. All
painted pictures also lose a little detail, as a VAE loses it. What is pasted is matched in each way of `SEAMS`, at the
default --feather, and compared with plain pasting.

The seam of a result is its mean colour step across the rim of the mask beyond that of the truth (`seam_of`). Writes
DIR/seams.md with the seam on three grounds, and DIR/PHOTOGRAPH-ERROR.png with every result at twice its size.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import data as photographs

from diffedit_cli.images import codecs, pictures
from diffedit_cli.pipeline.composition import Repainting, settled
from diffedit_cli.pipeline.param_fields import SEAMS
from diffedit_cli.pipeline.params import Params

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

SIDE, CELL = 512, 8  # pixels of a painted picture, and of one of its latent cells
GROUNDS = {
    "flat": (("moon", (340, 20, 500, 180)), ("camera", (400, 0, 510, 110))),
    "graded": (("rocket", (215, 80, 305, 170)), ("retina", (800, 500, 1100, 800))),
    "textured": (("gravel", (0, 0, 400, 400)), ("grass", (0, 0, 400, 400)), ("coffee", (450, 250, 600, 400))),
}
"""Parts of scikit-image's photographs: name and box."""
OBJECT = ("chelsea", (120, 60, 320, 260))
BAND, ALONG = 8, 6.0  # pixels: width of the bands beside a rim, and sigma of the averages along it
PLAIN = "plain pasting"
MODES = (PLAIN, *SEAMS)


def _places() -> tuple[Floats, Floats]:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    return y, x


def _ellipse(down: float, across: float, height: float, width: float) -> Bools:
    y, x = _places()
    found: Bools = ((y - down) / height) ** 2 + ((x - across) / width) ** 2 < 1
    return found


MASK = _ellipse(0.5, 0.5, 0.27, 0.22) | _ellipse(0.75, 0.7, 0.1, 0.12)
INSIDE = _ellipse(0.5, 0.48, 0.13, 0.11)  # where the new object is

ERRORS: dict[str, Callable[[Floats], Floats]] = {
    "shift": lambda true: true + np.float32([0.1, -0.06, 0.14]),
    "gain": lambda true: 1.2 * true + 0.02,
    "slope": lambda true: true + (_places()[1][..., None] - 0.5) * np.float32([0.35, 0.2, -0.25]),
}
"""Errors of colours, of pictures in [-1, 1]."""


@dataclass(frozen=True)
class Patch:
    """A photograph, the truth and the painted picture, each (SIDE, SIDE, 3) in [-1, 1]."""

    picture: Floats
    true: Floats
    painted: Floats


def photograph(name: str, box: tuple[int, int, int, int]) -> Floats:
    """Returns a part of a photograph of scikit-image, (SIDE, SIDE, 3) in [-1, 1]."""
    image = Image.fromarray(getattr(photographs, name)()).convert("RGB").crop(box)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float32) / np.float32(127.5) - 1


def patch(picture: Floats, error: str, in_cells: bool) -> Patch:
    """Returns a patch with an error of ERRORS, over the whole painted picture or `in_cells` of the mask alone."""
    true = np.where(INSIDE[..., None], photograph(*OBJECT), picture)
    share = np.ones((SIDE, SIDE), np.float32)
    if in_cells:
        cells = MASK.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).any(axis=(1, 3)).astype(np.float32)
        share = ndimage.gaussian_filter(cells.repeat(CELL, 0).repeat(CELL, 1), CELL / 3)
    wrong = true + share[..., None] * (ERRORS[error](true) - true)
    lossy = ndimage.gaussian_filter(wrong, (1, 1, 0)) + np.random.default_rng(0).normal(0, 0.02, wrong.shape)
    return Patch(picture, true, np.clip(lossy, -1, 1).astype(np.float32))


def pasted(made: Patch, mode: str) -> Floats:
    """Returns the result of a patch in [-1, 1] with one of MODES, composed as an edit is."""
    picture = codecs.from_array(pictures.pixels(made.picture), "patch")
    if mode == PLAIN:
        return np.where(MASK[..., None], made.painted, made.picture)
    part = Repainting(made.painted, SIDE // CELL, (0, 0, SIDE, SIDE), {})
    shown = pictures.pixels(settled(part, picture, MASK, mode))
    return np.asarray(pictures.compose(picture, shown, MASK, Params.feather * CELL).image, np.float32) / 127.5 - 1


def seam_of(result: Floats, true: Floats, M: Bools) -> float:
    """Returns the mean colour step across a mask's rim beyond the truth's, in levels of 255.

    The step at a place of the rim is the mean colour within BAND pixels inside of the mask, less that within BAND
    pixels outside, both weighted with a Gaussian of ALONG pixels around the place, so that texture averages out. The
    figure is the mean over all pixels of the inner band and all channels of |step of the result - step of the truth|.
    """
    inner, outer = (ndimage.distance_transform_edt(one) for one in (M, ~M))
    inside, outside = (inner > 0) & (inner <= BAND), (outer > 0) & (outer <= BAND)
    steps = [_local_mean(one, inside) - _local_mean(one, outside) for one in (result, true)]
    return float(127.5 * np.abs(steps[0] - steps[1])[inside].mean())


def _local_mean(picture: Floats, where: Bools) -> Floats:
    weights = ndimage.gaussian_filter(where.astype(np.float32), ALONG)
    total = ndimage.gaussian_filter(picture * where[..., None], (ALONG, ALONG, 0))
    return np.asarray(total / np.maximum(weights, 1e-6)[..., None])


def object_error(result: Floats, true: Floats) -> float:
    """Returns the mean difference of the new object's colours from the truth, in levels of 255."""
    return float(127.5 * np.abs(result - true)[INSIDE].mean())


def sheet(made: Patch) -> Image.Image:
    """Returns the results of all modes beside each other at twice their size, around the mask."""
    rows, columns = (np.flatnonzero(MASK.any(axis=axis)) for axis in (1, 0))
    box = columns[0] - 24, rows[0] - 24, columns[-1] + 24, rows[-1] + 24
    cells = [Image.fromarray(pictures.pixels(pasted(made, mode))).crop(box) for mode in MODES]
    width, height = (2 * side for side in cells[0].size)
    found = Image.new("RGB", (len(MODES) * width, height))
    for at, (mode, cell) in enumerate(zip(MODES, cells, strict=True)):
        found.paste(cell.resize((width, height), Image.Resampling.BICUBIC), (at * width, 0))
        ImageDraw.Draw(found).text((at * width + 4, 4), mode, fill="red")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    seams: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for ground, parts in GROUNDS.items():
        for name, box in parts:
            for error in ERRORS:
                for in_cells in (False, True):
                    made = patch(photograph(name, box), error, in_cells)
                    for mode in MODES:
                        result = pasted(made, mode)
                        seams[ground, error, mode].append(seam_of(result, made.true, MASK))
                        errors[error, mode].append(object_error(result, made.true))
                    sheet(made).save(out / f"{name}-{error}{'-in-cells' * in_cells}.png")
    lines = [f"| ground | error | {' | '.join(MODES)} |", "|---" * (len(MODES) + 2) + "|"]
    for ground in GROUNDS:
        for error in ERRORS:
            figures = [f"{np.mean(seams[ground, error, mode]):.1f}" for mode in MODES]
            lines.append(f"| {ground} | {error} | {' | '.join(figures)} |")
        means = [np.mean([seams[ground, error, mode] for error in ERRORS]) for mode in MODES]
        lines.append(f"| {ground} | mean | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    for error in ERRORS:
        figures = [f"{np.mean(errors[error, mode]):.1f}" for mode in MODES]
        lines.append(f"| colours of the object | {error} | {' | '.join(figures)} |")
    (out / "seams.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
