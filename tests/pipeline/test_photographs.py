"""Photographs of scikit-image through every stage, with random weights in the full format of each family of models."""

from __future__ import annotations

from pathlib import Path

import icc
import numpy as np
import pytest
from command import FAST, WORDS, diffedit
from picture_files import read_metadata, read_pixels, written
from PIL import Image
from skimage import data as photographs

from diffedit_cli.images import xmp_packets

METADATA = ("profile", "xmp", "dpi", 271, 34665, 34853)
MODELS = ["tiny_epsilon", "tiny_v", "tiny_sdxl", "tiny_sd3"]
BOX = ("--box", "60,60,220,160")  # an untrained model would repaint everything
PHOTOGRAPHS = [("PNG", "png", "chelsea"), ("TIFF", "tif", "coffee"), ("JPEG", "jpg", "rocket")]


@pytest.mark.thorough
@pytest.mark.parametrize("zoom", ["off", "2"])
@pytest.mark.parametrize(("kind", "suffix", "name"), PHOTOGRAPHS, ids=[name for *_, name in PHOTOGRAPHS])
@pytest.mark.parametrize("family", MODELS)
def test_untouched_pixels_and_metadata_stay(
    here: Path, request: pytest.FixtureRequest, family: str, kind: str, suffix: str, name: str, zoom: str
) -> None:
    photograph = getattr(photographs, name)()
    given = written(photograph, kind, "RGB", 1, icc.WIDE)
    (here / f"photo.{suffix}").write_bytes(given)
    model = ("--model", request.getfixturevalue(family), "--steps", 5)
    assert (
        diffedit(
            "mask", f"photo.{suffix}", *WORDS, *FAST, *model, *BOX, "--zoom", zoom, "--clamp", 2, "--threshold", 0.2
        ).code
        == 0
    )
    assert diffedit("invert", f"photo.{suffix}", "--caption", "cat", *model).code == 0
    stages = ("--mask", "photo.mask.png", *(("--latents", "photo.latents.safetensors") if zoom == "off" else ()))
    ran = diffedit("edit", f"photo.{suffix}", *WORDS, *stages, *model, "--zoom", zoom, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"]["mask"] == 0
    M = np.asarray(Image.open("photo.mask.png")) > 127
    assert 0 < M.mean() < 0.5
    edited = (here / f"photo.edited.{suffix}").read_bytes()
    before, after = read_pixels(given, kind).astype(int), read_pixels(edited, kind).astype(int)
    assert np.abs(after[M] - before[M]).mean() > 1
    if kind == "JPEG":
        assert 10 * np.log10(255**2 / np.square(after[~M] - before[~M]).mean()) >= 45
    else:
        assert (after[~M] == before[~M]).all()
    was, now = read_metadata(given, kind), read_metadata(edited, kind)
    was["xmp"] = xmp_packets.mark_generated(was["xmp"])  # an edit says that a model made part of it
    assert [now[tag] for tag in METADATA] == [was[tag] for tag in METADATA]
