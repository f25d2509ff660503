"""`run --mask 'masks/{stem}.png'` and the like: each picture's own file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, diffedit, picture
from PIL import Image

SIZE = (60, 40)


def drawn(path: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    """Writes a mask that is white in a box, and gives it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", SIZE)
    mask.paste(255, box)
    mask.save(path)
    return np.asarray(mask) > 0


def results(folder: Path) -> dict[str, dict]:
    rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return {row["input"]: row for row in rows}


def test_each_picture_is_edited_in_its_own_mask(here: Path) -> None:
    masks = {
        "a.png": drawn(here / "masks" / "a.png", (0, 0, 20, 20)),
        "b.png": drawn(here / "masks" / "b.png", (30, 10, 60, 40)),
    }
    for name in masks:
        picture(here / "in" / name) if (here / "in").is_dir() else ((here / "in").mkdir(), picture(here / "in" / name))
    ran = diffedit("run", "in", "--to", "dog", "--mask", "masks/{stem}.png", "--out", "out")
    assert ran.code == 0, ran.err
    for name, mask in masks.items():
        before, after = (np.asarray(Image.open(here / folder / name)) for folder in ("in", "out"))
        assert (before[~mask] == after[~mask]).all()
        assert (before[mask] != after[mask]).any()
        assert results(here / "out")[f"in/{name}"]["evaluations"]["mask"] == 0


def test_a_folder_of_the_source_may_stand_in_it(here: Path) -> None:
    (here / "in" / "deep").mkdir(parents=True)
    picture(here / "in" / "a.png")
    picture(here / "in" / "deep" / "a.png")
    drawn(here / "masks" / "a.png", (0, 0, 20, 20))
    drawn(here / "masks" / "deep" / "a.png", (30, 0, 60, 40))
    ran = diffedit("run", "in", "-r", "--to", "dog", "--mask", "masks/{folder}/{stem}.png", "--out", "out")
    assert ran.code == 0, ran.err
    found = results(here / "out")
    assert Path(found["in/deep/a.png"]["mask"]) == Path("masks/deep/a.png")
    assert found["in/deep/a.png"]["mask_area"] == pytest.approx(0.5)
    assert found["in/a.png"]["mask_area"] == pytest.approx(20 * 20 / (60 * 40), abs=1e-3)


def test_a_picture_without_one_fails_alone(here: Path) -> None:
    drawn(here / "masks" / "cat.png", (0, 0, 20, 20))
    picture(here / "cat.png", SIZE)
    picture(here / "other.png", SIZE)
    ran = diffedit("run", "cat.png", "other.png", "--to", "dog", "--mask", "masks/{stem}.png", "--out", "out")
    assert ran.code == 8
    assert "There is no mask masks/other.png; check the name." in ran.err
    assert [row["status"] for row in results(here / "out").values()] == ["done", "failed"]


def test_a_job_files_own_mask_counts_more(here: Path) -> None:
    picture(here / "cat.png", SIZE)
    drawn(here / "own.png", (0, 0, 30, 40))
    (here / "jobs.csv").write_text("input,mask\ncat.png,own.png\n")
    ran = diffedit("run", "jobs.csv", "--to", "dog", "--mask", "masks/{stem}.png", "--out", "out")
    assert ran.code == 0, ran.err
    assert results(here / "out")["cat.png"]["mask"] == "own.png"


@pytest.mark.parametrize("flag", ["--mask", "--latents", "--within", "--exclude"])
def test_what_is_no_template_is_refused_before_any_work(here: Path, flag: str) -> None:
    ran = diffedit("run", "cat.png", *WORDS, flag, "masks/{nosuch}.png", "--out", "out")
    assert ran.code == 2
    assert (
        ran.lines[-1] == f"diffedit: {flag} masks/{{nosuch}}.png has the unknown field {{nosuch}}; "
        "the fields are {stem}, {ext}, {folder}."
    )
    assert not (here / "out").exists()


def test_within_may_be_of_each(here: Path) -> None:
    picture(here / "cat.png", SIZE)
    open_ = drawn(here / "inside" / "cat.png", (0, 0, 30, 40))
    ran = diffedit("run", "cat.png", *WORDS, "--within", "inside/{stem}{ext}", "--threshold", 0.01, "--out", "out")
    assert ran.code == 0, ran.err
    before, after = (np.asarray(Image.open(here / name)) for name in ("cat.png", "out/cat.png"))
    assert (before[~open_] == after[~open_]).all()
