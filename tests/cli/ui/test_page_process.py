"""`diffedit ui` as a process: its results are the command's, and nothing that is killed or stopped ends it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import SAMPLES
from command import INSTALLED, diffedit
from pages import PageProcess, page, until

from diffedit_cli.cli.ui import command, serving

WORDS = {"from": "cat", "to": "dog"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES / "cat.png", tmp_path / "cat.png")
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[PageProcess]:
    with page(folder, "ui", "cat.png", "--no-browser") as process:
        yield process


@pytest.mark.thorough
def test_another_threshold_asks_no_network(running: PageProcess) -> None:
    first = running.job("mask", settings=WORDS)["mask"]
    assert first["evaluations"] > 0
    others = [running.job("mask", settings=WORDS | {"threshold": at})["mask"] for at in (0.3, 0.6, 0.8)]
    assert [one["evaluations"] for one in others] == [0, 0, 0]
    areas = [one["area"] for one in others]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.thorough
def test_a_result_is_what_the_command_writes(
    running: PageProcess, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mask = running.job("mask", settings=WORDS)["mask"]
    drawn = running.client.post("/api/masks?picture=p1", content=running.client.get(mask["url"]).content).json()
    for more in ({}, {"mask": drawn["id"]}, {"within": drawn["id"]}):
        settings = WORDS | {"steps": 6, "variants": 2, "seed": 3}
        result = running.job("edit", settings=settings, **more)["result"]
        shown = [running.client.get(one["download"]).content for one in result["outputs"]]
        apart = tmp_path_factory.mktemp("apart")
        for name in ("cat.png", "diffedit-ui"):
            copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
            copy(folder / name, apart / name)
        for one in result["outputs"]:
            (apart / "diffedit-ui" / one["name"]).unlink()
        words = [INSTALLED, *shlex.split(result["command"])[1:]]
        subprocess.run(words, cwd=apart, env={**os.environ, "DIFFEDIT_CACHE_DIR": str(apart / "cache")}, check=True)
        assert [(apart / "diffedit-ui" / one["name"]).read_bytes() for one in result["outputs"]] == shown
    ran = diffedit("report", "diffedit-ui")
    assert ran.code == 0
    assert "003-cat-dog.png" in (folder / "diffedit-ui" / "index.html").read_text()


@pytest.mark.thorough
def test_a_stopped_edit_leaves_nothing(running: PageProcess, folder: Path) -> None:
    begun = running.job("edit", wait=False, settings=WORDS | {"steps": 400})
    until(lambda: running.job_now(begun["id"])["stage"] == "invert")
    running.client.post(f"/api/jobs/{begun['id']}/stop")
    assert running.ended(begun["id"])["status"] == "stopped"
    assert list((folder / "diffedit-ui").iterdir()) == []
    assert running.job("edit", settings=WORDS | {"steps": 4})["status"] == "done"


@pytest.mark.thorough
def test_a_killed_worker_is_replaced(running: PageProcess, folder: Path) -> None:
    begun = running.job("edit", wait=False, settings=WORDS | {"steps": 400})
    until(lambda: running.job_now(begun["id"])["stage"] == "invert")
    before = running.server
    assert before is not None
    before.kill()
    failed = running.ended(begun["id"])
    said = "The worker ended, perhaps for lack of memory; a new one starts: press Paint again."
    assert failed["error"] == {"code": 7, "message": said}
    assert list((folder / "diffedit-ui").iterdir()) == []
    assert running.job("edit", settings=WORDS | {"steps": 4})["status"] == "done"
    after = running.server
    assert after is not None
    after.kill()
    after.wait()
    assert running.job("mask", settings=WORDS)["status"] == "done"  # one that ended while nothing was asked


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["at once", "idle", "at work"])
def test_it_ends_with_all_that_it_started(folder: Path, number: int, moment: str) -> None:
    running = PageProcess(folder, "ui", "cat.png", "--no-browser", "--out", "kept")
    children = running.children
    if moment == "idle":
        running.job("mask", settings=WORDS)
    elif moment == "at work":
        begun = running.job("edit", wait=False, settings=WORDS | {"steps": 400})
        until(lambda: running.job_now(begun["id"])["stage"] == "invert")
    children = [*children, *running.children]
    assert running.end(number) == 0
    assert not [one for one in children if one.is_running()]
    assert list(running.temporary.iterdir()) == []


@pytest.mark.thorough
def test_a_page_with_open_tabs_ends_soon(running: PageProcess) -> None:
    with running.client.stream("GET", "/api/events") as events:
        assert next(events.iter_lines()) == "event: jobs"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0


def test_a_used_port_is_told(running: PageProcess, folder: Path) -> None:
    port = running.base.rpartition(":")[2]
    ran = subprocess.run(
        [INSTALLED, "ui", "--port", port, "--no-browser"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (6, "")
    assert ran.stderr == f"diffedit: Port {port} cannot be used: Address already in use; choose another with --port.\n"


WRONG = {
    ("--port", "70000"): (2, "--port 70000 is not a port; give one from 1 to 65535, or 0 for any that is free."),
    ("--port", "-1"): (2, "--port -1 is not a port; give one from 1 to 65535, or 0 for any that is free."),
    ("nothing.png",): (3, "nothing.png"),
    ("--out", "cat.png"): (6, "choose another with --out"),
    ("--lora", "nothing.safetensors"): (4, "nothing.safetensors"),
    ("--model", "nothing"): (4, "nothing"),
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_wrong_is_told_before_the_page_opens(
    folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.asyncio, "run", lambda _: pytest.fail("the page opens"))
    ran = diffedit("ui", *words, "--no-browser")
    code, message = WRONG[words]
    assert (ran.code, len(ran.lines), ran.out) == (code, 1, b"")
    assert message in ran.err
    assert {path.name for path in folder.iterdir()} == {"cat.png"}


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
@pytest.mark.parametrize(
    "words", [("ui",), ("run", "cat.png", "--from", "cat", "--to", "dog", "--out", "o", "--review")]
)
@pytest.mark.usefixtures("folder")
def test_missing_libraries_are_named(missing: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    ran = diffedit(*words)
    assert (ran.code, ran.err) == (2, f"diffedit: {command.NEEDS}\n")


def test_the_page_opens_without_torch(folder: Path) -> None:
    """It shows pictures and writes lines; only the commands that it runs load a model."""
    told = """
import sys
from diffedit_cli.cli.ui import serving
serving.serve = lambda *_: print(*(name for name in ("torch", "diffusers", "transformers") if name in sys.modules))
sys.argv = ["diffedit", "ui", "cat.png"]
from diffedit_cli.__main__ import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", told], cwd=folder, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\s*", ran.stdout), ran.stdout


@pytest.mark.thorough
def test_two_pages_with_one_folder_take_different_names(folder: Path) -> None:
    with page(folder, "ui", "cat.png", "--no-browser") as one, page(folder, "ui", "cat.png", "--no-browser") as other:
        begun = [(process, process.job("edit", wait=False, settings=WORDS | {"steps": 30})) for process in (one, other)]
        results = [process.ended(job["id"])["result"]["outputs"][0]["name"] for process, job in begun]
        assert sorted(results) == ["001-cat-dog.png", "002-cat-dog.png"]
    assert len((folder / "diffedit-ui" / "results.jsonl").read_text().splitlines()) == 2
