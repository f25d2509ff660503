"""The built-in model's masks joined with those of a segmenter that knows the truth, or knows it coarsely.

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
from planted_segmenter import plant
from tiny_segmenters import write_clipseg

import diffedit_cli

TRUTH = Path(__file__).parent.parent / "samples"
CELLS = 22  # of a side of CLIPSeg's picture: 352 px in patches of 16
METHODS = (
    *("noise", "both", '"truth"', 'noise & "truth"', 'both & "truth"', '"coarse"', 'noise & "coarse"'),
    *('both & "coarse"', 'noise | "coarse"'),
)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.thorough
def test_a_segmenter_makes_masks_of_the_samples_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted, clipseg = plant(monkeypatch), str(write_clipseg(tmp_path / "clipseg"))
    editor = diffedit_cli.DiffEdit(cache=tmp_path / "cache")
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
    mean = {method: sum(values) / len(values) for method, values in found.items()}
    for method, value in mean.items():
        print(f"{method:20} {value:.2f}")
    assert min(found['"truth"']) == 1
    assert mean['noise & "truth"'] > 0.95 > 0.7 > mean["noise"]
    assert min(np.subtract(found['noise & "truth"'], found["noise"])) > 0
    assert mean['both & "coarse"'] > max(mean["both"], mean['"coarse"'])
