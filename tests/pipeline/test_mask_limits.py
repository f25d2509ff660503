"""What may change: masks drawn by hand in any way, and the limits that --within and --exclude set to any mask."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, diffedit, settled
from PIL import Image

SIZE = (60, 40)
LEFT, TOP = (0, 0, 30, 40), (0, 0, 60, 20)


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture, and white in its left half and in its upper half."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    for name, box in (("left.png", LEFT), ("top.png", TOP)):
        white(*box).save(tmp_path / name)
    Image.new("L", SIZE).save(tmp_path / "black.png")
    return tmp_path


def white(*box: int) -> Image.Image:
    drawn = Image.new("L", SIZE)
    drawn.paste(255, box)
    return drawn


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def white_in(path: Path | str) -> np.ndarray:
    return pixels(path)[..., 0] > 127


def run(*words: object) -> None:
    ran = diffedit(*words)
    assert ran.code == 0, ran.err


# limits


@pytest.mark.usefixtures("here")
def test_a_found_mask_is_cut_down_to_its_limits() -> None:
    run("mask", "cat.png", *WORDS, "-o", "whole.png")
    whole, left, top = (white_in(name) for name in ("whole.png", "left.png", "top.png"))
    for words, expected in (
        (("--within", "left.png"), whole & left),
        (("--exclude", "top.png"), whole & ~top),
        (("--within", "left.png", "--exclude", "top.png"), whole & left & ~top),
    ):
        assert expected.any()
        assert not (expected == whole).all()
        run("mask", "cat.png", *WORDS, *words, "-o", "cut.png")
        assert (white_in("cut.png") == expected).all()


@pytest.mark.usefixtures("here")
def test_an_edit_changes_nothing_outside_the_limits() -> None:
    run("edit", "cat.png", *WORDS, "--within", "left.png", "--exclude", "top.png", "-o", "x.png")
    changed = (pixels("x.png") != pixels("cat.png")).any(axis=2)
    assert changed.any()
    assert not (changed & ~(white_in("left.png") & ~white_in("top.png"))).any()


@pytest.mark.usefixtures("here")
def test_the_limits_count_for_every_picture_of_a_run() -> None:
    Image.open("cat.png").rotate(180).save("turned.png")
    run("run", "cat.png", "turned.png", *WORDS, "--within", "left.png", "--out", "out")
    for name in ("cat", "turned"):
        assert white_in(f"out/{name}.mask.png").any()
        assert not (white_in(f"out/{name}.mask.png") & ~white_in("left.png")).any()


@pytest.mark.usefixtures("here")
def test_limits_use_the_cached_comparison() -> None:
    run("mask", "cat.png", *WORDS)
    found = diffedit("mask", "cat.png", *WORDS, "--within", "left.png", "--json").json
    assert found["cache"] == {"mask": "hit"}
    assert 0 < found["mask_area"] <= 0.5


@pytest.mark.usefixtures("here")
def test_stages_with_a_limited_mask_give_the_bytes_of_one_edit() -> None:
    limit = ("--within", "left.png")
    run("edit", "cat.png", *WORDS, *limit, "-o", "whole.png")
    run("mask", "cat.png", *WORDS, *limit, "-o", "limited.png")
    run("mask", "cat.png", *WORDS, "-o", "free.png")
    run("edit", "cat.png", *WORDS, "--mask", "limited.png", "-o", "a.png")
    run("edit", "cat.png", *WORDS, "--mask", "free.png", *limit, "-o", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() == Path("whole.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "repeated"),
    [
        (("mask", *WORDS, "--within", "left.png"), "--within WITHIN.png"),
        (("edit", *WORDS, "--exclude", "top.png"), "--exclude EXCLUDE.png"),
        (("edit", *WORDS, "--within", "left.png", "--exclude", "top.png"), "--within WITHIN.png --exclude EXCLUDE.png"),
        (
            ("edit", *WORDS, "--mask", "drawn.png", "--within", "left.png"),
            "--mask MASK.png --within WITHIN.png",
        ),
        (
            ("edit", *WORDS, "--mask", "limited.png", "--within", "left.png"),
            "--mask MASK.png --within WITHIN.png",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
@pytest.mark.usefixtures("here")
def test_info_repeats_the_limits(words: tuple[str, ...], repeated: str) -> None:
    white(10, 10, 50, 30).save("drawn.png")
    run("mask", "cat.png", *WORDS, "--exclude", "top.png", "-o", "limited.png")
    places = {"PICTURE": "cat.png", "WITHIN.png": "left.png", "EXCLUDE.png": "top.png"}
    places["MASK.png"] = "limited.png" if "limited.png" in words else "drawn.png"
    run(words[0], "cat.png", *words[1:], "-o", "x.png")
    first = Path("x.png").read_bytes()
    line = diffedit("info", "x.png").out.decode().splitlines()[-1]
    assert repeated in line
    again = [places.get(word, word) for word in shlex.split(line)[1:]]
    run(*again, "-o", "y.png")
    assert Path("y.png").read_bytes() == first


@pytest.mark.usefixtures("here")
def test_a_limit_counts_by_its_content() -> None:
    for limit in ("left.png", "same.webp", "top.png"):
        if limit == "same.webp":
            Image.open("left.png").convert("RGB").save(limit, lossless=True)
        run("mask", "cat.png", *WORDS, "--within", limit, "-o", f"{limit}.mask.png")
    made = {limit: Path(f"{limit}.mask.png").read_bytes() for limit in ("left.png", "same.webp", "top.png")}
    assert made["left.png"] == made["same.webp"] != made["top.png"]
    assert b'"within"' in made["top.png"]
    run("mask", "cat.png", *WORDS)
    assert b'"within"' not in Path("cat.mask.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--within", "black.png"), "none of it lies in the white of --within black.png"),
        (("--exclude", "all.png"), "the white of --exclude all.png covers it"),
        (("--within", "left.png", "--exclude", "left.png"), "the white of --exclude left.png covers it"),
        (("--mask", "drawn.png", "--within", "left.png"), "none of it lies in the white of --within left.png"),
        (("--mask", "drawn.png", "--box", "0,0,40,40"), "none of it lies in --box"),
        (("--mask", "drawn.png", "--point", "10,10"), "--point is not in it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("here")
def test_what_empties_the_mask_is_named(words: tuple[str, ...], says: str) -> None:
    white(*(0, 0), *SIZE).save("all.png")
    white(40, 0, 60, 40).save("drawn.png")
    ran = diffedit("edit", "cat.png", *WORDS, *words)
    assert ran.code == 5
    assert says in ran.lines[-1]
    assert not Path("cat.edited.png").exists()


def test_a_limit_is_never_replaced(here: Path) -> None:
    before = (here / "left.png").read_bytes()
    ran = diffedit("mask", "cat.png", *WORDS, "--within", "left.png", "-o", "left.png", "--force")
    assert ran.code == 6
    assert (here / "left.png").read_bytes() == before


# drawn masks

BOX = (10, 10, 50, 30)
GREY = Image.new("L", SIZE, 127)
GREY.paste(128, BOX)


def with_alpha(colours: int, mode: str) -> Image.Image:
    """A box painted on nothing, as a browser's canvas or a layer of its own has it."""
    drawn = Image.new("LA", SIZE, (colours, 0))
    drawn.paste((255, 255), BOX)
    return drawn.convert(mode)


def soft(radius: int) -> Image.Image:
    """An edge that fades by equal steps on both sides of the box's."""
    inside = np.asarray(white(*BOX)) > 0
    rows, columns = np.indices(inside.shape)
    distance = np.maximum(np.abs(rows - 19.5) - 10, np.abs(columns - 29.5) - 20)
    return Image.fromarray(np.clip(127.5 - distance * 255 / radius, 0, 255).round().astype(np.uint8))


DRAWN = {
    "white.png": white(*BOX),
    "soft.png": soft(6),
    "grey.png": GREY,
    "one-bit.png": white(*BOX).convert("1"),
    "palette.png": white(*BOX).convert("RGB").quantize(2),
    "palette.gif": white(*BOX).convert("RGB").quantize(2),
    "rgb.png": white(*BOX).convert("RGB"),
    "jpeg.jpg": white(*BOX),
    "canvas.png": with_alpha(0, "RGBA"),
    "layer.png": with_alpha(255, "RGBA"),  # white, but transparent around the box
    "grey-layer.png": with_alpha(255, "LA"),
    "bitmap.bmp": white(*BOX),
    "lossy.webp": white(*BOX).convert("RGB"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", DRAWN)
def test_any_drawn_mask_means_what_it_shows(here: Path, name: str) -> None:
    DRAWN[name].save(here / name)
    run("edit", "cat.png", "--to", "dog", "--mask", name, "-o", "x.png")
    DRAWN["white.png"].save(here / "plain.png")
    run("edit", "cat.png", "--to", "dog", "--mask", "plain.png", "-o", "y.png")
    assert (pixels("x.png") == pixels("y.png")).all()
    assert (pixels("x.png") != pixels("cat.png")).any()


def test_a_mask_on_standard_input_keeps_its_record(here: Path) -> None:
    run("mask", "cat.png", *WORDS)
    mask = (here / "cat.mask.png").read_bytes()
    run("edit", "cat.png", *WORDS, "--mask", "cat.mask.png", "-o", "x.png")
    ran = diffedit("edit", "cat.png", *WORDS, "--mask", "-", "-o", "y.png", given=mask)
    assert ran.code == 0, ran.err
    assert (here / "x.png").read_bytes() == (here / "y.png").read_bytes()
    assert diffedit("edit", "cat.png", *WORDS, "--mask", "-", "--steps", 6, given=mask).code == 3


@pytest.mark.usefixtures("here")
def test_standard_input_is_one_picture() -> None:
    data = io.BytesIO()
    white(*BOX).save(data, "PNG")
    for words in (("-", "--mask", "-"), ("cat.png", "--mask", "-", "--within", "-")):
        ran = diffedit("edit", *words, "--to", "dog", "-o", "x.png", given=data.getvalue())
        assert ran.code == 2
        assert "Standard input holds one picture" in ran.err
