"""`diffedit run --batch`: several pictures through the network together, each as if it were alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from command import WORDS, Ran, diffedit, picture, started
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from tiny import overflowing

from diffedit_cli.cli.progress import Reporter
from diffedit_cli.models import memory_needed, registry
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline import batch_size, model_session
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.cache import Cache

SIZES = (40, 40, 40, 56, 40)


def run(*words: object, out: str = "out") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", out, "--json")


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def pixels(path: Path) -> NDArray[np.int_]:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def album(here: Path) -> Path:
    """Pictures 0.png to 4.png, of other colours each and two sizes."""
    (here / "album").mkdir()
    for number, width in enumerate(SIZES):
        path = picture(here / "album" / f"{number}.png", (width, 44))
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 9 * number, axis=1)).save(path)
    return here / "album"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the network has."""
    rows: list[int] = []
    forward: Callable[..., Any] = UNet2DConditionModel.forward

    def counted(self: UNet2DConditionModel, sample: torch.Tensor, *given: Any, **named: Any) -> Any:
        rows.append(len(sample))
        return forward(self, sample, *given, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return rows


def near(one: Path, other: Path) -> bool:
    """Whether two pictures differ nowhere by more than a level."""
    return bool(np.abs(pixels(one) - pixels(other)).max() <= 1)


# What comes out


def test_auto_on_a_processor_gives_the_bytes_of_single_edits(here: Path, album: Path) -> None:
    assert run("album", "--batch", "auto", "--no-metadata").code == 0
    for path in sorted(album.iterdir()):
        assert diffedit("edit", path, *WORDS, "-o", "alone.png", "--no-metadata", "--no-cache", "--force").code == 0
        assert (here / "out" / path.name).read_bytes() == (here / "alone.png").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(("count", "share"), [(2, 0.85), (3, 0.65), (9, 0.45)])
def test_several_together_are_as_one_by_one(
    here: Path, album: Path, calls: list[int], count: int, share: float
) -> None:
    alone = run("album", "--no-cache", out="alone")
    apart = calls.copy()
    calls.clear()
    together = run("album", "--no-cache", "--batch", count)
    assert (alone.code, together.code) == (0, 0), together.err
    assert sum(calls) == sum(apart)
    assert len(calls) < len(apart) * share
    assert max(calls) <= max(2 * count, *apart)
    for before, after in zip(results(alone), results(together), strict=True):
        same = ("status", "input", "evaluations", "cache", "warnings", "identity", "seed")
        assert [after[name] for name in same] == [before[name] for name in same]
        assert after["mask_area"] == pytest.approx(before["mask_area"], abs=0.01)
    for path in sorted(album.iterdir()):
        assert near(here / "out" / path.name, here / "alone" / path.name)
        kept = pixels(here / "out" / f"{path.stem}.mask.png") == 0
        assert kept.any()
        assert (pixels(here / "out" / path.name)[kept] == pixels(path)[kept]).all()


def test_the_same_batch_gives_the_same_bytes(here: Path, album: Path) -> None:
    for out in ("one", "two"):
        assert run("album", "--no-cache", "--batch", 3, out=out).code == 0
    for path in album.iterdir():
        assert (here / "one" / path.name).read_bytes() == (here / "two" / path.name).read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words",
    [("--zoom", 2), ("--soft",), ("--variants", 2), ("--mask-method", "noise"), ("--keep", 0.5, "--align")],
    ids=str,
)
def test_options_are_each_pictures_own(here: Path, album: Path, words: tuple[object, ...]) -> None:
    rows = [{"input": str(path), "seed": seed, "steps": 4 + seed % 2} for seed, path in enumerate(album.iterdir())]
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone, together = (run("jobs.jsonl", *words, "--no-cache", "--batch", n, out=str(n)) for n in (1, 4))
    assert (alone.code, together.code) == (0, 0), together.err
    assert [one["evaluations"] for one in results(together)] == [one["evaluations"] for one in results(alone)]
    for row in rows:
        assert near(here / "1" / row["input"], here / "4" / row["input"])


@pytest.mark.usefixtures("album")
def test_another_batch_is_no_reason_to_do_it_again(here: Path) -> None:
    assert run("album", "--batch", 2).code == 0
    again = run("album", "--batch", 5)
    assert [one["status"] for one in results(again)] == ["skipped"] * len(SIZES)
    (here / "out" / "2.png").unlink()
    again = run("album", "--batch", "auto")
    assert [one["status"] for one in results(again)] == ["skipped", "skipped", "done", "skipped", "skipped"]


# Who waits for whom


def test_two_of_the_same_share_what_one_of_them_makes(here: Path, album: Path, calls: list[int]) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(album / "0.png", album / name)
    ran = run("album", "--batch", 7)
    assert ran.code == 0, ran.err
    found = {Path(one["input"]).name: one for one in results(ran)}
    same = [found[name] for name in ("0.png", "a.png", "b.png")]
    assert [one["cache"]["invert"] for one in same] == ["miss", "hit", "hit"]
    assert [one["evaluations"]["invert"] for one in same] == [2, 0, 0]
    assert sum(sum(one["evaluations"].values()) for one in found.values()) == sum(calls)
    assert near(here / "out" / "0.png", here / "out" / "a.png")


def test_what_is_kept_is_not_made_again_beside_what_is_not(album: Path, calls: list[int]) -> None:
    for name in ("1.png", "3.png"):
        assert diffedit("edit", album / name, *WORDS, "-o", "x.png", "--force").code == 0
    calls.clear()
    ran = run("album", "--batch", 5)
    assert ran.code == 0, ran.err
    assert [one["cache"]["mask"] for one in results(ran)] == ["miss", "hit", "miss", "hit", "miss"]
    assert sum(sum(one["evaluations"].values()) for one in results(ran)) == sum(calls)


# What fails


def failing(here: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file of pictures that fail at every stage, between others."""
    (album / "torn.png").write_bytes((album / "0.png").read_bytes()[:99])
    rows: list[dict[str, Any]] = [{"input": f"album/{number}.png"} for number in range(5)]
    rows.insert(1, {"input": "album/torn.png"})
    Image.new("L", (SIZES[0], 44)).save(here / "black.png")
    rows.insert(3, {"input": "album/0.png", "output": "empty.png", "within": "black.png"})  # no mask
    rows.insert(4, {"input": "album/0.png", "output": "diverges.png", "reg-steps": 5, "lambda-kl": 1e9})  # no inversion
    rows.insert(6, {"input": "album/1.png", "output": "bug.png", "seed": 13, "room": 0})
    rows.insert(7, {"input": "album/1.png", "output": "steps.png", "steps": 5000})
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generator = model_session.generator

    def spoilt(seed: int, picture: Any, purpose: str) -> torch.Generator:
        if (seed, purpose) == (13, "edit"):
            raise KeyError("a bug")
        return generator(seed, picture, purpose)

    monkeypatch.setattr("diffedit_cli.pipeline.repaint_stage.generator", spoilt)
    return here / "jobs.jsonl"


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_who_fails_fails_alone(here: Path, album: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    ran = run(failing(here, album, monkeypatch), "--batch", count)
    assert ran.code == 8
    codes = [one["error"]["code"] if one["error"] else 0 for one in results(ran)]
    assert codes == [0, 3, 0, 5, 2, 0, 1, 2, 0, 0]
    lines = [json.loads(line) for line in (here / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(one["input"] for one in lines) == sorted(one["input"] for one in results(ran))
    for number in range(5):
        assert diffedit("edit", album / f"{number}.png", *WORDS, "-o", "alone.png", "--no-cache", "--force").code == 0
        assert near(here / "out" / "album" / f"{number}.png", here / "alone.png")


@pytest.mark.parametrize(("words", "failed"), [(("--fail-fast",), 1), (("--limit-failures", 2), 2)])
def test_failures_can_end_it(
    here: Path, album: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], failed: int
) -> None:
    ran = run(failing(here, album, monkeypatch), "--batch", 4, *words)
    assert ran.code == 8
    assert [one["status"] for one in results(ran)].count("failed") == failed
    again = run("jobs.jsonl", "--batch", 4)
    assert [one["error"]["code"] if one["error"] else 0 for one in results(again)] == [0, 3, 0, 5, 2, 0, 1, 2, 0, 0]


@pytest.mark.thorough
@pytest.mark.parametrize("most", [3, 1, 0])
def test_what_is_too_much_for_the_memory_is_halved(
    here: Path, album: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    alone = run("album", "--no-cache", out="alone")
    calls.clear()
    forward: Callable[..., Any] = UNet2DConditionModel.forward

    def limited(self: UNet2DConditionModel, sample: torch.Tensor, *given: Any, **named: Any) -> Any:
        output = forward(self, sample, *given, **named)
        if len(sample) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    monkeypatch.setattr(UNet2DConditionModel, "forward", limited)
    ran = run("album", "--no-cache", "--batch", 4)
    if most == 0:
        assert ran.code == 8
        assert {one["error"]["code"] for one in results(ran)} == {7}
        return
    assert ran.code == 0, ran.err
    too_many = [rows for rows in calls if rows > most]
    assert calls[: len(too_many)] == too_many  # never again
    assert len(too_many) <= 4
    assert [one["evaluations"] for one in results(ran)] == [one["evaluations"] for one in results(alone)]
    for path in album.iterdir():
        assert near(here / "out" / path.name, here / "alone" / path.name)


def test_a_single_edit_is_halved_too(here: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "-o", "whole.png", "--maps", 8).code == 0
    assert max(calls) == 8
    calls.clear()
    forward: Callable[..., Any] = UNet2DConditionModel.forward

    def limited(self: UNet2DConditionModel, sample: torch.Tensor, *given: Any, **named: Any) -> Any:
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, sample, *given, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", limited)
    assert diffedit("edit", "cat.png", *WORDS, "-o", "halved.png", "--maps", 8, "--no-cache").code == 0
    assert max(calls) == 2
    assert near(here / "whole.png", here / "halved.png")


@pytest.mark.thorough
def test_one_that_overflows_is_repeated_in_float32_beside_others(
    here: Path, album: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFEDIT_MODEL", str(overflowing(tiny_epsilon, here / "loud", 1e5)))
    alone, together = (
        run("album", "--dtype", "float16", "--no-cache", "--batch", count, out=str(count)) for count in (1, 3)
    )
    assert (alone.code, together.code) == (0, 0), together.err
    assert "repeated in float32" in together.err
    assert [one["warnings"] for one in results(together)] == [one["warnings"] for one in results(alone)]
    for path in album.iterdir():
        assert near(here / "1" / path.name, here / "3" / path.name)


@pytest.mark.parametrize("count", [1, 2])
def test_two_of_a_picture_that_does_not_fit_are_both_refused(
    choosy: Path, here: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.delenv("DIFFEDIT_MODEL")
    monkeypatch.setattr(registry, "BUILTIN_FOLDER", choosy)
    shutil.copy("cat.png", here / "again.png")
    ran = run("cat.png", "again.png", "--batch", count)
    assert [one["error"]["code"] for one in results(ran)] == [4, 4]


# How many


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", ""])
def test_what_is_no_number_of_pictures_is_said(album: Path, count: str) -> None:  # noqa: ARG001
    ran = run("album", "--batch", count)
    assert ran.code == 2
    assert f"--batch {count} is not a number of pictures" in ran.err


def test_a_job_has_no_batch_of_its_own(here: Path, album: Path) -> None:  # noqa: ARG001
    (here / "jobs.jsonl").write_text('{"input": "album/0.png", "batch": 2}\n')
    ran = run("jobs.jsonl")
    assert "batch is not an option that a row of a job file can set" in ran.err


@pytest.mark.parametrize(
    ("seconds", "most", "count"),
    [
        ({1: 1, 2: 1, 4: 1, 8: 1.9, 16: 3.7, 32: 7.4}, 32, 4),  # full at four
        ({1: 1, 2: 1, 4: 1, 8: 1.8, 16: 3.5}, 32, 8),
        ({1: 1, 2: 2}, 32, 1),  # full with one
        (dict.fromkeys((1, 2, 4, 8, 16, 32), 1), 32, 32),
        (dict.fromkeys((1, 2, 4), 1), 7, 4),  # more do not fit
        ({1: 1, 2: 1, 4: float("inf")}, 32, 2),  # nor does that
    ],
)
def test_auto_ends_where_the_device_is_full(seconds: dict[int, float], most: int, count: int) -> None:
    assert batch_size.fullest(seconds.__getitem__, most) == count


def on(device: str, dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSession:
    """A session whose model is on the processor, whatever the device is called."""
    monkeypatch.setattr(model_session, "choose_device", lambda _: "cpu")
    session = ModelSession(registry.find(str(folder)), device, dtype, OffloadOptions(), any_picture=False)
    session.device = device
    return session


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "bfloat16"), ("cuda", "float32"), ("mps", "float32")])
def test_auto_is_one_where_bits_would_change(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: str
) -> None:
    session = on(device, dtype, tiny_epsilon, monkeypatch)
    session._model = session  # type: ignore[assignment]  # loaded, and not asked
    assert batch_size.pictures_at_once(session, StageCache(None)) == 1


def test_auto_is_measured_once_for_a_model_on_a_gpu(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session, cache = on("cuda", "float16", tiny_epsilon, monkeypatch), StageCache(Cache(tmp_path / "cache"))
    assert batch_size.pictures_at_once(session, cache) == 1  # no model yet
    session._model = session  # type: ignore[assignment]
    asked: list[int] = []
    monkeypatch.setattr(batch_size, "_seconds", lambda _model, _session, count: asked.append(count) or 1.0)
    monkeypatch.setattr(batch_size, "_fitting", lambda _: 10)
    monkeypatch.setattr(batch_size, "_name", lambda _: "a GPU")
    for _ in range(2):
        assert batch_size.pictures_at_once(session, cache) == 8
    assert asked == [1, 2, 4, 8]


def test_a_joined_call_of_guided_steps_is_measured(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    session = on("cpu", "bfloat16", tiny_epsilon, monkeypatch)
    model = session.model(EditStats())
    assert 0 < batch_size._seconds(model, session, 3) < 60
    assert calls == [6] * batch_size.CALLS
    needs = memory_needed.denoising(session.folder, "bfloat16")
    decoding = memory_needed.decoding(session.folder, "bfloat16", False)
    for pictures, found in ((10, 10), (0, 1), (1000, batch_size.MOST)):
        monkeypatch.setattr(memory_needed, "free", lambda _, room=pictures * needs + decoding: (room, room))
        assert batch_size._fitting(session) == found


@pytest.mark.usefixtures("album")
def test_auto_is_as_many_as_are_best(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EditPipeline, "at_once", 3)
    assert run("album", "--maps", 1).code == 0
    assert max(calls) > 2


def test_each_of_several_pictures_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = Reporter()

    def bars() -> list[tuple[str, float, float | None]]:
        return [(bar.description, bar.completed, bar.total) for bar in reporter._bars.tasks]

    reporter.progress("invert", 1, 18)
    reporter.progress("invert", 2, 18)
    with ThreadPoolExecutor(1) as other:
        other.submit(reporter.progress, "invert", 1, 9).result()
        reporter.progress("invert", 3, 18)
        assert bars() == [("inverting", 3, 18), ("inverting", 1, 9)]
        other.submit(reporter.progress, "invert", 9, 9).result()
    assert bars() == [("inverting", 3, 18)]


# Ended


def interruptible(here: Path, album: Path, *words: object) -> subprocess.Popen[bytes]:
    """A run of many pictures, three together, that Ctrl-C reaches."""
    for number in range(20):
        picture(album / f"more-{number:02}.png", (40, 40 + number % 2))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        rest = (*WORDS, *words, "--batch", 3, "--no-cache", "--out", "out", "--json")
        return started("run", "album", *rest, folder=here)
    finally:
        signal.signal(signal.SIGINT, before)


def until(stream: IO[bytes] | None, said: bytes) -> bool:
    """Reads lines to the one that has this in it."""
    assert stream is not None
    return any(said in line for line in stream)


@pytest.mark.thorough
def test_ctrl_c_finishes_what_is_in_hand(here: Path, album: Path) -> None:
    running = interruptible(here, album, "--steps", 30, "--maps", 8)
    assert until(running.stdout, b'"done"')
    running.send_signal(signal.SIGINT)
    rest, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert b"Finishing the pictures in progress" in said
    done = [json.loads(line)["status"] for line in rest.splitlines()]
    assert set(done) <= {"done"}
    assert len(done) <= 8  # at work then, begun until the signal came, or waiting for their turn to be said
    assert len((here / "out" / "results.jsonl").read_text().splitlines()) == len(done) + 1
    assert not list(here.rglob("*.part"))


@pytest.mark.thorough
def test_a_second_ctrl_c_stops_at_once(here: Path, album: Path) -> None:
    running = interruptible(here, album, "--steps", 900, "--maps", 100)
    assert until(running.stderr, b"finding the mask")
    running.send_signal(signal.SIGINT)
    assert until(running.stderr, b"Finishing the pictures in progress")
    running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert not out
    assert not list((here / "out").glob("*.png"))
