"""Colours that a file says by numbers, and pictures that become another kind: they look as they did."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import icc
import metadata_files as given
import numpy as np
import pytest
from metadata_files import SUFFIX, held, loaded, picture, saved, with_chunks, written
from picture_files import chunk
from PIL import Image

from diffedit_cli.images import codecs, colour

P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
NUMBERED = {
    "gamma": [(b"gAMA", struct.pack(">I", 100_000))],
    "corners": [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", struct.pack(">8I", *P3))],
    "p3": [(b"cICP", bytes([12, 13, 0, 1]))],
    "rec 2020": [(b"cICP", bytes([9, 1, 0, 1]))],
}


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("to", [".png", ".jpg", ".tif", ".webp", ".avif", ".heic"])
def test_colours_by_numbers_are_heeded_and_stay(tmp_path: Path, name: str, mode: str, to: str) -> None:
    data = with_chunks(saved(picture().convert(mode), "PNG"), *NUMBERED[name])
    before = loaded(tmp_path, data, ".png")
    assert bool(before.colours.digest) == (mode != "L" or name == "gamma")
    if before.colours.digest:
        plain = replace(before, colours=colour.SRGB)
        assert (np.asarray(before.on_white()) != np.asarray(plain.on_white())).any()
    if mode == "RGBA" and to == ".jpg":
        before = replace(before, pixels=before.pixels[..., :3], mode="RGB")
    result = codecs.encode(before, codecs.EXTENSIONS[to], None)
    after = loaded(tmp_path, result, to)
    if mode != "L" or to not in (".webp", ".heic"):  # which hold colour alone
        assert bool(after.colours.digest) == bool(before.colours.digest)
    seen = [np.asarray(one.on_white()).astype(int) for one in (before, after)]
    if to in (".png", ".tif", ".webp") and mode != "L":
        assert np.abs(seen[0] - seen[1]).max() <= 1
    if to == ".png":
        assert all(chunk(*one) in result for one in NUMBERED[name])
    if name == "p3" and to in (".avif", ".heic"):
        assert b"nclx" + struct.pack(">HH", 12, 13) in result


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
        [(b"gAMA", struct.pack(">I", 45_455))],
        [(b"cICP", bytes([1, 13, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))],
    ],
)
def test_what_says_srgb_in_numbers_is_srgb(tmp_path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    data = with_chunks(saved(picture(), "PNG"), *chunks)
    assert loaded(tmp_path, data, ".png").colours == colour.SRGB
    result, said = written(tmp_path, data, ".png")
    assert all(chunk(*one) in result for one in chunks)
    assert said == ""


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("numbers", [(12, 13), (9, 16), (9, 18), (1, 13)])
def test_nclx_stays(tmp_path: Path, kind: str, numbers: tuple[int, int]) -> None:
    nclx = b"nclx" + struct.pack(">HH", *numbers)
    data = saved(picture(), kind, quality=100)
    at = data.index(b"colrnclx") + 4
    result, said = written(tmp_path, data[:at] + nclx + data[at + 8 :], SUFFIX[kind])
    assert nclx in result
    assert ("states its colours by code points" in said) == (numbers[1] in (16, 18))
    to_jpeg = written(tmp_path, data[:at] + nclx + data[at + 8 :], SUFFIX[kind], ".jpg")
    assert ("its colour description" in to_jpeg[1]) == (numbers[1] in (16, 18))
    with Image.open(io.BytesIO(to_jpeg[0])) as image:
        assert ("icc_profile" in image.info) == (numbers == (12, 13))


# What a format does not hold of the pixels


@pytest.mark.parametrize("profile", [None, icc.CMYK], ids=["plain", "profile"])
@pytest.mark.parametrize("to", [".png", ".webp", ".bmp", ".avif", ".heic"])
def test_cmyk_becomes_srgb_with_a_warning(tmp_path: Path, to: str, profile: bytes | None) -> None:
    data = saved(picture().convert("CMYK"), "TIFF", icc_profile=profile)
    before = loaded(tmp_path, data, ".tif")
    result, said = written(tmp_path, data, ".tif", to)
    assert f"is CMYK, which {codecs.EXTENSIONS[to]} cannot hold; its colours are converted to sRGB." in said
    after = loaded(tmp_path, result, to)
    assert (after.mode, after.metadata.icc_profile) == ("RGB", b"")
    if to in (".png", ".webp", ".bmp"):
        assert (after.pixels == np.asarray(before.on_white())).all()


@pytest.mark.parametrize("profile", [b"", icc.WIDE], ids=["plain", "profile"])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_bmp_of_32_bits_stays_one(tmp_path: Path, transparent: bool, profile: bytes) -> None:
    before = loaded(tmp_path, given.bmp(transparent, profile), ".bmp")
    assert before.metadata.icc_profile == profile
    result, said = written(tmp_path, given.bmp(transparent, profile), ".bmp")
    after = loaded(tmp_path, result, ".bmp")
    assert (after.mode, after.metadata.icc_profile, said) == ("RGBA" if transparent else "RGB", profile, "")
    with Image.open(io.BytesIO(result)) as image:
        assert (np.asarray(image) == before.pixels[..., : len(image.getbands())]).all()


def test_alpha_that_hides_nothing_is_no_transparency(tmp_path: Path) -> None:
    result, said = written(tmp_path, saved(picture().convert("RGBA"), "PNG"), ".png", ".jpg")
    assert Image.open(io.BytesIO(result)).mode == "RGB"
    assert said == ""


def test_pictures_that_pillow_opened_keep_theirs() -> None:
    for kind in ("PNG", "JPEG", "TIFF"):
        image = Image.open(io.BytesIO(given.full(kind)))
        result = codecs.encode(codecs.from_image(image), kind, None)
        assert held(result) == held(given.full(kind))
