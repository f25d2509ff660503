"""A run in several processes: under a launcher of its own, and as parts of a whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import WORDS, diffedit, picture

from diffedit_cli.errors import UsageError
from diffedit_cli.jobs import sharding
from diffedit_cli.jobs.sharding import Shard
from diffedit_cli.results import page, results_log

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
TWO = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
OPTIONS = (*WORDS, "--steps", "2", "--maps", "1", "--no-cache")


def jobs(count: int, *more: dict[str, Any]) -> None:
    """jobs.jsonl in the working folder: so many small pictures, every one another, and then these rows."""
    rows = [{"input": str(picture(Path(f"{number:02}.png"), (40, 32 + number)))} for number in range(count)]
    Path("jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)))


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of two processes on a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [ACCELERATE, "launch", *TWO, f"--main_process_port={port}", "-m", "diffedit_cli", "run", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def lines(folder: str) -> list[dict[str, Any]]:
    return list(results_log.lines(Path(folder) / results_log.NAME))


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_two_processes_of_accelerate_do_each_picture_once_and_as_one_process_does() -> None:
    jobs(40)
    ran = launched("jobs.jsonl", *OPTIONS, "--out", "two")
    assert ran.returncode == 0, ran.stderr
    assert diffedit("run", "jobs.jsonl", *OPTIONS, "--out", "one").code == 0
    done = [Path(said["output"]).name for said in lines("two")]
    assert sorted(done) == [f"{number:02}.png" for number in range(40)]
    for name in done:
        for one in (name, name.replace(".png", ".mask.png")):
            assert Path("two", one).read_bytes() == Path("one", one).read_bytes()
    assert (ran.stderr.count("  (20 of 20, "), ran.stderr.count("  (21 ")) == (2, 0)  # each counted half of them
    shown = Path("two", page.PAGE).read_text()
    assert all(shown.count(f'"name":"{name}"') >= 1 for name in done)
    assert shown.rstrip().endswith("</html>")


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_a_picture_that_fails_in_one_process_does_not_end_the_other() -> None:
    jobs(1)
    Path("none.png").write_bytes(b"no picture")
    rows = [{"input": "none.png"}, {"input": "00.png", "output": "slow.png", "steps": 40, "maps": 8}]
    Path("jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = launched("jobs.jsonl", *OPTIONS, "--out", "out")
    assert ran.returncode != 0
    assert [said["status"] for said in lines("out")] == ["failed", "done"]


@pytest.mark.usefixtures("here")
def test_rows_of_one_name_are_noticed_in_whatever_part_they_are() -> None:
    jobs(1, {"input": "00.png", "to": "cow"}, {"input": "00.png", "to": "cow", "output": "cow.png"})
    whole = diffedit("run", "jobs.jsonl", *OPTIONS, "--out", "whole")
    parts = [diffedit("run", "jobs.jsonl", *OPTIONS, "--out", "out", "--shard", f"{part}/2") for part in (1, 2)]
    assert [ran.code for ran in (whole, *parts)] == [8, 0, 2]
    assert [said["status"] for said in lines("whole")] == ["done", "failed", "done"]
    assert [said["status"] for said in lines("out")] == ["done", "done", "failed"]
    assert "line 2: 00.png is named twice, and would write" in lines("out")[2]["error"]["message"]


@pytest.mark.usefixtures("here")
def test_the_page_is_of_all_that_was_done_when_its_last_writer_came() -> None:
    jobs(2)
    for part in (1, 2):
        assert diffedit("run", "jobs.jsonl", *OPTIONS, "--out", "out", "--shard", f"{part}/2").code == 0
    waiting = RunThatWaits()
    late = {**lines("out")[0], "output": "out/late.png", "input": "late.png"}
    with Path("out", results_log.NAME).open("a") as file:
        file.write(json.dumps(late) + "\n")
    waiting.release()
    assert waiting.code() == 0
    assert '"name":"late.png"' in Path("out", page.PAGE).read_text()


class RunThatWaits:
    """A run with nothing to do, while this process holds the results log's lock."""

    def __init__(self) -> None:
        self._held = results_log.ResultsLog(Path("out"))
        self._lock = self._held.exclusively()
        self._lock.__enter__()
        command = [sys.executable, "-m", "diffedit_cli", "run", "jobs.jsonl", *OPTIONS, "--out", "out"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for _ in range(2):
            assert "is up to date" in self._process.stderr.readline()

    def release(self) -> None:
        assert self._process.poll() is None
        self._lock.__exit__(None, None, None)

    def code(self) -> int:
        self._process.communicate()
        return self._process.returncode


def test_processes_started_together_share_no_list(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    ran = diffedit("run", "-", *OPTIONS, "--out", "out", given=b"cat.png\n")
    assert ran.code == 2
    assert "give a file" in ran.err


@pytest.mark.parametrize(
    ("said", "shard"),
    [
        ({}, Shard()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Shard()),
        ({"WORLD_SIZE": "4", "RANK": "2"}, Shard(3, 4, launched=True)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, Shard(1, 2, launched=True)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, Shard(2, 2, launched=True)),
    ],
    ids=str,
)
def test_launchers_say_which_part_it_is(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], shard: Shard) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert sharding.choose_shard(None) == shard
    assert sharding.choose_shard("1/3") == Shard(1, 3)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("a", "2"), ("0", "many"), ("0", "0")])
def test_what_a_launcher_says_may_be_no_part(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match="RANK and WORLD_SIZE"):
        sharding.choose_shard(None)
