"""--seam on photographs of scikit-image: unmasked pixels stay, results repeat, and rows say it."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import WORDS, diffedit
from edits_of_each_kind import check, done, pixels
from picture_files import written
from PIL import Image, ImageDraw
from skimage import data as photographs

from diffedit_cli.engine import seam
from diffedit_cli.pipeline.param_fields import POISSON, SEAMS

MODES = pytest.mark.parametrize("mode", SEAMS)
GIVEN = {"RGB": "chelsea", "RGBA": "coffee", "L": "camera"}
OPTIONS = [
    ("RGB", 8, ()),
    ("RGB", 16, ("--zoom", 2)),
    ("RGBA", 16, ("--zoom", 3)),
    ("RGBA", 8, ("--soft",)),
    ("L", 8, ("--region", "remove")),
    ("L", 16, ("--region", "add")),
]


@pytest.fixture(autouse=True)
def _far_colours_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model of random weights paints is so far from the picture that it would pass for another object."""
    monkeypatch.setattr(seam, "MOST", 2.0)


def photograph(mode: str, bits: int) -> bytes:
    """A photograph of 150 x 100 pixels as a PNG file."""
    image = Image.fromarray(getattr(photographs, GIVEN[mode])()).resize((150, 100))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = np.asarray(image).reshape(100, 150, -1).astype(f"u{bits // 8}") * (257 if bits == 16 else 1)
    stored: Any = deep
    return written(stored, "PNG", mode, 1, None)


def mask(path: Path) -> Path:
    """Two regions, one with a hole, the other at the border, both with some grey."""
    image = Image.new("L", (150, 100))
    pen = ImageDraw.Draw(image)
    pen.ellipse((10, 15, 60, 65), fill=255, outline=140)
    pen.ellipse((28, 30, 42, 44), fill=0)
    pen.rectangle((100, 60, 150, 100), fill=255, outline=100)
    image.save(path)
    return path


@pytest.mark.thorough
@MODES
@pytest.mark.parametrize(("mode_of_picture", "bits", "words"), OPTIONS, ids=str)
def test_unmasked_pixels_stay(
    here: Path, mode: str, mode_of_picture: str, bits: int, words: tuple[object, ...]
) -> None:
    (here / "photo.png").write_bytes(photograph(mode_of_picture, bits))
    given = ("--mask", mask(here / "drawn.png"), *words, "--seam", mode)
    done("edit", "photo.png", *WORDS, *given, "-o", "out.png")
    M = check("photo.png", "drawn.png", "out.png")
    if "--soft" not in words:
        M = np.asarray(Image.open("drawn.png")) >= 128
        assert not ((pixels("out.png") != pixels("photo.png")).any(axis=2) & ~M).any()
    if mode_of_picture == "RGBA":
        assert (pixels("out.png")[..., 3] == pixels("photo.png")[..., 3]).all()


@pytest.mark.thorough
@MODES
@pytest.mark.parametrize("kind", ["found", "inpainter", "inpainter, found"])
def test_masks_that_are_found_and_inpainting_models(here: Path, inpainter: Path, mode: str, kind: str) -> None:
    (here / "photo.png").write_bytes(photograph("RGB", 8))
    found = () if "found" in kind else ("--mask", mask(here / "drawn.png"))
    painter = ("--inpainter", inpainter) if "inpainter" in kind else ()
    done("run", "photo.png", *WORDS, *found, *painter, "--threshold", 0.6, "--seam", mode, "--out", "out")
    check("photo.png", "out/photo.mask.png" if not found else "drawn.png", "out/photo.png")


@pytest.mark.parametrize("painter", [False, True], ids=["own", "inpainter"])
def test_info_repeats_a_seam(here: Path, inpainter: Path, painter: bool) -> None:
    mask(here / "drawn.png")
    (here / "photo.png").write_bytes(photograph("RGB", 8))
    words = ("--mask", "drawn.png", *(("--inpainter", inpainter) if painter else ()))
    made = {}
    for mode in ("auto", *SEAMS):
        done("edit", "photo.png", *WORDS, *words, "--seam", mode, "-o", f"{mode}.png")
        line = done("info", f"{mode}.png").out.decode().splitlines()[-1]
        assert (f"--seam {mode}" in line) == (mode != "auto")
        again = [{"PICTURE": "photo.png", "MASK.png": "drawn.png"}.get(word, word) for word in shlex.split(line)[1:]]
        done(*again, "-o", "again.png")
        made[mode] = pixels(f"{mode}.png")
        assert (pixels("again.png") == made[mode]).all()
    assert not any((made[one] == made[other]).all() for one, other in itertools.pairwise(SEAMS))


def test_a_row_says_its_seam_and_an_unknown_one_is_refused(here: Path) -> None:
    mask(here / "drawn.png")
    rows = [{"input": "cat.png", "output": f"{mode}.png", "seam": mode} for mode in (POISSON, "sharp")]
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = diffedit("run", "jobs.jsonl", *WORDS, "--out", "out")
    assert ran.code == 8
    assert (here / "out" / "poisson.png").exists()
    assert "--seam sharp is unknown; use auto, feather, match, poisson." in ran.err
    assert diffedit("edit", "cat.png", *WORDS, "--seam", "sharp").code == 2
