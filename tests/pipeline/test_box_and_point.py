"""`--box` and `--point`: where in a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import FAST, WORDS, diffedit
from PIL import Image

from diffedit_cli import DiffEdit, InputError
from diffedit_cli.errors import NothingToEdit, UsageError
from diffedit_cli.images.codecs import from_image
from diffedit_cli.images.masks import Mask
from diffedit_cli.pipeline import mask_limits
from diffedit_cli.pipeline.mask_limits import MaskLimits

PICTURE = from_image(Image.new("RGB", (60, 40)), "cat.png")


def regions() -> np.ndarray:
    """Rows 5 to 14 of columns 5 to 24, and rows 20 to 34 of columns 30 to 54."""
    pixels = np.zeros((40, 60), dtype=bool)
    pixels[5:15, 5:25] = pixels[20:35, 30:55] = True
    return pixels


def test_a_box_leaves_what_lies_in_it() -> None:
    found = MaskLimits(box=(10, 0, 30, 25)).apply(Mask(regions()), PICTURE)
    expected = np.zeros((40, 60), dtype=bool)
    expected[5:15, 10:25] = expected[20:25, 30:40] = True
    assert np.array_equal(found.pixels, expected)


def test_a_box_may_reach_over_the_edge() -> None:
    found = MaskLimits(box=(30, 20, 1000, 1000)).apply(Mask(regions()), PICTURE)
    assert found.pixels.sum() == 15 * 25


@pytest.mark.parametrize(("point", "area"), [((5, 5), 10 * 20), ((54, 34), 15 * 25)])
def test_a_point_leaves_its_region_alone(point: tuple[int, int], area: int) -> None:
    found = MaskLimits(point=point).apply(Mask(regions()), PICTURE)
    assert found.pixels[point[1], point[0]]
    assert found.pixels.sum() == area


def test_a_point_counts_after_the_box() -> None:
    found = MaskLimits(box=(0, 0, 20, 40), point=(6, 6)).apply(Mask(regions()), PICTURE)
    assert found.pixels.sum() == 10 * 15


@pytest.mark.parametrize("limit", [MaskLimits(point=(0, 0)), MaskLimits(box=(0, 0, 5, 40))])
def test_where_there_is_no_mask_nothing_is_edited(limit: MaskLimits) -> None:
    with pytest.raises(NothingToEdit, match=r"Nothing is left of the mask of cat\.png"):
        limit.apply(Mask(regions()), PICTURE)


def test_the_grey_of_a_soft_mask_is_cut_too() -> None:
    grey = regions() * np.uint8(90)
    found = MaskLimits(point=(5, 5)).apply(Mask.soft(grey), PICTURE)
    assert found.grey is not None
    assert (found.grey > 0).sum() == 10 * 20


@pytest.mark.parametrize("text", ["", "3", "1,2,3", "1,2,3,0", "1,2,-3,4", "a,b,c,d", "1.5,2,3,4"])
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(UsageError, match="--box"):
        mask_limits.parse_numbers("--box", text, "X", "Y", "WIDTH", "HEIGHT")


def test_what_is_a_box() -> None:
    assert mask_limits.parse_numbers("--box", "1,2, 30,4", "X", "Y", "WIDTH", "HEIGHT") == (1, 2, 30, 4)
    assert mask_limits.parse_numbers("--box", None, "X", "Y", "WIDTH", "HEIGHT") is None


def test_the_command_keeps_to_the_box_and_says_so(here: Path) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, "--box", "8,8,24,20", "-o", "x.png")
    assert ran.code == 0, ran.err
    before, after = np.asarray(Image.open(here / "cat.png")), np.asarray(Image.open(here / "x.png"))
    changed = (before != after).any(axis=-1)
    assert changed[8:28, 8:32].any()
    changed[8:28, 8:32] = False
    assert not changed.any()
    assert "--box 8,8,24,20" in diffedit("info", "x.png").out.decode()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--box", "1,2,3"), 2, "expects X,Y,WIDTH,HEIGHT in pixels"),
        (("--point", "middle"), 2, "expects X,Y in pixels"),
        (("--box", "5000,0,10,10"), 3, "lies outside of cat.png"),
        (("--point", "0,5000"), 3, "lies outside of cat.png"),
        (("--point=-1,0",), 3, "lies outside of cat.png"),
    ],
)
@pytest.mark.usefixtures("here")
def test_places_that_are_none(words: tuple[str, ...], code: int, says: str) -> None:
    ran = diffedit("mask", "cat.png", *WORDS, *words)
    assert ran.code == code
    assert says in ran.lines[-1]
    assert not Path("cat.mask.png").exists()


def test_from_python(here: Path, tiny_epsilon: Path) -> None:
    model = DiffEdit(tiny_epsilon, device="cpu")
    words = {"from_": "cat", "to": "dog", "steps": 5, "maps": 2, "threshold": 0.3}
    found = model.mask(here / "cat.png", box=(8, 8, 24, 20), **words)
    assert found.pixels[8:28, 8:32].sum() == found.pixels.sum() > 0
    with pytest.raises(InputError, match="lies outside"):
        model.mask(here / "cat.png", point=(5000, 0), **words)
