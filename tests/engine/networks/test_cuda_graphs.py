"""Evaluations by captured graphs: the same bits in every family, and never in the way. The capture is a stand-in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from recorder import FakeRecorder
from tiny_families import FIRST_ALWAYS, WRITERS
from torch import Tensor

from diffedit_cli.cli.progress import Reporter
from diffedit_cli.engine.diffedit import GuidedPredictor
from diffedit_cli.engine.interfaces import ModelInput, Text
from diffedit_cli.engine.networks import cuda_graphs, families
from diffedit_cli.engine.process import Level

FULL = torch.OutOfMemoryError("CUDA out of memory")
FORBIDDEN = RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.fixture(scope="module", params=FIRST_ALWAYS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("family") / "model")


def loaded(folder: Path) -> Any:
    return families.load(folder, "cpu", torch.float32, name="tiny")


@pytest.fixture
def model(tiny_epsilon: Path) -> Any:
    return loaded(tiny_epsilon)


@pytest.fixture
def recorder(model: Any) -> FakeRecorder:
    made = FakeRecorder()
    model.capture(made)
    return made


def draw(model: Any, rows: int, seed: int, side: int = 16) -> Tensor:
    return torch.randn((rows, model.channels, side, side), generator=torch.Generator().manual_seed(seed))


TURNS = (  # prompt, negative prompt and watched words; lengths and places change from turn to turn
    ("a cat", "a dog on grass", "cat"),
    ("a dog on grass", "a cat", "dog"),
    ("cat a", "a dog on grass", "cat"),
    ("a cat", "a dog", "a cat"),
)


def answers(model: Any) -> list[Tensor]:
    """What a model says turn by turn, each of other latents, levels, prompts and watched words."""
    found = []
    levels: list[Level] = list(model.levels(10))
    with torch.inference_mode():
        for turn, (words, other, watched) in enumerate(TURNS):
            one, two, at = draw(model, 1, turn), draw(model, 2, turn + 9), levels[4 + turn]
            text = model.embed(words)
            guided = GuidedPredictor(model, Text(text, model.embed(other), 3.0))
            found += [model.predict(one, at, text).eps, guided(one, at).eps]
            with model.watching(words, watched.split()) as watch:
                found += [model.predict(two, at, text).eps, guided(two, at).eps, watch.map((16, 16))]
            found.append(model.predict(two, at, text).eps)
    return found


# The same bits


def test_replays_give_the_bits_of_evaluations_in_every_family(folder: Path) -> None:
    plain, graphed = loaded(folder), loaded(folder)
    graphed.capture(made := FakeRecorder())
    for one, other in zip(answers(plain), answers(graphed), strict=True):
        assert torch.equal(one, other)
    assert made.captured
    assert made.replayed > made.captured / 2
    assert graphed.evaluations == plain.evaluations
    assert not any(module._forward_pre_hooks for module in graphed.network.modules())


def test_each_number_of_rows_and_size_has_a_graph_from_its_second_time_on(model: Any, recorder: FakeRecorder) -> None:
    text, at = model.embed("a cat"), model.levels(10)[5]
    with torch.inference_mode():
        for rows, side in ((1, 16), (2, 16), (1, 24)):
            before = recorder.captured, recorder.replayed
            for turn in range(4):
                model.predict(draw(model, rows, turn, side), at, text)
            assert (recorder.captured, recorder.replayed) == (before[0] + 1, before[1] + 3)
    assert len(model.graphs) == 3


def test_what_a_replay_gave_does_not_change_with_the_next(model: Any, recorder: FakeRecorder) -> None:
    text, at = model.embed("a cat"), model.levels(10)[5]
    with torch.inference_mode():
        _, second, third = (model._answer(asked(model, at, text, seed)) for seed in range(3))
        assert recorder.replayed == 2
        assert not torch.equal(second, third)
        assert torch.equal(second, model._output(asked(model, at, text, 1)))


def asked(model: Any, at: Level, text: Any, seed: int) -> Any:
    return ModelInput(draw(model, 1, seed), torch.full((1,), at.timestep), text, [None])


def test_pictures_beside_each_other_share_graphs(model: Any, tiny_epsilon: Path, recorder: FakeRecorder) -> None:
    at, plain = model.levels(10)[5], loaded(tiny_epsilon)
    with torch.inference_mode():
        for seed in range(3):
            inputs = [asked(model, at, model.embed(words), seed + n) for n, words in enumerate(("a cat", "a dog"))]
            for one, other in zip(plain.ask_together(inputs), model.ask_together(inputs), strict=True):
                assert torch.equal(one, other)
        view = model.beside(lambda rows: model.ask_together([rows, rows])[0])
        view.predict(draw(model, 1, 7), at, model.embed("a cat"))
    assert (recorder.captured, recorder.replayed) == (1, 3)


# Never in the way


def test_what_cannot_be_captured_is_evaluated_and_said_once(
    tiny_epsilon: Path, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model.capture(made := FakeRecorder(FORBIDDEN))
    with caplog.at_level(logging.INFO, "diffedit_cli"):
        found = answers(model)
    assert all(torch.equal(one, other) for one, other in zip(answers(loaded(tiny_epsilon)), found, strict=True))
    assert made.captured == 1
    assert caplog.messages == [f"no CUDA graphs: {FORBIDDEN}"]


def test_a_graph_that_memory_is_too_short_for_costs_only_itself(
    tiny_epsilon: Path, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model.capture(made := FakeRecorder(FULL, lambda number: number == 2))
    with caplog.at_level(logging.INFO, "diffedit_cli"):
        found = answers(model)
    assert all(torch.equal(one, other) for one, other in zip(answers(loaded(tiny_epsilon)), found, strict=True))
    assert made.captured > 2
    assert made.released
    assert len(caplog.messages) == 1
    assert "memory is short" in caplog.text


def test_graphs_leave_room(model: Any, recorder: FakeRecorder) -> None:
    text, at = model.embed("a cat"), model.levels(10)[5]
    with torch.inference_mode():
        for rows in (1, 1, 2, 2):
            recorder.room = [rows == 1] * 2
            model.predict(draw(model, rows, 0), at, text)
        assert len(model.graphs) == 0  # the first one made room for the second, in vain
        model.predict(draw(model, 2, 0), at, text)
    assert recorder.captured == 1


def test_only_the_graphs_that_were_used_last_are_kept(
    model: Any, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST", 2)
    text, at = model.embed("a cat"), model.levels(10)[5]
    with torch.inference_mode():
        for rows in (1, 1, 2, 2, 1, 3, 3):
            model.predict(draw(model, rows, 0), at, text)
        assert (len(model.graphs), recorder.captured) == (2, 3)
        model.predict(draw(model, 1, 0), at, text)
        assert recorder.captured == 3
        for captured in (3, 4):  # like one that was never asked before
            model.predict(draw(model, 2, 0), at, text)
            assert recorder.captured == captured


@pytest.mark.parametrize("short", [1, 3])
def test_a_graph_is_captured_once_memory_comes_back(model: Any, recorder: FakeRecorder, short: int) -> None:
    """Not at each evaluation meanwhile, and the other graphs stay where an attempt would be in vain."""
    recorder.fails, recorder.refuses = FULL, lambda number: number <= 1
    text, at = model.embed("a cat"), model.levels(10)[5]
    again = cuda_graphs.AGAIN
    with torch.inference_mode():
        for turn in range(2 + again):
            model.predict(draw(model, 1, turn), at, text)
        assert (recorder.captured, len(model.graphs)) == (1, 0)
        for turn in range(3):
            model.predict(draw(model, 2, turn), at, text)
        released = recorder.released
        for _ in range(short - 1):
            recorder.room = [False]
            for turn in range(1 + again):
                model.predict(draw(model, 1, turn), at, text)
        assert (recorder.captured, len(model.graphs), recorder.released) == (2, 1, released)
        model.predict(draw(model, 1, 0), at, text)
    assert (recorder.captured, len(model.graphs)) == (3, 2)


def test_memory_that_ends_takes_the_graphs_first_and_then_halves(
    model: Any, recorder: FakeRecorder, tiny_epsilon: Path
) -> None:
    text, at, tried = model.embed("a cat"), model.levels(10)[5], []
    forward = model.unet.forward

    def limited(sample: Tensor, *given: Any, **named: Any) -> Any:
        tried.append(len(sample))
        if len(sample) > (4 if recorder.released else 2):
            raise FULL
        return forward(sample, *given, **named)

    model.unet.forward = limited
    with torch.inference_mode():
        for turn in range(3):
            model.predict(draw(model, 2, turn), at, text)
        tried.clear()
        found = model.predict(draw(model, 4, 0), at, text).eps
        assert (tried, recorder.released, len(model.graphs)) == ([4, 4], 1, 0)
        assert torch.equal(found, loaded(tiny_epsilon).predict(draw(model, 4, 0), at, text).eps)
        tried.clear()
        model.predict(draw(model, 6, 0), at, text)
    assert tried[:3] == [6, 3, 3]


def test_in_float32_nothing_is_replayed_and_afterwards_captured_anew(
    tiny_epsilon: Path, recorder: FakeRecorder, model: Any
) -> None:
    at, plain = model.levels(10)[5], loaded(tiny_epsilon)
    view = model.beside(model._calls.ask)
    with torch.inference_mode():
        for seed in range(3):
            model.predict(draw(model, 1, seed), at, model.embed("a cat"))
        before = recorder.captured, recorder.replayed
        with view.in_float32():
            for seed in range(3):
                found = view.predict(draw(model, 1, seed), at, view.embed("a cat")).eps
                assert torch.equal(found, plain.predict(draw(model, 1, seed), at, plain.embed("a cat")).eps)
        assert (recorder.captured, recorder.replayed, len(model.graphs)) == (*before, 0)
        for seed in range(3):
            model.predict(draw(model, 1, seed), at, model.embed("a cat"))
    assert recorder.captured == before[0] + 1


def test_source_values_are_exchanged_without_graphs(tiny_epsilon: Path, recorder: FakeRecorder, model: Any) -> None:
    at, plain = model.levels(10)[5], loaded(tiny_epsilon)
    with torch.inference_mode():
        for seed in range(3):
            found = []
            for one in (plain, model):
                values = one.source_values(draw(one, 1, seed), at, one.embed("a cat"))
                with one.keeping(values):
                    found.append(one.predict(draw(one, 2, seed + 5), at, one.embed("a dog")).eps)
            assert torch.equal(*found)
    assert recorder.captured == 0


def test_outside_of_the_stages_nothing_is_captured(model: Any, recorder: FakeRecorder) -> None:
    """Callers that may differentiate, or exchange weights, do not compute in inference mode."""
    for seed in range(3):
        model.predict(draw(model, 1, seed), model.levels(10)[5], model.embed("a cat"))
    assert recorder.captured == 0


# Where


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("sd", {}, ""),
        ("chroma", {}, "waits for the CPU in each evaluation"),
        ("sd", {"offload": "model"}, "move or are quantised"),
    ],
)
def test_a_gpu_captures_what_stays_where_it_is(
    family: str,
    options: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = loaded(WRITERS[family](tmp_path / "model"))
    assert model.graphs is None  # on a processor
    monkeypatch.setattr(families, "CudaRecorder", lambda _: FakeRecorder())
    with caplog.at_level(logging.INFO, "diffedit_cli"):
        families._capture(model, "cuda", options.get("offload", "none"))
    assert (model.graphs is None) is bool(said)
    assert said in caplog.text
    assert len(caplog.messages) == bool(said)


def test_verbose_says_why_nothing_is_captured(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (True, False):
        with Reporter(verbose=verbose):
            cuda_graphs.LOG.info("no CUDA graphs: for a reason")
        assert ("no CUDA graphs: for a reason" in capsys.readouterr().err) is verbose


def test_in_float32_nothing_is_captured_before_the_first_graph_either(model: Any, recorder: FakeRecorder) -> None:
    with torch.inference_mode(), model.in_float32():
        for seed in range(3):
            model.predict(draw(model, 1, seed), model.levels(10)[5], model.embed("a cat"))
    assert recorder.captured == 0
