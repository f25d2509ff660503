"""Metadata made by chance, of every kind and in every format, costs no picture and no pixel."""

from __future__ import annotations

import random
from pathlib import Path

import metadata_noise
import numpy as np
import pytest
from metadata_files import RECORD, SUFFIX, loaded, picture

from diffedit_cli.images import codecs

LOSSLESS = ("PNG", "TIFF", "WEBP")
SOME = 150


@pytest.mark.parametrize(
    "seeds", [range(SOME), pytest.param(range(SOME, 2000 + SOME), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_metadata_of_any_kind_costs_no_picture(tmp_path: Path, seeds: range) -> None:
    """Each is written as its own format and as another, with the very pixels where the format holds them."""
    original = np.asarray(picture())
    for seed in seeds:
        kind, data = metadata_noise.picture(seed)
        read = loaded(tmp_path, data, SUFFIX[kind])
        if kind in LOSSLESS:
            upright = {original.shape: original}.get(read.pixels.shape)
            assert upright is None or np.array_equal(np.sort(read.pixels, axis=None), np.sort(upright, axis=None)), seed
        for target in (kind, random.Random(seed).choice(sorted(SUFFIX))):
            written = codecs.encode(read, target, RECORD)
            fitted = codecs.fit_to_format(read, target)
            again = loaded(tmp_path, written, SUFFIX[target])
            assert again.size == read.size, (seed, target)
            assert target == "BMP" or again.record == RECORD, (seed, target)
            if target in (*LOSSLESS, "BMP"):
                assert np.array_equal(again.pixels, read.pixels), (seed, target)
            assert all(text.endswith(".") for text in fitted.warnings), (seed, target)
            lost = [text for text in codecs.fit_to_format(again, target).warnings if text.startswith("Left out")]
            assert not lost, (seed, target)  # what was kept can be read again
            codecs.encode(read.strip_metadata(), target, None)
