"""No stage waits for the GPU within its loop: on a device without values, and on a real one where there is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from remote_device import REMOTE, NoWaiting, Waits, away
from tiny_families import FIRST_ALWAYS, WRITERS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffedit_cli.engine import diffedit, interfaces, solvers, source_path
from diffedit_cli.engine.diffedit import Trajectory
from diffedit_cli.engine.interfaces import Embedding, Text
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import SOLVERS
from diffedit_cli.engine.source_path import AlignedPredictor
from diffedit_cli.errors import ModelError

WAITING = ("chroma",)  # whose network, as diffusers has it, copies from the CPU
STEPS = 6
PROMPTS = ("a cat", "a dog on grass")  # of different lengths, where the padding is masked


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved(text: Embedding) -> Embedding:
    """An embedding whose tensors are remote, but for those that stay on the CPU."""
    pooled = None if text.pooled is None else away(text.pooled)
    guidance = None if text.guidance is None else away(text.guidance)
    return replace(text, tokens=away(text.tokens), pooled=pooled, guidance=guidance)


def walked(model: Any, x_0: Tensor, texts: list[Embedding], with_gradient: bool = True) -> list[Tensor]:
    """Inverts and edits with all that a step can do; returns the latents."""
    levels = list(model.levels(STEPS, 16 * 16))
    query, caption = Text(texts[1], texts[0], 3.0), Text(texts[0])
    regularise = Regularisation(1, 20.0, 2, 20.0, seeded()) if with_gradient else None
    inverting = diffedit.invert(model, x_0, levels, caption, SOLVERS["ddim"](), regularise, fixed_point=1)
    latents = [x_0, *itertools.islice(inverting, STEPS)]  # the check of the regularisation comes after them
    latents = [x_0, *diffedit.invert(model, x_0, levels, caption, SOLVERS["dpm++"](), every=2)]
    trajectory = Trajectory(torch.cat(latents), levels)
    M = torch.full(x_0.shape[-2:], 0.5, device=x_0.device)
    solver = SOLVERS["dpm++"](0.5, seeded())
    edited = list(diffedit.edit(model, trajectory, M, query, solver, unguided=2, guide_every=2, under=x_0))
    aligned = AlignedPredictor(model, source_path.places(trajectory, SOLVERS["ddim"](), SOLVERS["ddim"]()))
    return [*edited, *diffedit.edit(aligned, trajectory, M, query, SOLVERS["ddim"]())]


@pytest.fixture(params=FIRST_ALWAYS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_step_of_any_family_waits(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = families.load(WRITERS[family](tmp_path / "model"), "cpu", torch.float32, name="tiny")
    monkeypatch.setattr(interfaces, "to_device", away)
    monkeypatch.setattr(solvers, "to_device", away)
    texts = [moved(model.embed(prompt)) for prompt in PROMPTS]
    model.network.to(REMOTE)
    x_0 = torch.empty((1, model.channels, 16, 16), device=REMOTE)
    with torch.inference_mode():
        walked(model, x_0, texts)  # what libraries prepare once
        if family in WAITING:
            assert not model.CAPTURABLE
            with pytest.raises(ModelError, match="to the device"), NoWaiting():
                walked(model, x_0, texts)
            return
        assert model.CAPTURABLE
        with NoWaiting():
            found = walked(model, x_0, texts)
    assert {one.device for one in found} == {REMOTE}


def test_watched_attention_waits_only_for_its_first_rows(tiny_epsilon: Path) -> None:
    model: Any = families.load(tiny_epsilon, "cpu", torch.float32, name="tiny")
    text, at = moved(model.embed("a cat")), model.levels(STEPS)[3]
    model.network.to(REMOTE)
    watch = model.WATCH(text, [2])
    model._watch = watch
    x_t = torch.empty((2, 4, 16, 16), device=REMOTE)
    with torch.inference_mode():
        model.predict(x_t, at, text)
        with NoWaiting():
            model.predict(x_t, at, text)
            assert watch.map((16, 16)).device == REMOTE


class Decisions(TorchDispatchMode):
    """Counts the values that the host asks for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("same", [True, False])
def test_maps_are_compared_once_for_each_pair(same: bool) -> None:
    maps = [torch.rand(8, 8, generator=seeded()) if same else torch.rand(8, 8) for _ in range(8)]
    with Decisions() as decisions:
        found = list(diffedit.until_stable(iter(maps)))
    assert decisions.count == len(found) / 2
    assert len(found) == 2 or not same


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which this machine does not have")
@pytest.mark.parametrize("capture", [False, True])
def test_no_step_waits_for_a_gpu(capture: bool, tiny_epsilon: Path) -> None:
    model: Any = families.load(tiny_epsilon, "cuda", torch.float16, name="tiny")
    if not capture:
        model._evaluate = model._output
    texts = [model.embed(prompt) for prompt in PROMPTS]
    x_0 = torch.randn((1, 4, 16, 16), generator=seeded()).to("cuda")
    with torch.inference_mode():
        expected, *_ = (walked(model, x_0, texts) for _ in range(3))
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = walked(model, x_0, texts)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_the_stand_in_refuses_what_a_gpu_would_wait_for() -> None:
    there = torch.empty(4, device=REMOTE)
    waiting: list[Callable[[], Any]] = [
        lambda: there.to(REMOTE)[torch.ones(4, dtype=torch.bool)],
        lambda: there + torch.ones(4).to(REMOTE),
        lambda: there[there > 0],
        lambda: float(there[0]),
        lambda: bool((there > 0).all()),
        lambda: there.cpu(),
        lambda: there.tolist(),
    ]
    for one in waiting:
        with pytest.raises((Waits, RuntimeError, NotImplementedError)), NoWaiting():
            one()
