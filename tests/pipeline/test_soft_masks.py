"""Graded masks and edges: the map they come from, the files they go through, and what they leave alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import SAMPLES
from command import FAST, WORDS, diffedit
from PIL import Image
from torch import Tensor

from diffedit_cli import DiffEdit
from diffedit_cli.engine.diffedit import rescale
from diffedit_cli.engine.mask_refinement import mask, otsu
from diffedit_cli.images import masks, pictures
from diffedit_cli.images.masks import Mask

CAT = SAMPLES / "cat.png"


def slope(side: int = 16) -> Tensor:
    """Contrast that rises from left to right; clamped at 3 times its mean nothing is cut."""
    return torch.linspace(0, 1, side).expand(side, side)


@pytest.mark.parametrize("threshold", [0.25, 0.5, None])
def test_it_is_1_where_the_papers_mask_is_and_0_below_half_the_threshold(threshold: float | None) -> None:
    contrast, size = slope(), (64, 64)
    hard, soft = (mask(contrast, size, threshold=threshold, soft=soft) for soft in (False, True))
    assert soft.dtype == torch.float32
    assert (soft[hard] == 1).all()
    at = otsu(contrast, 3.0) if threshold is None else threshold
    between = rescale(contrast, 3.0, size)[~hard & (soft == 1)]
    torch.testing.assert_close(between, torch.full_like(between, at))  # no more than the threshold itself
    row = soft[32]
    assert (row.diff() >= 0).all()
    assert ((row > 0) & (row < 1)).any()
    if threshold is not None:
        assert torch.equal(mask(contrast, size, threshold=threshold / 2), soft > 0)


def test_no_contrast_is_empty_and_a_threshold_of_0_takes_all_else() -> None:
    assert not mask(torch.zeros(8, 8), (32, 32), soft=True).any()
    everything = mask(slope(), (16, 16), threshold=0.0, soft=True)
    assert set(everything.unique().tolist()) == {0.0, 1.0}


def test_holes_are_filled_with_1_and_islands_leave_0() -> None:
    contrast = torch.full((16, 16), 0.01)
    contrast[2:10, 2:10] = 1.0
    contrast[3, 3:9] = 0.4
    contrast[5:7, 5:7] = 0.0
    contrast[13, 13] = 1.0
    M = mask(contrast, (16, 16), threshold=0.3, soft=True, fill_holes=True, islands=0.2)
    plain = mask(contrast, (16, 16), threshold=0.3, soft=True)
    assert (plain[5:7, 5:7] == 0).all()
    assert plain[13, 13] == 1
    assert (M[5:7, 5:7] == 1).all()
    assert M[13, 13] == 0
    assert torch.equal(M[3], plain[3])


def test_a_grey_mask_goes_through_its_file(tmp_path: Path) -> None:
    grey = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    drawn = Mask.soft(grey, {"soft": True, "clamp": 3.0})
    path = tmp_path / "m.png"
    path.write_bytes(masks.pack_mask(drawn))
    assert (np.asarray(Image.open(path)) == grey).all()
    again = masks.load_mask(path, soft=True)
    assert (again.shown == grey).all()
    assert (again.pixels == (grey > 0)).all()
    assert (again.made, again.digest) == (drawn.made, drawn.digest)
    hard = masks.load_mask(path)
    assert (hard.pixels == (grey >= 128)).all()
    assert hard.made is None
    half = again.cut(np.arange(60) < 30, {})
    assert (half.shown[:, 30:] == 0).all()
    assert (half.shown[:, :30] == grey[:, :30]).all()


def test_black_and_white_is_a_mask_like_any_other(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), dtype=bool)
    pixels[10:20, 10:30] = True
    Image.fromarray(pixels).convert("L").save(tmp_path / "m.png")
    hard, soft = (masks.load_mask(tmp_path / "m.png", soft) for soft in (False, True))
    assert soft.grey is None
    assert soft.record() == hard.record() == {"drawn": hard.digest}


def told(file: str) -> str:
    """The command that makes a file again, as `info` tells it."""
    return diffedit("info", file).out.decode().splitlines()[-1]


@pytest.mark.usefixtures("sample_here")
def test_a_soft_edit_touches_nothing_that_is_black() -> None:
    words = (*WORDS, *FAST, "--soft")
    assert diffedit("mask", "cat.png", *words, "-o", "m.png").code == 0
    grey = np.asarray(Image.open("m.png"))
    assert len(np.unique(grey)) > 10
    exactly = (*words, "--room", "0")
    ran = diffedit("edit", "cat.png", *exactly, "-o", "soft.png", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"]["mask"] == 0
    assert ran.json["mask_area"] == (grey > 0).mean()
    before, after = (np.asarray(Image.open(name).convert("RGB")) for name in ("cat.png", "soft.png"))
    assert (before[grey == 0] == after[grey == 0]).all()
    assert (before[grey == 255] != after[grey == 255]).any()
    again = diffedit("edit", "cat.png", *exactly, "--mask", "m.png", "-o", "given.png")
    assert again.code == 0, again.err
    assert (np.asarray(Image.open("given.png")) == np.asarray(Image.open("soft.png"))).all()


@pytest.mark.usefixtures("sample_here")
def test_grey_of_a_given_mask_counts_only_if_soft() -> None:
    grey = np.zeros((256, 256), dtype=np.uint8)
    grey[:, :100], grey[:, 100:180] = 255, 100
    Image.fromarray(grey).resize(Image.open("cat.png").size, Image.Resampling.NEAREST).save("m.png")
    edited = {}
    for name, words in (("hard", ()), ("soft", ("--soft",))):
        ran = diffedit("edit", "cat.png", *WORDS, *FAST, "--mask", "m.png", "-o", f"{name}.png", "--json", *words)
        assert ran.code == 0, ran.err
        edited[name] = ran.json["mask_area"], Path(f"{name}.png")
    assert edited["hard"][0] == pytest.approx(100 / 256, abs=0.01)
    assert edited["soft"][0] == pytest.approx(180 / 256, abs=0.01)
    assert "--soft" not in told("hard.png")
    assert "--soft" in told("soft.png")


@pytest.mark.usefixtures("sample_here")
def test_info_repeats_a_soft_edit_and_its_feather() -> None:
    words = (*WORDS, *FAST, "--soft", "--feather", "1.0")
    assert diffedit("edit", "cat.png", *words, "-o", "e.png").code == 0
    again = told("e.png")
    assert "--soft" in again
    assert "--feather 1.0" in again
    before = Path("e.png").read_bytes()
    assert diffedit(*shlex.split(again.replace("PICTURE", "cat.png"))[1:], "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == before


@pytest.mark.usefixtures("sample_here")
def test_the_feather_is_the_width_in_cells_over_which_an_edit_fades_in() -> None:
    made = {}
    for cells in ("0", "0.25", "2"):
        assert diffedit("edit", "cat.png", *WORDS, *FAST, "--feather", cells, "-o", f"{cells}.png").code == 0
        made[cells] = Path(f"{cells}.png").read_bytes()
    assert diffedit("edit", "cat.png", *WORDS, *FAST, "-o", "plain.png").code == 0
    assert made["0.25"] == Path("plain.png").read_bytes()
    assert "--feather 0.0" in told("0.png")
    assert "feather" not in told("plain.png")
    assert len(set(made.values())) == 3


@pytest.mark.parametrize("feather", [0.0, 1.0, 4.0])
def test_an_edge_of_no_width_is_hard(feather: float) -> None:
    inside = np.zeros((32, 32), dtype=bool)
    inside[8:24, 8:24] = True
    weights = pictures.fade(inside, feather)
    assert (weights[~inside] == 0).all()
    assert ((weights == 1) == inside).all() == (feather <= 1)


def test_python_says_it_the_same() -> None:
    editor = DiffEdit()
    soft = editor.mask(CAT, from_="cat", to="dog", steps=5, maps=2, threshold=0.3, soft=True)
    grey = np.asarray(soft.image)
    assert len(np.unique(grey)) > 10
    words = {"from_": "cat", "to": "dog", "steps": 5, "soft": True, "room": 0.0}
    edits = [editor.edit(CAT, mask=given, **words).image for given in (soft, soft.image)]
    assert (np.asarray(edits[0]) == np.asarray(edits[1])).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--soft --grow 1", "--grow widens"),
        ("--feather -1", "--feather must be between 0"),
        ("--feather 99", "--feather must be between 0"),
        ("--fixed-point -1", "--fixed-point must be between 0 and 100000"),
        ("--fixed-point 1 --scheduler dpm++", "use --scheduler ddim"),
    ],
)
@pytest.mark.usefixtures("sample_here")
def test_what_makes_no_sense_is_said(words: str, says: str) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, *words.split())
    assert ran.code == 2
    assert says in ran.err


@pytest.mark.usefixtures("sample_here")
def test_fixed_points_cost_what_they_repeat_and_are_told() -> None:
    first_order = ("--scheduler", "ddim")
    plain = diffedit("invert", "cat.png", "--steps", 5, *first_order, "-o", "plain.safetensors", "--json").json
    ran = diffedit("invert", "cat.png", "--steps", 5, *first_order, "--fixed-point", 2, "-o", "l.safetensors", "--json")
    assert ran.json["evaluations"]["invert"] == 3 * plain["evaluations"]["invert"]
    assert ran.json["cache"]["invert"] == "miss"
    assert "--fixed-point 2" in told("l.safetensors")
    assert "fixed-point" not in told("plain.safetensors")
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, *first_order, "--fixed-point", 2, "-o", "e.png", "--json")
    assert ran.code == 0, ran.err
    assert "--fixed-point 2" in told("e.png")
