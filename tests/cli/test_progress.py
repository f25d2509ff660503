"""How far a run is, how fast, and how long it still takes: on a terminal, in plain lines, and for programs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import WORDS, diffedit, picture
from PIL import Image

from diffedit_cli.cli import progress
from diffedit_cli.cli.progress import Pace
from diffedit_cli.results.result import Result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def result(status: str, name: str = "cat.png") -> Result:
    return Result(status=status, input=name, output=f"out/{name}", outputs=(f"out/{name}",))  # type: ignore[arg-type]


def test_the_pace_is_that_of_pictures_that_were_edited(clock: list[float]) -> None:
    pace = Pace(10)
    assert str(pace) == "0 of 10"
    pace.count(result("skipped"))
    assert str(pace) == "1 of 10"
    assert pace.record() == {"finished": 1, "total": 10, "a_minute": None, "seconds_left": None}
    clock[0] += 30
    for _ in range(3):
        pace.count(result("done"))
    assert str(pace) == "4 of 10, 6.0 a minute, 0:01:00 left"
    assert pace.record() == {"finished": 4, "total": 10, "a_minute": 6.0, "seconds_left": 60}
    for _ in range(6):
        pace.count(result("failed"))
    assert str(pace) == "10 of 10, 6.0 a minute"
    assert pace.record() == {"finished": 10, "total": 10, "a_minute": 6.0, "seconds_left": 0}
    assert pace.summary == "3 done, 1 skipped, 6 failed"


def test_of_a_list_nobody_knows_how_long_it_takes(clock: list[float]) -> None:
    pace = Pace(None)
    clock[0] += 60
    pace.count(result("done"))
    assert str(pace) == "1, 1.0 a minute"
    assert pace.record() == {"finished": 1, "total": None, "a_minute": 1.0, "seconds_left": None}


def test_where_all_is_there_already_nothing_is_left() -> None:
    pace = Pace(1)
    pace.count(result("skipped"))
    assert pace.record() == {"finished": 1, "total": 1, "a_minute": None, "seconds_left": 0}


def test_a_terminal_has_a_bar_over_all_with_pace_and_time_left(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    console = progress.Console(file=written, force_terminal=True, color_system=None, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress.Reporter() as reporter:
        reporter.many(10)
        clock[0] += 30
        reporter.result(result("done"))
        reporter.progress("invert", 3, 20)
        reporter._bars.refresh()
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.getvalue())
    assert re.search(r"2\.0 a minute, 0:04:30 left\W+1/10", shown)
    assert re.search(r"inverting\W+3/20", shown)


@pytest.mark.parametrize("listed", [False, True])
def test_elsewhere_there_are_plain_lines_and_objects_for_programs(here: Path, listed: bool) -> None:
    (here / "album").mkdir()
    paths = [picture(here / "album" / f"{number}.png", (40, 41 + number)) for number in range(3)]
    source = "-" if listed else "album"
    given = "".join(f"{path}\n" for path in paths).encode() if listed else b""
    ran = diffedit("run", source, *WORDS, "--out", "out", "--json", given=given)
    assert ran.code == 0, ran.err
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [one["progress"]["finished"] for one in told] == [1, 2, 3]
    assert {one["progress"]["total"] for one in told} == {None if listed else 3}
    assert all(one["progress"]["a_minute"] > 0 for one in told)
    assert re.search(r"\(3, [\d.]+ a minute\)" if listed else r"\(3 of 3, [\d.]+ a minute\)", ran.err)
    kept = [json.loads(line) for line in (here / "out" / "results.jsonl").read_text().splitlines()]
    assert [{**one, "progress": two["progress"]} for one, two in zip(kept, told, strict=True)] == told


def test_what_is_warned_of_every_picture_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Reporter() as reporter:
        reporter.many(4)
        for number, warnings in enumerate([("odd word",), ("odd word", "small mask"), ("odd word",), ()]):
            reporter.result(replace(result("done", f"{number}.png"), warnings=warnings))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said] == [
        "warning:", "out/0.png", "warning:", "out/1.png", "out/2.png", "out/3.png"
    ]  # fmt: skip
    assert "small mask" in said[2]


def test_of_a_single_edit_there_is_no_progress_to_tell(here: Path) -> None:  # noqa: ARG001
    assert "progress" not in diffedit("edit", "cat.png", *WORDS, "--json").json


def test_in_the_end_it_says_what_became_of_all_and_where_to_look(here: Path) -> None:
    def last(*words: object) -> str:
        return diffedit("run", *words, *WORDS, "--out", "out").lines[-1]

    (here / "album").mkdir()
    picture(here / "album" / "a.png")
    assert last("album") == "1 done  out/index.html"
    (here / "album" / "none.png").write_bytes(b"no picture")
    assert last("album") == "1 skipped, 1 failed  out/index.html"
    assert last("album", "--quiet").startswith("diffedit: album/none.png is not a picture")
    assert last("-") == "no pictures  out/index.html"


def test_a_mask_that_settles_early_leaves_no_bar_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    console = progress.Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress.Reporter() as reporter:
        shown = lambda: [(task.description, task.completed) for task in reporter._bars.tasks]  # noqa: E731
        reporter.loading("builtin")
        reporter.progress("mask", 1, 10)
        reporter.progress("mask", 2, 10)
        assert shown() == [("finding the mask", 2)]
        reporter.progress("edit", 1, 12)
        assert shown() == [("repainting", 1)]
        reporter.progress("edit", 12, 12)
        assert shown() == []


def test_of_a_list_in_a_file_it_is_known_how_long_it_takes(here: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(here / name)
    (here / "jobs.csv").write_text("input,seed\na.png,1\n\nb.png,2\nnone.png,3\n")
    ran = diffedit("run", "jobs.csv", *WORDS, "--out", "out", "--json")
    told = [json.loads(line)["progress"] for line in ran.out.splitlines()]
    assert [one["total"] for one in told] == [3, 3, 3]
    assert [one["finished"] for one in told] == [1, 2, 3]
    assert "2 of 3" in ran.err


def test_progress_for_programs_is_one_object_a_line(here: Path) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--no-cache", "--steps", "4", "--maps", "2", "--progress", "json")
    said = [json.loads(line) for line in ran.lines if line.startswith("{")]
    assert ran.code == 0
    assert said[0] == {"stage": "load", "done": 0, "total": 1}
    stages = [one["stage"] for one in said]
    assert list(dict.fromkeys(stages)) == ["load", "mask", "invert", "edit"]
    for stage in ("invert", "edit"):
        steps = [one for one in said if one["stage"] == stage]
        assert [one["done"] for one in steps] == list(range(1, steps[0]["total"] + 1))
    assert "repainting" not in ran.err  # what people read of steps
    assert (here / "cat.edited.png").exists()


@pytest.mark.usefixtures("here")
def test_progress_is_bars_or_json() -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--progress", "loud")
    assert (ran.code, len(ran.lines)) == (2, 1)
    assert "'loud' is not bars or json" in ran.err


def test_an_edit_also_writes_its_mask(here: Path) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--steps", "4", "--maps", "2", "--mask-output", "mask.png", "--json")
    said = json.loads(ran.out)
    assert ran.code == 0
    assert said["mask"] == "mask.png"
    assert {*said["digests"]} == {"cat.edited.png", "mask.png"}
    mask, before, after = (
        np.asarray(Image.open(here / name).convert("RGB")) for name in ("mask.png", "cat.png", "cat.edited.png")
    )
    assert {*np.unique(mask)} == {0, 255}
    assert not ((before != after).any(axis=2) & (mask[..., 0] == 0)).any()
    again = diffedit("edit", "cat.png", *WORDS, "--steps", "4", "--maps", "2", "--mask-output", "other.png")
    assert again.code == 0
    assert (here / "other.png").read_bytes() == (here / "mask.png").read_bytes()


@pytest.mark.parametrize("name", ["mask.jpg", "-", "mask"])
@pytest.mark.usefixtures("here")
def test_a_mask_is_written_as_png(name: str) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--mask-output", name)
    assert (ran.code, len(ran.lines)) == (2, 1)
    assert f"--mask-output {name} is not a .png file; masks are written as PNG." in ran.err
