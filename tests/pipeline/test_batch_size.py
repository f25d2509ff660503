"""`--batch auto`: how many pictures a GPU edits together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diffedit_cli.models import memory_needed, registry
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline import batch_size, model_session
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.cache import Cache


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


def test_what_memory_limited_is_measured_again(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When more of it is free, or when it does not end while it is measured."""
    session, cache = on("cuda", "float16", tiny_epsilon, monkeypatch), StageCache(Cache(tmp_path / "cache"))
    session._model = session  # type: ignore[assignment]
    monkeypatch.setattr(batch_size, "_name", lambda _: "a GPU")
    full = math.inf
    monkeypatch.setattr(batch_size, "_seconds", lambda _model, _session, count: 1.0 if count < full else math.inf)
    for room, full, best in ((2, math.inf, 2), (32, 8, 4), (32, 16, 8), (32, math.inf, 32), (3, math.inf, 2)):  # noqa: B007
        monkeypatch.setattr(batch_size, "_fitting", lambda _, room=room: room)
        assert batch_size.pictures_at_once(session, cache) == best


def test_measuring_leaves_the_calls_of_edits_as_they_were(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is too large for memory fails as a whole, and only the measurement learns of it."""
    session = on("cpu", "bfloat16", tiny_epsilon, monkeypatch)
    model: Any = session.model(EditStats())
    answer, calls, most = model._evaluate, [], 4

    def limited(rows: Any) -> Any:
        calls.append(len(rows))
        if len(rows) > most:
            raise torch.OutOfMemoryError
        return answer(rows)

    model._evaluate = limited
    assert batch_size._seconds(model, session, 2) < math.inf
    assert batch_size._seconds(model, session, 3) == math.inf
    assert calls == [4] * batch_size.CALLS + [6]
    most = 6  # as memory came back
    model.predict(torch.zeros(6, 4, 8, 8), model.levels(10)[5], model.embed("a cat"))
    assert calls[-1] == 6


def test_a_joined_call_of_guided_steps_is_measured(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = on("cpu", "bfloat16", tiny_epsilon, monkeypatch)
    model: Any = session.model(EditStats())
    calls: list[int] = []
    answer = model._evaluate
    model._evaluate = lambda rows: calls.append(len(rows)) or answer(rows)
    assert 0 < batch_size._seconds(model, session, 3) < 60
    assert calls == [6] * batch_size.CALLS
    needs = memory_needed.denoising(session.folder, "bfloat16")
    decoding = memory_needed.decoding(session.folder, "bfloat16", False)
    for pictures, found in ((10, 10), (0, 1), (1000, batch_size.MOST)):
        monkeypatch.setattr(memory_needed, "free", lambda _, room=pictures * needs + decoding: (room, room))
        assert batch_size._fitting(session) == found


def test_one_picture_at_a_time_where_no_call_succeeds() -> None:
    assert batch_size.fullest(lambda _: math.inf, 32) == 1
