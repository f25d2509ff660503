"""Edits happen in sRGB: what the model sees, what it painted, and what a profile that does not fit leads to."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import icc
import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import stored
from PIL import Image, ImageCms

from diffedit_cli.images import codecs, colour, pictures
from diffedit_cli.images.pictures import Picture

PROFILES = {"RGB": icc.WIDE, "L": icc.GREY, "CMYK": icc.CMYK}


def picture(mode: str, profile: bytes | None = None, bits: int = 8) -> Picture:
    colours = colour.of_profile(profile, mode.removesuffix("A")) if profile else colour.SRGB
    return Picture("noise", stored(mode, bits), mode, "TIFF", colours=colours)


def repainted(given: Picture) -> Picture:
    """Edited everywhere, with what the model sees of it."""
    everywhere = np.ones(given.size[::-1], bool)
    return pictures.compose(given, np.asarray(given.on_white()), everywhere, feather=0)


def distance(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_seen_and_painted_again_is_the_picture(mode: str, bits: int) -> None:
    for profile in (None, PROFILES[mode]):
        given = picture(mode, profile, bits)
        assert distance(repainted(given).pixels, given.pixels) < 2 ** (bits - 8) * 1.5


def test_cmyk_seen_and_painted_again_looks_the_same() -> None:
    """The inks may differ: many mixtures give one colour."""
    for profile in (None, icc.CMYK):
        given = picture("CMYK", profile)
        assert distance(np.asarray(repainted(given).on_white()), np.asarray(given.on_white())) < 3


def test_the_model_sees_srgb() -> None:
    """A wide gamut's green is a stronger one in sRGB, and the same numbers seen without a profile are not."""
    wide, plain = picture("RGB", icc.WIDE), picture("RGB")
    whole = ImageCms.profileToProfile(
        plain.image,
        ImageCms.ImageCmsProfile(io.BytesIO(icc.WIDE)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert distance(np.asarray(wide.on_white()), np.asarray(whole)) < 0.1
    assert distance(np.asarray(wide.on_white()), plain.pixels) > 3


def test_alpha_is_laid_on_white_in_srgb() -> None:
    wide = picture("RGBA", icc.WIDE)
    clear = replace(wide, pixels=wide.pixels * np.array([1, 1, 1, 0], np.uint8))
    opaque = replace(wide, pixels=wide.pixels | np.array([0, 0, 0, 255], np.uint8))
    assert (np.asarray(clear.on_white()) == 255).all()
    assert (np.asarray(opaque.on_white()) == np.asarray(picture("RGB", icc.WIDE).on_white())).all()


def test_the_digest_of_eight_bits_is_as_it_ever_was() -> None:
    """Masks, latents and caches on disk name it."""
    digests = {"L": "77dce4ad", "LA": "a3534387", "RGB": "f8e77e23", "RGBA": "49a60891"}
    assert {mode: picture(mode).digest[:8] for mode in digests} == digests


def test_the_digest_tells_what_the_model_sees() -> None:
    """Another wording of sRGB is none; a profile that changes colours, or another depth, makes another picture."""
    plain = picture("RGB")
    assert picture("RGB", icc.SRGB).digest == plain.digest
    others = picture("RGB", icc.WIDE), picture("RGB", None, 16), picture("RGBA"), picture("CMYK")
    assert len({plain.digest, *(other.digest for other in others)}) == 5


LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("profile", "mode", "says"),
    [
        (b"no profile at all", "RGB", "cannot open profile"),
        (icc.WIDE[:300], "RGB", ""),
        (icc.CMYK, "RGB", "it is for CMYK, the picture is RGB"),
        (icc.GREY, "RGB", "it is for GRAY, the picture is RGB"),
        (icc.SRGB, "L", "it is for RGB, the picture is GRAY"),
        (icc.WIDE, "CMYK", "it is for RGB, the picture is CMYK"),
        (LAB, "RGB", "it is for Lab, the picture is RGB"),
    ],
    ids=["broken", "cut", "cmyk", "grey", "rgb of grey", "rgb of cmyk", "lab"],
)
@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_a_profile_that_does_not_fit_is_told_and_kept(
    tmp_path: Path, profile: bytes, mode: str, says: str, suffix: str
) -> None:
    path = tmp_path / f"picture{suffix}"
    picture(mode).image.save(path, icc_profile=profile)
    given = codecs.load(path)
    (warning,) = given.warnings
    assert "picture" in warning
    assert "has a colour profile that cannot be used" in warning
    assert says in warning
    assert given.colours == colour.SRGB
    data = codecs.encode(repainted(given), given.format, None)
    with Image.open(io.BytesIO(data)) as after:
        assert after.info["icc_profile"] == profile
