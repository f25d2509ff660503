"""The built-in model's masks joined with those of a segmenter that knows the truth coarsely.

`pytest tests/pipeline/test_segmented_samples.py -s` prints the table of docs/masks.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkout import SAMPLES
from numpy.typing import NDArray
from PIL import Image
from planted_segmenter import Planted, plant
from tiny_segmenters import write_clipseg

import diffedit_cli

TRUTH = Path(__file__).parent.parent / "samples"
CELLS = 22  # of a side of CLIPSeg's picture: 352 px in patches of 16
METHODS = (*("noise", "both", '"truth"', '"coarse"', 'noise & "coarse"', 'both & "coarse"', 'noise | "coarse"'),)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The IoU of every sample's mask with its object, by method."""
    folder = tmp_path_factory.mktemp("segmented")
    with pytest.MonkeyPatch.context() as patch:
        return overlaps(plant(patch), folder)


def overlaps(planted: Planted, folder: Path) -> dict[str, list[float]]:
    clipseg, editor = str(write_clipseg(folder / "clipseg")), diffedit_cli.DiffEdit(cache=folder / "cache")
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    for edit in json.loads((TRUTH / "edits.json").read_text()):
        with Image.open(TRUTH / f"{edit['name']}.mask.png") as image:
            truth = np.asarray(image.convert("L")) > 127
        small = Image.fromarray(truth.astype(np.uint8) * 255).resize((CELLS, CELLS), Image.Resampling.BOX)
        answers = {"truth": truth.astype(np.float32), "coarse": np.asarray(small, np.float32) / 255}
        planted.answers = {words: lambda _, answer=answer: answer for words, answer in answers.items()}
        for method in METHODS:
            mask = editor.mask(
                SAMPLES / f"{edit['name']}.png",
                from_=edit["from"],
                to=edit["to"],
                mask_method=method,
                segmenter=clipseg,
            )
            found[method].append(overlap(mask.pixels, truth))
    return found


@pytest.mark.thorough
def test_a_coarse_segmenter_and_the_models_own_mask_are_better_together(found: dict[str, list[float]]) -> None:
    mean = {method: sum(values) / len(values) for method, values in found.items()}
    for method, value in mean.items():
        print(f"{method:20} {value:.2f}")
    for method in ("noise", "both"):
        assert mean[f'{method} & "coarse"'] > max(mean[method], mean['"coarse"']), method


@pytest.mark.thorough
def test_the_words_alone_give_the_segmenters_own_mask(found: dict[str, list[float]]) -> None:
    """It knows the truth here, so this says that its map reaches the picture's size unchanged, and no more."""
    assert set(found['"truth"']) == {1.0}
