"""The sample pictures: complete, and of the kinds that people should find among them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkout import PROJECT
from PIL import Image

from diffedit_cli import DiffEdit

TRUTH = PROJECT / "tests" / "samples"
EDITS = json.loads((TRUTH / "edits.json").read_text(encoding="utf-8"))


def test_every_sample_has_its_edit_and_its_true_mask() -> None:
    pictures = {path.stem for path in (PROJECT / "sample_images").glob("*.png")}
    assert len(EDITS) >= 12
    assert pictures == {edit["name"] for edit in EDITS}
    for edit in EDITS:
        with (
            Image.open(PROJECT / "sample_images" / f"{edit['name']}.png") as picture,
            Image.open(TRUTH / f"{edit['name']}.mask.png") as mask,
        ):
            assert picture.size == mask.size
            assert 0.02 < (np.asarray(mask) > 127).mean() < 0.5


@pytest.mark.thorough
def test_the_masks_of_the_samples_are_where_the_objects_are() -> None:
    edit = DiffEdit()
    overlaps = []
    for sample in EDITS:
        path = PROJECT / "sample_images" / f"{sample['name']}.png"
        found = edit.mask(path, from_=sample["from"], to=sample["to"]).pixels
        with Image.open(TRUTH / f"{sample['name']}.mask.png") as mask:
            true = np.asarray(mask) > 127
        overlaps.append((found & true).sum() / (found | true).sum())
    assert np.mean(overlaps) >= 0.7
