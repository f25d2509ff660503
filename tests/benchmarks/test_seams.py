"""Seams of painted patches in photographs: what the figure measures, and that matching halves it on three grounds."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from benchmarks import seams
from diffedit_cli.pipeline.param_fields import FEATHER, MATCH, POISSON


def test_the_figure_is_the_step_of_colours_across_the_rim() -> None:
    ground = np.random.default_rng(0).uniform(-0.5, 0.5, (512, 512, 3)).astype(np.float32)
    assert seams.seam_of(ground, ground, seams.MASK) == 0
    pasted = np.where(seams.MASK[..., None], ground + np.float32(0.1), ground)
    assert seams.seam_of(pasted, ground, seams.MASK) == pytest.approx(0.1 * 127.5, rel=0.01)
    deep = np.where(seams.INSIDE[..., None], ground + np.float32(0.5), ground)  # the new object, which is far from it
    assert seams.seam_of(deep, ground, seams.MASK) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("in_cells", [False, True], ids=["everywhere", "in the cells"])
@pytest.mark.parametrize("ground", seams.GROUNDS)
def test_blending_halves_the_seam_of_plain_pasting(ground: str, in_cells: bool) -> None:
    picture = seams.photograph(*seams.GROUNDS[ground][0])
    figures = {mode: [] for mode in seams.MODES}
    for error in seams.ERRORS:
        made = seams.patch(picture, error, in_cells)
        for mode in seams.MODES:
            result = seams.pasted(made, mode)
            assert (seams.pictures.pixels(result) == seams.pictures.pixels(made.picture))[~seams.MASK].all()
            figures[mode].append(seams.seam_of(result, made.true, seams.MASK))
    plain = np.mean(figures[seams.PLAIN])
    assert np.mean(figures[POISSON]) < plain / 2
    assert figures[MATCH][0] < figures[seams.PLAIN][0] / 2  # a shift is all that it takes off
    assert np.mean(figures[FEATHER]) < plain
