"""`diffedit run` on several devices in one process: as on one. The devices are stand-ins that compute here."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import WORDS, Ran, diffedit, picture
from PIL import Image

from diffedit_cli.engine.networks import fast_imports
from diffedit_cli.jobs.cooperative import TaskCancelled
from diffedit_cli.jobs.several_devices import run_on_each
from diffedit_cli.models import devices
from diffedit_cli.pipeline import model_session
from diffedit_cli.results.result import Result

PICTURES = 5
SAME = ("status", "input", "evaluations", "identity", "seed", "mask_area", "error")


@pytest.fixture
def album(here: Path) -> Path:
    (here / "album").mkdir()
    for number in range(PICTURES):
        path = picture(here / "album" / f"{number}.png", (40, 44))
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 9 * number, axis=1)).save(path)
    return here / "album"


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that pipelines are made for; each computes here, with a model of its own."""
    chosen: list[str] = []

    def choose(name: str) -> str:
        chosen.append(name)
        return "cpu"

    monkeypatch.setattr(devices, "choose_devices", lambda name: name.split(","))
    monkeypatch.setattr(model_session, "choose_device", choose)
    return chosen


def run(*words: object, device: str = "cuda:7,cuda:8", out: str = "out") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", out, "--json", "--no-cache", "--device", device)


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def told(lines: list[dict[str, Any]]) -> list[list[Any]]:
    return [[line.get(name) for name in SAME] for line in lines]


@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_as_on_one_device(here: Path, album: Path, used: list[str], batch: int) -> None:
    (album / "2.png").write_bytes(b"no picture")
    alone = run("album", "--batch", batch, "--no-metadata", device="cpu", out="alone")
    assert used == ["cpu"]
    apart = run("album", "--batch", batch, "--no-metadata")
    assert sorted(used) == ["cpu", "cuda:7", "cuda:8"]
    assert alone.code == apart.code == 8
    if batch == 1:
        assert told(results(apart)) == told(results(alone))  # in the order of the pictures
        for path in (here / "alone").glob("*.png"):
            assert (here / "out" / path.name).read_bytes() == path.read_bytes()
    logs = [(here / out / "results.jsonl").read_text().splitlines() for out in ("alone", "out")]
    names = [sorted(json.loads(line)["input"] for line in log) for log in logs]
    assert names[0] == names[1]
    assert [line["input"] for line in results(apart)] == [line["input"] for line in results(alone)]


def test_it_resumes_and_stops_at_a_failure(here: Path, album: Path, used: list[str]) -> None:  # noqa: ARG001
    good = (album / "0.png").read_bytes()
    (album / "0.png").write_bytes(b"no picture")
    ran = run("album", "--fail-fast")
    assert ran.code in (3, 8)
    assert "Stopped, as a picture failed" in ran.err
    assert not any(thread.name.startswith("device") for thread in threading.enumerate())
    (album / "0.png").write_bytes(good)
    assert run("album").code == 0
    assert [line["status"] for line in results(run("album"))] == ["skipped"] * PICTURES


def made(number: int) -> Result:
    return Result(status="done", input=str(number))


def test_results_come_in_order_and_none_is_lost() -> None:
    ended = threading.Event()

    def pipelined(jobs: Any, open_pipeline: Any, *, record: Any, **_: Any) -> Any:
        open_pipeline.args[0]()  # says which worker it is
        for one in jobs:
            if one.input == "0":
                ended.wait(10)  # the others overtake it
            if one.input == "7":
                ended.set()
            yield record(one)

    recorded: list[str] = []

    def record(one: Result) -> Result:
        recorded.append(one.input)
        return one

    from unittest import mock

    with mock.patch("diffedit_cli.jobs.runner.run_pipelined", pipelined):
        edited = run_on_each(map(made, range(8)), [lambda: None, lambda: None], on_bug=print, record=record)  # type: ignore[list-item]
        assert [one.input for one in edited] == list("01234567")
    assert sorted(recorded) == list("01234567")
    assert recorded.index("0") > 0


def test_an_error_of_a_worker_ends_the_run() -> None:
    def planned() -> Any:
        yield made(0)
        raise OSError("the list is gone")

    with pytest.raises(OSError, match="the list is gone"):
        list(run_on_each(planned(), [lambda: None, lambda: None], on_bug=print, record=lambda one: one))  # type: ignore[list-item,return-value]
    assert not any(thread.name.startswith("device") for thread in threading.enumerate())


def test_closing_discards_edits_at_their_next_step() -> None:
    stopped = []

    def pipelined(jobs: Any, open_pipeline: Any, **_: Any) -> Any:
        for one in jobs:
            if one.input == "1":
                pipeline = open_pipeline()
                try:
                    while True:
                        pipeline.context.progress("edit", 1, 2)
                except TaskCancelled:
                    stopped.append(one.input)
                    raise
            yield one

    from dataclasses import dataclass
    from unittest import mock

    @dataclass
    class Context:
        progress: Any

    class Pipeline:
        context = Context(lambda *_: None)

    with mock.patch("diffedit_cli.jobs.runner.run_pipelined", pipelined):
        edited = run_on_each(map(made, range(2)), [Pipeline, Pipeline], on_bug=print, record=lambda one: one)  # type: ignore[list-item]
        assert next(edited).input == "0"
        edited.close()
    assert stopped == ["1"]


@pytest.mark.usefixtures("album", "used")
def test_no_import_is_quickened_while_several_devices_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(name: str) -> str:
        with fast_imports.quickly():
            quick[name] = not gc.isenabled()
        return "cpu"

    quick: dict[str, bool] = {}
    monkeypatch.setattr(model_session, "choose_device", choose)
    assert run("album", device="cpu", out="alone").code == run("album").code == 0
    assert quick == {"cpu": True, "cuda:7": False, "cuda:8": False}
    assert not fast_imports.several
