"""Composing: what is painted lies where the box says, only under the mask, and costs what the mask covers."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.images import codecs, pictures
from diffedit_cli.images.pictures import Box, Picture

RNG = np.random.default_rng(1)


def picture(mode: str = "RGB", bits: int = 8) -> Picture:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = RNG.integers(0, 2**bits, (60, 90, channels)).astype(f"u{bits // 8}")
    return Picture("noise", pixels, mode, "PNG", warnings=("a note",), record={"kind": "edit"})


def blob(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    """A mask in that box which is no rectangle, and touches its edges."""
    mask = np.zeros((60, 90), bool)
    rows, columns = np.mgrid[-1 : 1 : (bottom - top) * 1j, -1 : 1 : (right - left) * 1j]
    mask[top:bottom, left:right] = rows**2 + columns**2 <= 1.2
    return mask


MASKS = {
    "inside": blob(10, 5, 50, 40),
    "at the corner": blob(0, 0, 30, 20),
    "at the far edges": blob(60, 30, 90, 60),
    "everywhere": np.ones((60, 90), bool),
    "nowhere": np.zeros((60, 90), bool),
    "one pixel": blob(44, 33, 45, 34),
    "all but one": ~blob(44, 33, 45, 34),
}


def plainly(given: Picture, edited: NDArray[np.uint8], mask: NDArray[np.bool_], feather: float) -> NDArray[np.uint8]:
    """By Pillow, over the whole picture, as it was done before only the mask's box was."""
    patch = Image.fromarray(edited).resize(given.size, Image.Resampling.BICUBIC)
    weights = Image.fromarray((pictures.fade(mask, feather) * 255).round().astype(np.uint8))
    return np.asarray(Image.composite(patch, given.image, weights))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("feather", [0, 5, 100])
def test_composing_the_masks_box_is_composing_the_whole(mask: NDArray[np.bool_], feather: float) -> None:
    given, edited = picture(), RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    difference = pictures.compose(given, edited, mask, feather).pixels.astype(int) - plainly(
        given, edited, mask, feather
    )
    assert np.abs(difference).max() <= 1  # of resizing a part
    assert (difference[~mask] == 0).all()


@pytest.mark.parametrize(("mode", "bits"), [("L", 8), ("RGB", 16), ("RGBA", 8), ("RGBA", 16), ("CMYK", 8)])
@pytest.mark.parametrize("box", [None, (20, 10, 70, 45), (0, 0, 90, 60)])
def test_unmasked_pixels_and_alpha_stay(mode: str, bits: int, box: Box | None) -> None:
    given, mask = picture(mode, bits), MASKS["inside"]
    result = pictures.compose(given, np.full((9, 9, 3), (250, 120, 10), np.uint8), mask, 3, box)
    changed = (result.pixels != given.pixels).any(axis=-1)
    left, top, right, bottom = box or (0, 0, 90, 60)
    allowed = np.zeros_like(mask)
    allowed[top:bottom, left:right] = mask[top:bottom, left:right]
    assert not (changed & ~allowed).any()
    assert changed.sum() > allowed.sum() * 0.9
    if mode == "RGBA":
        assert (result.pixels[..., 3] == given.pixels[..., 3]).all()
    assert (result.warnings, result.record) == (("a note",), None)


def test_the_edit_is_stretched_over_the_box() -> None:
    """So that a crop edited alone and put back lies where it was cut out."""
    box = (20, 10, 70, 45)
    given = picture()
    edited = given.crop(box).pixels ^ 255
    everywhere = np.ones((60, 90), bool)
    result = pictures.compose(given, edited, everywhere, 0, box).pixels
    inside = result[10:45, 20:70]
    assert (inside[1:-1, 1:-1] == edited[1:-1, 1:-1]).all()
    result[10:45, 20:70] = given.pixels[10:45, 20:70]
    assert (result == given.pixels).all()


def test_sixteen_bits_are_painted_in_full_range() -> None:
    white, everywhere = np.full((4, 4, 3), 255, np.uint8), np.ones((60, 90), bool)
    assert (pictures.compose(picture("RGB", 16), white, everywhere, 0).pixels == 65535).all()


def test_a_crop_is_a_picture_of_its_own() -> None:
    given = picture("RGBA", 16)
    crop = given.crop((20, 10, 70, 45))
    assert (crop.size, crop.name, crop.format, crop.warnings) == ((50, 35), "noise", "PNG", ("a note",))
    assert (crop.pixels == given.pixels[10:45, 20:70]).all()
    assert crop.digest == replace(given, pixels=given.pixels[10:45, 20:70].copy()).digest != given.digest
    assert given.crop((0, 0, 90, 60)).digest == given.digest


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 91, 60), (5, 5, 5, 9), (9, 5, 5, 9)])
def test_a_box_outside_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="is not inside a picture of 90 x 60 pixels"):
        picture().crop(box)


def test_a_small_mask_in_twelve_megapixels_is_cheap() -> None:
    given = codecs.from_array(np.zeros((3000, 4000, 3), np.uint8))
    edited, mask = np.full((512, 512, 3), 255, np.uint8), np.zeros((3000, 4000), bool)
    mask[1000:1300, 2000:2300] = True
    pictures.compose(given, edited, mask, 10)  # which imports what it needs
    start = perf_counter()
    pictures.compose(given, edited, mask, 10)
    small, start = perf_counter() - start, perf_counter()
    pictures.compose(given, edited, ~mask, 10)
    assert small < (perf_counter() - start) / 4
