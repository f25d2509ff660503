"""`diffedit run`: where pictures come from, what results are called, and that it can be started again at any time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command import INSTALLED, WORDS, Ran, diffedit, picture, started

from diffedit_cli.errors import UsageError
from diffedit_cli.jobs import output_names, sources
from diffedit_cli.models import devices
from diffedit_cli.pipeline.params import Params
from diffedit_cli.results import results_log


def names(folder: Path) -> list[str]:
    """All pictures below, masks apart."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    beside = (".mask.png", ".jsonl", ".html")
    return sorted(name for name in found if not name.endswith(beside) and not name.startswith("thumbnails/"))


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def statuses(ran: Ran) -> list[str]:
    return [result["status"] for result in results(ran)]


@pytest.fixture
def album(here: Path) -> Path:
    """Pictures in folders: a.png, b.jpg, sub/a.png, sub/deep/c.png."""
    for name in ("a.png", "b.jpg", "sub/a.png", "sub/deep/c.png"):
        path = here / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, (40, 40 + len(name)))
    (here / "album" / "notes.txt").write_text("no picture")
    return here / "album"


def run(*words: object, given: bytes = b"") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", "out", "--json", given=given)


# Sources


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (["album"], ["a.png", "b.jpg"]),
        (["album", "-r"], ["a.png", "b.jpg", "sub/a.png", "sub/deep/c.png"]),
        (["album/*.png"], ["a.png"]),
        (["album/**/*.png"], ["a.png", "sub/a.png", "sub/deep/c.png"]),
        (["album/sub/a.png", "album/b.jpg"], ["a.png", "b.jpg"]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("album")
def test_pictures_come_from_folders_patterns_and_names(here: Path, source: list[str], found: list[str]) -> None:
    ran = run(*source)
    assert ran.code == 0, ran.err
    assert names(here / "out") == found


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_paths_come_from_standard_input(here: Path, album: Path, end: str) -> None:
    odd = "album/with a\nbreak.png" if end == "\0" else "album/with a space.png"
    (album / Path(odd).name).write_bytes((album / "a.png").read_bytes())
    listed = f"./album/b.jpg{end}./album/sub/a.png{end}{odd}{end}"
    ran = run("-", *(["-0"] if end == "\0" else []), given=listed.encode())
    assert ran.code == 0, ran.err
    assert names(here / "out") == sorted(["album/b.jpg", "album/sub/a.png", odd])


def test_a_list_that_holds_the_results_of_an_earlier_run_starts_no_new_ones(here: Path, album: Path) -> None:  # noqa: ARG001
    listed = b"album/a.png\nout/album/a.png\n"
    assert statuses(run("-", given=listed)) == ["done"]
    assert statuses(run("-", given=listed)) == ["skipped"]


@pytest.mark.usefixtures("album")
def test_a_folder_that_holds_the_results_of_an_earlier_run_starts_no_new_ones(here: Path) -> None:
    assert statuses(run(".", "-r")) == ["done"] * 5
    assert list((here / "out" / "thumbnails").iterdir())
    assert statuses(run(".", "-r")) == ["skipped"] * 5


@pytest.mark.thorough
def test_what_find_says_is_a_list(here: Path, album: Path) -> None:  # noqa: ARG001
    line = "find . -name '*.png' -print0 | diffedit run -0 - --from cat --to dog --out edited/"
    path = {**os.environ, "PATH": os.pathsep.join([str(Path(INSTALLED).parent), os.environ["PATH"]])}
    for state in ("done", "is up to date"):
        done = subprocess.run(["bash", "-c", line], cwd=here, env=path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert state == "done" or done.stderr.count(state) == 4
    assert names(here / "edited") == ["album/a.png", "album/sub/a.png", "album/sub/deep/c.png", "cat.png"]


JOBS = {
    "jobs.jsonl": '{"input": "album/a.png", "to": "grass", "steps": 4, "fill_holes": false}\n\n'
    '{"input": "album/b.jpg", "output": "x/y.png", "--seed": 3}\n',
    "jobs.csv": "input,to,steps,output,seed\nalbum/a.png,grass,4,,\nalbum/b.jpg,,,x/y.png,3\n",
    "jobs.toml": 'from = "cat"\n[[job]]\ninput = "album/a.png"\nto = "grass"\nsteps = 4\n'
    '[[job]]\ninput = "album/b.jpg"\noutput = "x/y.png"\nseed = 3\n',
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_file_has_a_picture_a_row_with_options_of_its_own(here: Path, album: Path, name: str) -> None:
    (here / name).write_text(JOBS[name])
    ran = run(name)
    assert ran.code == 0, ran.err
    assert names(here / "out") == ["album/a.png", "x/y.png"]
    first, second = results(ran)
    assert (first["to"], second["to"], second["seed"]) == ("grass", "dog", 3)
    alone = diffedit("edit", album / "a.png", "--from", "cat", "--to", "grass", "--steps", 4, "-o", "alone.png")
    assert alone.code == 0
    assert (here / "out" / "album" / "a.png").read_bytes() == (here / "alone.png").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"input": "album/a.png", "wings": 2}', "wings is not an option"),
        ('{"input": "album/a.png", "model": "sd15"}', "model is not an option"),
        ('{"input": "album/a.png", "steps": "many"}', "steps cannot be 'many'"),
        ('{"input": "album/a.png", "steps": 4.5}', "steps cannot be 4.5"),
        ('{"input": "album/a.png", "soft": "perhaps"}', "soft cannot be 'perhaps'"),
        ('{"input": "album/a.png", "threshold": "high"}', "threshold cannot be 'high'"),
        ('{"input": "album/a.png", "steps": 0}', "--steps must be between 1 and 100000"),
        ('{"input": "album/a.png", "output": "../a.png"}', "lies outside"),
        ('{"input": "album/a.png", "output": "/a.png"}', "lies outside"),
        ('{"to": "dog"}', "line 2 has no input"),
        ("[1, 2]", "line 2 is not a table"),
        ("{", "line 2 is not a JSON object"),
        ('{"input": "album/b.jpg"}', "is named twice"),
        ('{"input": "album/none.png"}', "There is no picture album/none.png"),
    ],
)
def test_a_row_that_cannot_be_done_fails_alone(here: Path, album: Path, row: str, says: str) -> None:  # noqa: ARG001
    (here / "jobs.jsonl").write_text('{"input": "album/b.jpg"}\n' + row + '\n{"input": "album/sub/a.png"}\n')
    ran = run("jobs.jsonl")
    assert ran.code == 8
    assert statuses(ran) == ["done", "failed", "done"]
    assert says in results(ran)[1]["error"]["message"]


@pytest.mark.parametrize(
    ("name", "text", "code", "says"),
    [
        ("jobs.csv", "picture,to\na.png,dog\n", 2, "no column input"),
        ("jobs.csv", "input\tto\na.png\tdog\n", 2, "separated by commas or semicolons"),
        ("jobs.csv", b"input\n\xff\xfe\n", 2, "is not valid CSV"),
        ("jobs.toml", "[[job]\n", 2, "not valid TOML"),
        ("jobs.toml", "input = 3\n", 2, "no [[job]]"),
        ("none.jsonl", None, 3, "There is no job file"),
        ("album/none*.png", None, 3, "No picture is called"),
        ("empty", None, 3, "holds no pictures"),
    ],
)
@pytest.mark.usefixtures("album")
def test_a_source_that_is_none_is_said(here: Path, name: str, text: str | bytes | None, code: int, says: str) -> None:
    (here / "empty").mkdir()
    if text is not None:
        (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = run(name)
    assert ran.code == code
    assert says in ran.err


@pytest.mark.thorough
def test_a_million_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    with path.open("w") as file:
        for _ in range(1000):
            file.write('{"input": "a.png"}\n' * 1000)
    rows = sources.stream_rows([path], null=False)
    assert next(rows).input == Path("a.png")
    assert sum(1 for _ in rows) == 999_999


def test_a_folder_needs_pictures(tmp_path: Path) -> None:
    (row,) = sources.list_rows([str(tmp_path)], recursive=False, skip=lambda _: False)
    assert "--recursive looks into its folders" in str(row.problem)


# Names


@pytest.mark.parametrize(
    ("template", "place", "name"),
    [
        ("{stem}{ext}", "a/b.png", "a/b.png"),
        ("{stem}-{to}{ext}", "b.jpg", "b-a-white-dog.jpg"),
        ("{to}/{stem}.webp", "a/b.png", "a/a-white-dog/b.webp"),
        ("{from}-{seed}{ext}", "b.png", "cat-7.png"),
        ("{stem}-{to}", "a/b.jpg", "a/b-a-white-dog.jpg"),
        ("v1.5/{seed}", "b.jpg", "v1.5/7.jpg"),
        ("{stem}{suffix}{ext}", "a/b.JPG", "a/b.JPG"),
        ("{stem}{suffix}{ext}", "a/b.gif", "a/b.gif.png"),
        ("{stem}{suffix}", "b.jp2", "b.jp2.png"),
    ],
)
def test_results_are_called_by_a_template(template: str, place: str, name: str) -> None:
    output_names.check(template)
    params = Params(from_="cat", to='a white/"dog"', seed=7)
    assert output_names.result_path(template, Path(place), output_names.written_extension(Path(place)), params) == Path(
        name
    )


@pytest.mark.parametrize("template", ["", "{wings}", "{stem", "{0}", "a/"])
def test_what_is_no_template_is_said(template: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        output_names.check(template)


@pytest.mark.usefixtures("album")
def test_names_that_collide_are_said_before_any_work(here: Path) -> None:
    ran = run("album", "album/sub/a.png")
    assert ran.code == 2
    assert "would both write" in ran.err
    assert not (here / "out").exists()
    assert run("album", "-r", "--name", "{to}.png").code == 2


# Started again


@pytest.mark.usefixtures("album")
def test_a_second_run_passes_over_what_is_done(here: Path) -> None:
    first = run("album", "-r")
    assert statuses(first) == ["done"] * 4
    before = {path: path.stat().st_mtime_ns for path in (here / "out").glob("**/*.png")}
    again = run("album", "-r", "--model", os.environ["DIFFEDIT_MODEL"])
    assert statuses(again) == ["skipped"] * 4
    assert [one["output"] for one in results(again)] == [one["output"] for one in results(first)]
    assert {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*.png")} == before
    assert len((here / "out" / results_log.NAME).read_text().splitlines()) == 4
    assert statuses(run("album", "-r", "--force")) == ["done"] * 4


def test_what_changed_is_done_again_and_nothing_else(here: Path, album: Path) -> None:
    run("album", "-r", "--no-metadata")
    picture(album / "a.png", (50, 50))
    (here / "out" / "b.jpg").unlink()
    assert statuses(run("album", "-r", "--no-metadata")) == ["done", "done", "skipped", "skipped"]
    assert statuses(run("album", "-r", "--no-metadata", "--seed", 4)) == ["done"] * 4
    assert statuses(run("album", "-r", "--no-metadata", "--seed", 4)) == ["skipped"] * 4


def test_what_failed_is_tried_again(album: Path) -> None:
    whole = (album / "a.png").read_bytes()
    (album / "a.png").write_bytes(whole[:100])
    assert statuses(run("album")) == ["failed", "done"]
    assert statuses(run("album")) == ["failed", "skipped"]
    (album / "a.png").write_bytes(whole)
    assert statuses(run("album")) == ["done", "skipped"]


def test_a_picture_that_is_not_ours_is_never_replaced(here: Path, album: Path) -> None:
    (here / "out").mkdir()
    mine = (album / "b.jpg").read_bytes()
    (here / "out" / "b.jpg").write_bytes(mine)
    assert statuses(run("album")) == ["done", "failed"]
    assert (here / "out" / "b.jpg").read_bytes() == mine


@pytest.mark.usefixtures("album")
@pytest.mark.parametrize("torn", [b'{"status": "done", "outp', b"\xff\x00\n", b"[]\n3\n"])
def test_a_torn_line_is_passed_over(here: Path, torn: bytes) -> None:
    run("album")
    path = here / "out" / results_log.NAME
    path.write_bytes(path.read_bytes() + torn)
    assert statuses(run("album")) == ["skipped", "skipped"]
    assert statuses(run("album", "--seed", 1)) == ["done", "done"]
    assert len(list(results_log.lines(path))) == 4


@pytest.mark.parametrize(("words", "ended"), [(["--fail-fast"], 1), (["--limit-failures", 2], 2), ([], 3)])
def test_failures_can_end_a_run(album: Path, words: list[object], ended: int) -> None:
    for number in range(3):
        (album / f"0{number}.png").write_bytes(b"no picture")
    ran = run("album", *words)
    assert ran.code == 8 if ended > 1 else 3
    assert statuses(ran).count("failed") == ended


@pytest.mark.usefixtures("album")
@pytest.mark.parametrize("number", [0, -1])
def test_what_is_no_number_of_failures_is_said(here: Path, number: int) -> None:
    ran = run("album", "--limit-failures", number)
    assert ran.code == 2
    assert f"--limit-failures {number} is not a number of pictures" in ran.err
    assert not (here / "out").exists()


def test_an_input_that_would_be_replaced_is_said_with_the_option_that_chose_it(album: Path) -> None:
    ran = diffedit("run", album / "a.png", *WORDS, "--out", album)
    assert ran.code == 6
    assert "inputs are never replaced: choose another with --out." in ran.err


# Parts


@pytest.mark.usefixtures("album")
def test_parts_are_all_of_it_and_nothing_twice(here: Path) -> None:
    found = [results(run("album", "-r", "--shard", f"{part}/3")) for part in (1, 2, 3)]
    assert [len(part) for part in found] == [2, 1, 1]
    assert sorted(one["output"] for part in found for one in part) == sorted(
        str(Path("out") / name) for name in names(here / "out")
    )
    assert statuses(run("album", "-r")) == ["skipped"] * 4


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_what_is_no_part_is_said(album: Path, part: str) -> None:  # noqa: ARG001
    ran = run("album", "--shard", part)
    assert ran.code == 2
    assert f"--shard {part}" in ran.err


@pytest.mark.usefixtures("album")
def test_processes_that_are_started_together_share_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert statuses(run("album", "-r")) == ["done"] * 2
    assert len(names(here / "out")) == 4


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices.choose_device("auto") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose_device("auto") == "cuda:1"
    assert devices.choose_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert devices.choose_device("auto") == "cuda"


# Ended


@pytest.mark.thorough
def test_ctrl_c_finishes_the_picture_in_hand(here: Path, album: Path) -> None:
    for number in range(12):
        picture(album / f"{number:02}.png")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        words = ("run", "album", *WORDS, "--steps", 30, "--maps", 8, "--no-cache", "--out", "out", "--json")
        running = started(*words, folder=here)
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["status"] == "done"
    running.send_signal(signal.SIGINT)
    rest, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert b"Finishing the pictures in progress" in said
    done = [json.loads(line) for line in rest.splitlines()]
    assert 1 <= len(done) <= 3
    assert len(names(here / "out")) == len(done) + 1
    assert not list(here.rglob("*.part"))


@pytest.mark.slow
def test_killed_at_random_and_started_again_it_is_as_if_nothing_had_been(here: Path, album: Path) -> None:
    for number in range(30):
        picture(album / f"{number:02}.png", (40 + number, 48))
    words = ("album", "-r", *WORDS, "--steps", 20, "--maps", 4)
    assert diffedit("run", *words, "--out", "whole").code == 0
    rng = random.Random(0)
    for _ in range(20):
        running = started("run", *words, "--out", "out", folder=here)
        time.sleep(rng.uniform(0.2, 6))
        running.kill()
        running.communicate()
    assert diffedit("run", *words, "--out", "out").code == 0
    assert names(here / "out") == names(here / "whole")
    for name in names(here / "whole"):
        assert (here / "out" / name).read_bytes() == (here / "whole" / name).read_bytes()
    done = [said["output"] for said in results_log.lines(here / "out" / results_log.NAME)]
    assert len(done) == len(set(done)) == len(names(here / "whole"))
