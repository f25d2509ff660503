"""--segment and expressions of --mask-method in every command, with a segmenter that knows the answers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, Ran, diffedit, picture, settled
from numpy.typing import NDArray
from PIL import Image
from planted_segmenter import Planted, plant
from tiny_segmenters import write_clipseg

import diffedit_cli
from diffedit_cli.images import provenance
from diffedit_cli.models.loader import LOADER
from diffedit_cli.pipeline import segmentation

CAT = (10, 8, 30, 28)  # left, top, right, bottom of the cat in pictures of 60 x 40 pixels
COLLAR = (10, 8, 30, 14)
SEGMENT = ("--segment", "the cat")


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clipseg(tmp_path_factory.mktemp("models") / "clipseg")


@pytest.fixture
def planted(clipseg: Path, tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The segmenter of all commands; the working folder holds a picture and a drawn mask."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    monkeypatch.setenv("DIFFEDIT_SEGMENTER", str(clipseg))
    planted = plant(monkeypatch)
    planted.box("the cat", *CAT)
    planted.box("the collar", *COLLAR)
    Image.fromarray(np.pad(np.full((40, 20), 255, np.uint8), ((0, 0), (0, 40)))).save("drawn.png")
    return planted


def box(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    found = np.zeros((40, 60), bool)
    found[top:bottom, left:right] = True
    return found


def masked(path: str = "cat.mask.png") -> NDArray[np.bool_]:
    return np.asarray(Image.open(path)) > 127


def done(*words: object) -> Ran:
    ran = diffedit(*words)
    assert ran.code == 0, ran.err
    return ran


def test_the_mask_is_the_segmenters_alone_and_needs_no_model(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(LOADER), "load", lambda *_: pytest.fail("the diffusion model is loaded"))
    ran = done("mask", "cat.png", *SEGMENT, "--json")
    np.testing.assert_array_equal(masked(), box(*CAT))
    assert ran.json["evaluations"]["mask"] == 0
    assert ran.json["cache"]["mask"] == "miss"
    assert planted.asked == ["the cat"]


def test_the_segmenter_is_asked_once_for_each_picture_and_words(planted: Planted) -> None:
    for words in (
        (),
        ("--threshold", "0.6"),
        ("--soft",),
        ("--grow", 1),
        ("--seed", 3),
        ("--from", "cat", "--to", "dog"),
    ):
        done("mask", "cat.png", *SEGMENT, *words, "--force")
    assert planted.asked == ["the cat"]
    assert done("mask", "cat.png", *SEGMENT, "--force", "--json").json["cache"]["mask"] == "hit"
    done("mask", "cat.png", "--segment", "the collar", "--force")
    done("mask", "cat.png", *SEGMENT, "--no-cache", "--force")
    picture(Path("other.png"), (60, 40)).rename("cat.png")  # the same picture
    done("mask", "cat.png", *SEGMENT, "--force")
    assert planted.asked == ["the cat", "the collar", "the cat"]
    assert done("mask", "cat.png", *WORDS, "--mask-method", "noise & segment", *SEGMENT, "--force", "--json").json[
        "evaluations"
    ] == {"mask": 4}
    assert planted.asked == ["the cat", "the collar", "the cat"]


def test_the_mask_grows_only_if_that_is_said(planted: Planted) -> None:
    del planted.answers["the collar"]
    done("mask", "cat.png", *SEGMENT, "--grow", 1)
    wide = masked()
    assert wide.sum() > box(*CAT).sum()
    assert wide[box(*CAT)].all()


EXPRESSIONS = {
    'segment & !"the collar"': box(*CAT) & ~box(*COLLAR),
    '"the cat" and not "the collar"': box(*CAT) & ~box(*COLLAR),
    "drawn | segment": box(*CAT) | box(0, 0, 20, 40),
    "drawn & segment": box(*CAT) & box(0, 0, 20, 40),
    "!drawn": ~box(0, 0, 20, 40),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
@pytest.mark.usefixtures("planted")
def test_masks_are_joined_as_they_are_said(text: str) -> None:
    words = (*(SEGMENT if "segment" in text else ()), *(("--mask", "drawn.png") if "drawn" in text else ()))
    done("mask", "cat.png", "--mask-method", text, *words, "-o", "joined.png")
    np.testing.assert_array_equal(masked("joined.png"), EXPRESSIONS[text])
    line = done("info", "joined.png").out.decode().splitlines()[-1]
    again = [{"PICTURE": "cat.png", "MASK.png": "drawn.png"}.get(word, word) for word in shlex.split(line)[1:]]
    done(*again, "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("joined.png").read_bytes()


@pytest.mark.usefixtures("planted")
def test_the_masks_of_the_network_are_joined_too() -> None:
    done("mask", "cat.png", *WORDS, "--mask-method", "noise", "-o", "noise.png")
    done("mask", "cat.png", *WORDS, "--mask-method", "attention", "-o", "attention.png")
    noise, attention = masked("noise.png"), masked("attention.png")
    assert noise.any()
    assert (noise & box(*CAT)).any()
    for text, expected in {
        "noise & segment": noise & box(*CAT),
        "noise | segment": noise | box(*CAT),
        "attention | noise & !segment": attention | (noise & ~box(*CAT)),
    }.items():
        ran = done("mask", "cat.png", *WORDS, "--mask-method", text, *SEGMENT, "--json", "--force")
        np.testing.assert_array_equal(masked(), expected)
        assert ran.json["evaluations"]["mask"] == 0  # the maps are in the cache


@pytest.mark.usefixtures("planted")
def test_soft_masks_are_joined_by_least_and_most() -> None:
    ramp = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))
    Image.fromarray(ramp).save("drawn.png")
    done("mask", "cat.png", "--mask", "drawn.png", "--mask-method", "drawn & !segment", *SEGMENT, "--soft")
    found = np.asarray(Image.open("cat.mask.png"))
    np.testing.assert_array_equal(found, np.minimum(ramp, 255 - box(*CAT) * np.uint8(255)))


def test_an_edit_needs_no_from_and_changes_nothing_outside(planted: Planted) -> None:
    ran = done("edit", "cat.png", *SEGMENT, "--to", "dog", "--room", 0, "--json")
    assert ran.json["evaluations"]["mask"] == 0
    before, after = (np.asarray(Image.open(name)) for name in ("cat.png", "cat.edited.png"))
    assert (before == after).all(axis=-1)[~box(*CAT)].all()
    assert (before != after).any()
    record = provenance.read_record(Path("cat.edited.png"))
    assert record is not None
    assert record["mask"]["segment"] == "the cat"
    assert record["mask"]["mask-method"] == "segment"
    line = done("info", "cat.edited.png").out.decode().splitlines()[-1]
    written = Path("cat.edited.png").read_bytes()
    assert "--segment 'the cat'" in line
    done(*[{"PICTURE": "cat.png"}.get(word, word) for word in shlex.split(line)[1:]], "--force", "--no-cache")
    assert Path("cat.edited.png").read_bytes() == written
    assert set(planted.asked) == {"the cat"}


@pytest.mark.usefixtures("planted")
def test_a_mask_without_prompts_fits_every_model(tiny_v: Path) -> None:
    done("mask", "cat.png", *SEGMENT)
    done("edit", "cat.png", "--mask", "cat.mask.png", "--to", "dog", "--model", tiny_v, "--steps", 4)
    done("mask", "cat.png", *WORDS, "-o", "noise.png")
    ran = diffedit("edit", "cat.png", "--mask", "noise.png", "--to", "dog", "--model", tiny_v, "--steps", 4, "--force")
    assert ran.code == 3
    picture(Path("other.png"), (60, 40))
    Image.open("other.png").rotate(180).save("other.png")
    assert diffedit("edit", "other.png", "--mask", "cat.mask.png", "--to", "dog").code == 3


@pytest.mark.usefixtures("planted")
def test_a_mask_made_with_a_drawn_one_is_repeated_by_its_file() -> None:
    done("mask", "cat.png", "--mask", "drawn.png", "--mask-method", "drawn & segment", *SEGMENT, "-o", "joined.png")
    done("edit", "cat.png", "--mask", "joined.png", "--to", "dog", "-o", "once.png")
    line = done("info", "once.png").out.decode().splitlines()[-1]
    assert "--mask MASK.png" in line
    assert "--mask-method" not in line
    done("edit", "cat.png", "--mask", "drawn.png", "--mask-method", "drawn & segment", *SEGMENT, "--to", "dog")
    line = done("info", "cat.edited.png").out.decode().splitlines()[-1]
    assert "--mask-method 'drawn & segment'" in line


KINDS = {
    ("--from", "a cat on grass", "--to", "a dog on grass"): box(*CAT),
    ("--from", "a photo", "--to", "a watercolour", "--region", "everything"): box(*CAT),
    ("--from", "grass", "--to", "grass with a dog", "--region", "add"): box(*CAT),
    ("--from", "a cat on grass", "--to", "grass", "--region", "remove"): box(*CAT),
    ("--from", "a cat", "--to", "a red cat", "--region", "attribute"): box(*CAT),
}


@pytest.mark.parametrize("words", KINDS, ids=lambda words: words[-1])
@pytest.mark.usefixtures("planted")
def test_whatever_the_kind_the_mask_is_what_is_segmented(words: tuple[str, ...]) -> None:
    done("mask", "cat.png", *SEGMENT, *words)
    np.testing.assert_array_equal(masked(), KINDS[words])


@pytest.mark.usefixtures("planted")
def test_a_background_is_all_but_what_is_segmented() -> None:
    done("mask", "cat.png", *SEGMENT, "--from", "a cat on grass", "--to", "a cat on snow", "--region", "background")
    found = masked()
    assert found[~box(*CAT)].all()
    assert not found[box(14, 12, 26, 24)].all()


@pytest.mark.usefixtures("planted")
def test_limits_cut_what_is_segmented() -> None:
    done("mask", "cat.png", *SEGMENT, "--box", "0,0,20,40")
    np.testing.assert_array_equal(masked(), box(*CAT) & box(0, 0, 20, 40))
    done("mask", "cat.png", *SEGMENT, "--within", "drawn.png", "--force")
    np.testing.assert_array_equal(masked(), box(*CAT) & box(0, 0, 20, 40))
    done("mask", "cat.png", "--mask-method", '!"the cat" & !"the collar"', "--exclude", "drawn.png", "--force")
    np.testing.assert_array_equal(masked(), ~box(*CAT) & ~box(0, 0, 20, 40))
    ran = diffedit("mask", "cat.png", *SEGMENT, "--point", "50,35", "--force")
    assert ran.code == 5
    assert ran.lines[-1].endswith("--point is not in it; point at what it covers.")  # no threshold to lower


def test_what_is_not_seen_is_said(planted: Planted) -> None:
    ran = diffedit("mask", "cat.png", "--segment", "a unicorn")
    assert ran.code == 5
    assert 'clipseg sees no "a unicorn" in cat.png; say it in other words, or name another one with --segm' in ran.err
    ran = diffedit("mask", "cat.png", "--mask-method", '"the cat" & ("a unicorn" | "a griffin")')
    assert ran.code == 5
    assert 'sees no "a unicorn" and no "a griffin" in cat.png' in ran.err
    done("mask", "cat.png", "--mask-method", '"the cat" & !"a unicorn"')
    planted.box("the moon", 40, 0, 60, 10)
    ran = diffedit("mask", "cat.png", "--mask-method", '"the cat" & "the moon"', "--force")
    assert ran.code == 5
    assert 'is empty: nothing is left of "the cat" & "the moon"; find each of its parts alone' in ran.err


BAD = [
    (("--mask-method", "segment"), "names segment; say what to look for with --segment"),
    (("--mask-method", "noise &", *WORDS), "is incomplete at its end"),
    (("--mask-method", "drawn & 'the cat'"), "names drawn; give the file of that mask with --mask"),
    (("--mask-method", "noise & segment", *SEGMENT), "--from is missing or empty"),
    (("--segment", " "), "--from is missing or empty"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[says[:20] for _, says in BAD])
@pytest.mark.parametrize("command", ["mask", "edit"])
@pytest.mark.usefixtures("planted")
def test_what_contradicts_is_said(command: str, words: tuple[str, ...], says: str) -> None:
    to = () if "--to" in words or command == "mask" else ("--to", "dog")
    ran = diffedit(command, "cat.png", *words, *to)
    assert ran.code == 2, ran.err
    assert says in ran.lines[-1]
    assert len(ran.lines) == 1
    assert says in diffedit(command, "cat.png", *words, *to, "--json").json["error"]["message"]


UNUSED = {
    SEGMENT: ("--segment has", "drawn & segment"),
    ("--mask-method", '"the cat"'): ('--mask-method "the cat" has', 'drawn & "the cat"'),
    ("--mask-method", 'noise | !"the cat"', *WORDS): (
        '--mask-method noise | !"the cat" has',
        'drawn & (noise | !"the cat")',
    ),
    ("--mask-method", "noise & attention", *WORDS): ("--mask-method noise &", "drawn & (noise & attention)"),
}


@pytest.mark.parametrize("words", UNUSED, ids=lambda words: words[1])
def test_a_whole_mask_leaves_nothing_to_look_for(planted: Planted, words: tuple[str, ...]) -> None:
    to = () if "--to" in words else ("--to", "dog")
    ran = diffedit("edit", "cat.png", "--mask", "drawn.png", *words, *to)
    unused, advice = UNUSED[words]
    assert ran.code == 2, ran.err
    assert f"--mask is the whole mask, and {unused}" in ran.err
    assert ran.err.rstrip().endswith(f"or join both: --mask-method '{advice}'.")
    done(
        "edit", "cat.png", "--mask", "drawn.png", "--mask-method", advice, *words[2 * (words[0] != "--segment") :], *to
    )
    assert planted.asked or "the cat" not in "".join(words)


@pytest.mark.usefixtures("planted")
def test_no_kind_is_told_if_no_prompts_say_one() -> None:
    assert done("mask", "cat.png", *SEGMENT, "--json").json["region"] is None
    assert "another" not in done("mask", "cat.png", *SEGMENT, "--force").err
    ran = done("mask", "cat.png", *SEGMENT, "--from", "a cat", "--to", "a red cat", "--force")
    assert "another look" in ran.err


@pytest.mark.parametrize("extra", [(), ("--batch", 2)], ids=str)
def test_a_run_segments_what_each_row_says(planted: Planted, extra: tuple[object, ...]) -> None:
    for name in ("one.png", "two.png"):
        picture(Path(name), (60, 40))
    Path("jobs.csv").write_text(
        'input,segment,mask-method\none.png,the cat,\ntwo.png,,"""the cat"" & !""the collar"""\n'
    )
    ran = done("run", "jobs.csv", "--to", "dog", "--room", 0, "--out", "out", *extra, "--json")
    assert [json.loads(line)["status"] for line in ran.out.splitlines()] == ["done"] * 2
    before = np.asarray(Image.open("one.png"))
    for name, expected in (("one", box(*CAT)), ("two", box(*CAT) & ~box(*COLLAR))):
        changed = (np.asarray(Image.open(f"out/{name}.png")) != before).any(axis=-1)
        assert changed.any()
        assert not changed[~expected].any()
    assert planted.asked.count("the cat") == 1  # both are the same picture


def test_a_large_picture_is_looked_at_again_in_a_crop(planted: Planted) -> None:
    size = 1400
    Image.effect_noise((size, size), 30).convert("RGB").save("large.png")
    found = []

    def answer(image: Image.Image) -> NDArray[np.float32]:
        found.append(image.size)
        mask = np.zeros((64, 64), np.float32)
        if image.size[0] == size:
            mask[20:24, 20:24] = 1
        else:
            mask[22:42, 22:42] = 1
        return mask

    planted.answers["the cat"] = answer
    done("mask", "large.png", *SEGMENT)
    assert len(found) == 2
    assert found[0] == (size, size)
    assert found[1][0] == segmentation.ClipSeg.side
    coarse = masked("large.mask.png")
    done("mask", "large.png", *SEGMENT, "--zoom", "off", "--force")
    assert not np.array_equal(masked("large.mask.png"), coarse)
    assert len(found) == 2  # the whole picture is in the cache


@pytest.mark.usefixtures("planted")
def test_the_library_takes_words_and_expressions(clipseg: Path, tiny_epsilon: Path) -> None:
    editor = diffedit_cli.DiffEdit(tiny_epsilon)
    shared = {"segmenter": str(clipseg), "steps": 5}
    found = editor.mask("cat.png", segment="the cat", **shared)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.pixels, box(*CAT))
    joined = editor.mask("cat.png", mask="drawn.png", mask_method='drawn & "the cat"', **shared)  # type: ignore[arg-type]
    np.testing.assert_array_equal(joined.pixels, box(*CAT) & box(0, 0, 20, 40))
    edited = editor.edit("cat.png", to="dog", segment="the cat", room=0.0, **shared)  # type: ignore[arg-type]
    before, after = np.asarray(Image.open("cat.png")), np.asarray(edited.image)
    assert not (before != after).any(axis=-1)[~box(*CAT)].any()
    with pytest.raises(diffedit_cli.UsageError, match="name drawn there"):
        editor.mask("cat.png", mask="drawn.png", from_="cat", to="dog")
    assert found.preview().size[0] > 3 * 60  # picture, map and mask
