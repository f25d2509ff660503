"""`diffedit run --ray`: the same results by workers of Ray as by one process, whatever becomes of a worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import shelf
from command import WORDS, Ran, diffedit, finished, picture, started

from diffedit_cli.results import results_log

pytest.importorskip("ray", reason="Ray is an extra: pip install 'diffedit-cli[ray]'")

COUNT = 8
OPTIONS = (*WORDS, "--maps", "4", "--no-cache")
SLOW = ("--steps", "30")


@pytest.fixture
def album(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of small pictures in the folder `album`, every one another; and no Ray but one's own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (here / "album").mkdir()
    return [picture(here / "album" / f"{number}.png", (40, 40 + number)).name for number in range(COUNT)]


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def working(running: subprocess.Popen[bytes]) -> psutil.Process:
    """A worker that is editing a picture for this run."""
    while running.poll() is None:
        for process in psutil.Process(running.pid).children(recursive=True):
            if process.is_running() and "ray::Worker.edit" in " ".join(process.cmdline()):
                return process
        time.sleep(0.02)
    raise AssertionError(finished(running).err)


@pytest.mark.thorough
def test_a_worker_that_is_killed_loses_nothing(album: list[str]) -> None:
    words = ("run", "album", *OPTIONS, *SLOW)
    running = started(*words, "--out", "out", "--ray", 2, "--json")
    assert running.stdout is not None
    first = running.stdout.readline()
    working(running).kill()
    ran = finished(running)
    assert ran.code == 0, ran.err
    told = [json.loads(first), *results(ran)]
    assert sorted(Path(said["output"]).name for said in told) == album
    assert {said["status"] for said in told} == {"done"}
    assert [said["output"] for said in results_log.lines(Path("out", results_log.NAME))] == [
        said["output"] for said in told
    ]
    assert Path("out", "index.html").is_file()
    assert diffedit(*words, "--out", "alone").code == 0
    for name in album:
        for one in (name, name.replace(".png", ".mask.png")):
            assert Path("out", one).read_bytes() == Path("alone", one).read_bytes()


@pytest.mark.thorough
def test_with_urls_and_started_again(here: Path, album: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf.installed(here, monkeypatch)
    (store / "in").mkdir(parents=True)
    for name in album:
        (store / "in" / name).write_bytes((here / "album" / name).read_bytes())
    (store / "in" / "broken.png").write_bytes(b"no picture")
    words = ("run", "shelf://in", *OPTIONS, "--steps", "2", "--out", "shelf://out", "--ray", "auto", "--json")
    ran = finished(started(*words))
    assert ran.code == 8, ran.err
    told = results(ran)
    assert sorted(said["input"] for said in told) == [f"shelf://in/{name}" for name in (*album, "broken.png")]
    failed = [said for said in told if said["status"] == "failed"]
    assert [said["error"]["message"].split(" is not")[0] for said in failed] == ["shelf://in/broken.png"]
    assert [
        said["output"] for said in results_log.lines(store / "out" / results_log.NAME) if said["status"] == "done"
    ] == [said["output"] for said in told if said["status"] == "done"]
    assert diffedit("run", "album", *OPTIONS, "--steps", "2", "--out", "alone").code == 0
    for name in album:
        assert (store / "out" / name).read_bytes() == (here / "alone" / name).read_bytes()
    again = results(finished(started(*words)))
    assert sorted(said["status"] for said in again) == ["failed", *["skipped"] * COUNT]


@pytest.mark.slow
def test_a_picture_that_takes_each_of_its_workers_with_it_fails_alone(
    here: Path, album: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shelf.installed(here, monkeypatch)
    (store / "in").mkdir(parents=True)
    for name in (album[0], shelf.POISON):
        (store / "in" / name).write_bytes((here / "album" / album[0]).read_bytes())
    ran = finished(started("run", "shelf://in", *OPTIONS, "--out", "out", "--ray", "2", "--json"))
    assert ran.code == 8, ran.err
    assert {said["status"]: Path(said["input"]).name for said in results(ran)} == {
        "done": album[0],
        "failed": shelf.POISON,
    }
    [error] = [said["error"] for said in results(ran) if said["error"]]
    assert error["code"] == 7
    assert "was lost 3 times" in error["message"]


@pytest.mark.usefixtures("album")
@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_what_is_no_number_of_workers_is_said(count: str) -> None:
    ran = diffedit("run", "album", *OPTIONS, "--out", "out", "--ray", count)
    assert ran.code == 2
    assert f"--ray {count} is not a number" in ran.err
    assert not Path("out").exists()


@pytest.mark.usefixtures("album")
def test_where_ray_is_missing_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = diffedit("run", "album", *OPTIONS, "--out", "out", "--ray", 2)
    assert ran.code == 2
    assert "pip install 'diffedit-cli[ray]'" in ran.err
