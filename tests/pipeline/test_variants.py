"""Several results of one mask and one inversion, and the inversion as pictures."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, diffedit
from PIL import Image
from safetensors.numpy import load_file

from diffedit_cli.images import provenance
from diffedit_cli.jobs import sources
from diffedit_cli.pipeline.params import VARIANTS_ETA

NAMES = ["cat.edited.png", "cat.edited-2.png", "cat.edited-3.png"]


def test_variants_differ_and_cost_one_mask_and_one_inversion(here: Path) -> None:
    found = diffedit("edit", "cat.png", *WORDS, "--variants", 3, "--json").json
    assert (found["output"], found["outputs"]) == (NAMES[0], NAMES)
    assert found["evaluations"] == {"mask": 4, "invert": 2, "edit": 3 * 6}
    assert len({Image.open(here / name).tobytes() for name in NAMES}) == 3


def test_a_variant_is_the_same_bytes_alone_and_among_others(here: Path) -> None:
    assert diffedit("mask", "cat.png", *WORDS).code == 0
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 3, "--seed", 0).code == 0
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 2, "-o", "two.png").code == 0
    alone = ("--mask", "cat.mask.png", "--seed", 1, "--eta", VARIANTS_ETA)
    assert diffedit("edit", "cat.png", *WORDS, *alone, "-o", "alone.png").code == 0
    second = (here / NAMES[1]).read_bytes()
    assert (here / "two-2.png").read_bytes() == (here / "alone.png").read_bytes() == second


def test_the_first_is_the_edit_without_others(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 2).code == 0
    assert diffedit("edit", "cat.png", *WORDS, "-o", "alone.png").code == 0
    assert (here / "alone.png").read_bytes() == (here / NAMES[0]).read_bytes()


def test_what_starts_from_noise_has_its_own_in_each(here: Path) -> None:
    """Which asks for no inversion, and needs no fresh noise in each step."""
    around = Image.new("L", Image.open("cat.png").size, 255)
    around.paste(0, (20, 10, 40, 30))
    around.save("around.png")
    words = ("--from", "a cat on the grass", "--to", "a cat in the snow", "--mask", "around.png")
    found = diffedit("edit", "cat.png", *words, "--variants", 2, "--json").json
    assert (found["region"], found["evaluations"].get("invert", 0)) == ("background", 0)
    assert Image.open(here / NAMES[0]).tobytes() != Image.open(here / NAMES[1]).tobytes()
    records = [provenance.read_record(here / name) or {} for name in NAMES[:2]]
    assert [record["latents"]["seed"] for record in records] == [0, 1]
    assert ["seed" in record["edit"] for record in records] == [False, False]
    noise = ("--caption", words[1], "--seed", 1, "--strength", 1, "--invert-from", 1)
    assert diffedit("invert", "cat.png", *noise).code == 0
    assert diffedit("edit", "cat.png", *words, "--latents", "cat.latents.safetensors", "-o", "alone.png").code == 0
    assert Image.open(here / "alone.png").tobytes() == Image.open(here / NAMES[1]).tobytes()


@pytest.mark.parametrize("kind", ["object", "background", "add", "remove", "everything"])
@pytest.mark.parametrize("start", ["--invert-from 1", "--invert-from 0.5", "--latents cat.latents.safetensors"])
def test_variants_differ_wherever_they_start(here: Path, kind: str, start: str) -> None:
    assert diffedit("invert", "cat.png", "--caption", "cat", "--steps", 4, "--strength", 0.75).code == 0
    words = ("--from", "cat", "--to", "dog", "--region", kind, "--steps", 4, "--strength", 0.75, "--anyway")
    mask = ("--mask", "part.png")
    Image.new("L", Image.open("cat.png").size, 0).save("part.png")
    part = Image.open("part.png")
    part.paste(255, (20, 10, 40, 30))
    part.save("part.png")
    ran = diffedit("edit", "cat.png", *words, *mask, *start.split(), "--variants", 3)
    assert ran.code == 0, ran.err
    assert len({Image.open(here / name).tobytes() for name in NAMES}) == 3


def test_an_explicit_eta_is_that_of_every_variant(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 2).code == 0
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 2, "--eta", 0.3, "-o", "x.png").code == 0
    for name, other in zip(NAMES, ("x.png", "x-2.png"), strict=False):
        assert Image.open(here / name).tobytes() != Image.open(here / other).tobytes()


@pytest.mark.thorough
@pytest.mark.parametrize("extra", [[], ["--reg-steps", "1"]], ids=["", "regularised"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_info_repeats_each(here: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: list[str]) -> None:
    """The second needs the first's mask, and its inversion where that was drawn with the seed: info makes both."""
    assert diffedit("edit", "cat.png", *WORDS, "--variants", 2, *extra).code == 0
    first = (here / name).read_bytes()
    lines = [line for line in diffedit("info", name).out.decode().splitlines() if line.startswith("diffedit ")]
    assert len(lines) == (1 if name == NAMES[0] else 3 if extra else 2)
    for variable in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{variable}")
    for line in lines:
        words = ["cat.png" if word == "PICTURE" else word for word in shlex.split(line)[1:]]
        target = ["-o", "again.png"] if line == lines[-1] else []
        ran = diffedit(*words, *target, "--no-cache")
        assert ran.code == 0, ran.err
    assert (here / "again.png").read_bytes() == first


def test_run_numbers_them_and_refuses_names_that_meet(here: Path) -> None:
    ran = diffedit("run", "cat.png", *WORDS, "--variants", 2, "--out", "out", "--json")
    assert ran.json["outputs"] == [str(Path("out") / name) for name in ("cat.png", "cat-2.png")]
    assert {path.name for path in (here / "out").glob("*.png")} == {"cat.png", "cat-2.png", "cat.mask.png"}
    Image.open(here / "cat.png").save(here / "cat-2.png")
    ran = diffedit("run", "cat.png", "cat-2.png", *WORDS, "--variants", 2, "--out", "other")
    assert ran.code == 2
    assert "cat-2.png" in ran.lines[-1]


def test_no_variant_replaces_what_is_not_ours(here: Path) -> None:
    Image.new("RGB", (5, 5)).save(here / NAMES[1])
    before = (here / NAMES[1]).read_bytes()
    ran = diffedit("edit", "cat.png", *WORDS, "--variants", 2)
    assert ran.code == 6
    assert NAMES[1] in ran.lines[-1]
    assert not (here / NAMES[0]).exists()
    assert (here / NAMES[1]).read_bytes() == before


# --frames


def test_frames_show_every_level_from_the_picture_to_noise(here: Path) -> None:
    found = diffedit("invert", "cat.png", "--strength", 1, "--frames", "frames", "--json").json
    frames = sorted((here / "frames").iterdir())
    assert [path.name for path in frames] == [f"cat-00{level}.png" for level in range(6)]
    assert found["evaluations"] == {"invert": 3}
    assert set(found["seconds"]) == {"load", "invert", "frames"}
    height, width = load_file(here / "cat.latents.safetensors")["trajectory"].shape[-2:]
    shown = [np.asarray(Image.open(path), dtype=float) for path in frames]
    assert {pixels.shape for pixels in shown} == {(4 * height, 4 * width, 3)}
    away = [np.abs(pixels - shown[0]).mean() for pixels in shown]
    assert away == sorted(away)


def test_frames_are_ours_and_others_are_not_replaced(here: Path) -> None:
    words = ("invert", "cat.png", "--frames", "frames")
    assert diffedit(*words).code == 0
    first = (here / "frames" / "cat-002.png").read_bytes()
    assert diffedit(*words).code == 0
    assert (here / "frames" / "cat-002.png").read_bytes() == first
    told = diffedit("info", Path("frames") / "cat-002.png").out.decode()
    assert "level: 2" in told
    assert told.splitlines()[-1].startswith("diffedit invert PICTURE")
    assert told.splitlines()[-1].endswith("--frames FRAMES")
    Image.new("RGB", (5, 5)).save(here / "frames" / "cat-003.png")
    (here / "cat.latents.safetensors").unlink()
    ran = diffedit(*words)
    assert ran.code == 6
    assert str(Path("frames") / "cat-003.png") in ran.lines[-1]
    assert not (here / "cat.latents.safetensors").exists()
    assert diffedit(*words, "--force").code == 0


def test_an_edit_writes_them_too_and_a_folder_of_them_is_no_input(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "--frames", here / "frames").code == 0
    assert len(list((here / "frames").iterdir())) == 5
    listed = sources.list_rows([str(here)], recursive=False, skip=provenance.has_record)
    assert [row.input for row in listed] == [here / "cat.png"]
    assert "holds no pictures" in diffedit("run", "frames", *WORDS, "--out", "out").lines[-1]


def test_pictures_of_one_name_do_not_share_frames(here: Path) -> None:
    (here / "other").mkdir()
    Image.open(here / "cat.png").save(here / "other" / "cat.png")
    ran = diffedit("edit", "cat.png", Path("other") / "cat.png", *WORDS, "--frames", "frames")
    assert ran.code == 2
    assert str(Path("frames") / "cat-000.png") in ran.lines[-1]
