"""Corners beside the usual ways: results that moved, files of absurd size, records that others wrote, other folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import WORDS, Ran, diffedit, picture
from PIL import Image

from diffedit_cli import DiffEdit, Embeds, OutputError

FAST = {"steps": 4, "maps": 1, "threshold": 0.3, "anyway": True}


def run(*words: object, out: str = "out") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", out, "--json")


def statuses(ran: Ran) -> list[str]:
    return [json.loads(line)["status"] for line in ran.out.splitlines()]


# Results that moved


def test_a_folder_that_moved_is_told_from_a_newer_one_of_its_name(here: Path) -> None:
    picture(here / "cat.png")
    run("cat.png", "--no-metadata")
    Path("out").rename("moved")
    run("cat.png", "--no-metadata", "--seed", "4")
    assert diffedit("report", "moved").code == 0
    page = (here / "moved" / "index.html").read_text()
    assert "../out/" not in page
    assert statuses(run("cat.png", "--no-metadata", out="moved")) == ["skipped"]
    shutil.rmtree("out")
    (here / "out").mkdir()
    (here / "out" / "cat.png").write_text("a stranger's")
    assert statuses(run("cat.png", "--no-metadata", out="moved")) == ["skipped"]


# Files of absurd size


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.toml", "jobs.csv", "out/results.jsonl", "model/model_index.json"])
def test_files_of_absurd_size_are_refused_or_passed_over_unread(here: Path, name: str) -> None:
    """Of 30 GB that no disk holds: whoever read them whole would need as much memory."""
    picture(here / "cat.png")
    Path(name).parent.mkdir(exist_ok=True)
    with Path(name).open("wb") as file:
        file.truncate(30 * 10**9 if name.endswith((".toml", "index.json")) else 10**8)
    if name.startswith("jobs"):
        assert run(name).code in (2, 8)
    elif name.startswith("out"):
        assert run("cat.png").code == 6  # no file of ours
    else:
        assert diffedit("edit", "cat.png", *WORDS, "--model", "./model").code == 4


def test_a_column_that_is_there_twice_is_refused(here: Path) -> None:
    (here / "jobs.csv").write_text("input,to,input\ncat.png,dog,other.png\n")
    ran = run("jobs.csv")
    assert ran.code == 2
    assert "says input twice" in ran.err


@pytest.mark.parametrize(("option", "value"), [("--variants", "1000000000"), ("--guidance", "1e30")])
def test_absurd_numbers_are_refused_at_once(here: Path, option: str, value: str) -> None:
    picture(here / "cat.png")
    ran = diffedit("edit", "cat.png", *WORDS, option, value)
    assert (ran.code, option in ran.err) == (2, True)


@pytest.mark.parametrize("template", ["{ext}", "{suffix}{ext}", ".{stem}"])
def test_results_are_not_hidden(here: Path, template: str) -> None:
    picture(here / "cat.png")
    assert run("cat.png", "--name", template).code == 2


# What a dry run tells


@pytest.mark.parametrize(
    "wrong",
    [
        ["--name", "{stem}.html"],
        ["--name", 300 * "x"],
        ["--name", 250 * "x" + ".png"],  # that of its mask is too long
        ["--out", "file/x"],
        ["--frames", "file"],
        ["--within", "small.png"],
    ],
    ids=lambda wrong: " ".join(wrong)[:20],
)
def test_a_dry_run_tells_what_names_and_files_tell(here: Path, wrong: list[str]) -> None:
    picture(here / "cat.png")
    picture(here / "small.png", (8, 8))
    (here / "file").write_text("a file")
    words = ["run", "cat.png", *WORDS, "--out", "out", *wrong]
    foreseen = diffedit(*words, "--dry-run")
    assert foreseen.code == diffedit(*words).code != 0, foreseen.err


@pytest.mark.usefixtures("here")
def test_a_dry_run_tells_of_pictures_that_cannot_be_read() -> None:
    Path("cat.png").write_bytes(picture(Path("whole.png")).read_bytes()[:60])
    assert statuses(run("cat.png", "whole.png", "--dry-run")) == ["failed", "planned"]


# Records that others wrote


def test_the_command_that_makes_it_again_says_anyway(here: Path) -> None:
    picture(here / "cat.png")
    assert diffedit("edit", "cat.png", *WORDS, "--anyway", "-o", "a.png").code == 0
    assert b"--anyway" in diffedit("info", "a.png").out


@pytest.mark.parametrize(
    "changed", [{"model-name": 5}, {"lora": [1]}, {"dtype": 3}, {"region": "x"}, {"to": "\ud800"}, {"box": 7}], ids=str
)
def test_info_says_which_record_is_damaged(here: Path, changed: dict[str, Any]) -> None:
    picture(here / "cat.png")
    assert diffedit("mask", "cat.png", *WORDS, "-o", "m.png").code == 0
    from PIL import PngImagePlugin

    with Image.open("m.png") as image:
        record, told = json.loads(image.info["diffedit"]), PngImagePlugin.PngInfo()
        told.add_text("diffedit", json.dumps({**record, **changed}))
        image.save("x.png", pnginfo=told)
    for more in ([], ["--json"]):
        ran = diffedit("info", "x.png", *more)
        assert ran.code in (0, 3)
        assert ran.code == 0 or "x.png" in ran.err


# From Python


def test_what_a_result_was_made_from_is_never_replaced(
    here: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from another folder, opened by PIL, or a mask."""
    cat, mask = here / "cat.png", here / "mask.png"
    picture(cat)
    Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), ((0, 16), (0, 32)))).save(mask)
    editor = DiffEdit(str(tiny_epsilon))
    with Image.open(cat) as opened:
        results = [
            editor.edit("cat.png", from_="cat", to="dog", **FAST),
            editor.edit(opened, from_="cat", to="dog", **FAST),
        ]
    monkeypatch.chdir("/")
    before = cat.read_bytes()
    for result in results:
        with pytest.raises(OutputError, match="input"):
            result.save(cat)
    assert cat.read_bytes() == before
    with Image.open(cat) as opened:
        drawn = Image.open(mask).convert("L").resize(opened.size)
        drawn.save(mask)
    masked = editor.edit(cat, to="dog", mask=mask, steps=4)
    with pytest.raises(OutputError):
        masked.save(mask)


def test_embeddings_are_named_by_a_text_or_a_path(here: Path) -> None:
    from diffedit_cli import InputError

    (here / "cat.safetensors").write_text("none")
    for name in ("cat.safetensors", Path("cat.safetensors")):
        with pytest.raises(InputError, match=r"not a complete \.safetensors"):
            Embeds.at(name)
