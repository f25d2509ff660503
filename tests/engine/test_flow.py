"""Flow matching: levels and steps against diffusers' scheduler, the mask, and a flow whose velocity is known."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import WORDS, diffedit, settled
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from tiny import FLOW, write_json
from torch import Tensor, nn

from diffedit_cli.engine.diffedit import Text, Trajectory, binarise, contrast_maps, edit, invert
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks.sd3 import StableDiffusion3
from diffedit_cli.engine.process import Level, Prediction, add_noise, interpret, step

SHAPE = (1, 16, 16, 12)
DYNAMIC: dict[str, Any] = {"use_dynamic_shifting": True, "shift": 1.0, "base_shift": 0.5, "max_shift": 1.15}


def draw(seed: int, n: int = 1) -> Tensor:
    return torch.randn((n, *SHAPE[1:]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model(tiny_sd3: Path) -> StableDiffusion3:
    return StableDiffusion3.load(tiny_sd3, "cpu", torch.float32, name="tiny")


def with_scheduler(model: StableDiffusion3, **options: Any) -> StableDiffusion3:
    """The model with another noise schedule."""
    model.scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return model


# Levels and steps


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}], ids=str)
@pytest.mark.parametrize("steps", [1, 10, 50, 1001])
def test_levels_are_those_of_diffusers(model: StableDiffusion3, options: dict[str, Any], steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(steps)
    clean, *noisy = with_scheduler(model, **options).levels(steps)
    assert clean == Level(0, 1, 0)
    assert [level.timestep for level in noisy] == scheduler.timesteps.flip(0).tolist()
    assert [level.b for level in noisy] == scheduler.sigmas[:-1].flip(0).tolist()
    assert all(level.a + level.b == 1 for level in noisy)
    assert [level.b for level in noisy] == sorted({level.b for level in noisy})


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_dynamic_levels_depend_on_the_size_as_those_of_diffusers(model: StableDiffusion3, kind: str) -> None:
    options = DYNAMIC | {"base_image_seq_len": 16, "max_image_seq_len": 256, "time_shift_type": kind}
    found = []
    for height, width in ((16, 16), (8, 16)):
        scheduler = FlowMatchEulerDiscreteScheduler(**options)
        scheduler.set_timesteps(10, mu=calculate_shift(height * width // 4, 16, 256, 0.5, 1.15))
        found.append(with_scheduler(model, **options).levels(10, height * width))
        assert [level.timestep for level in found[-1][1:]] == scheduler.timesteps.flip(0).tolist()
    assert found[0][5].b > found[1][5].b
    assert model.levels(10) == found[0]  # the native size


def test_every_step_is_that_of_diffusers(model: StableDiffusion3) -> None:
    levels = model.levels(20)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
    scheduler.set_timesteps(20)
    x_t, v = draw(0), draw(1)
    for lower, higher, t in zip(levels, levels[1:], scheduler.timesteps.flip(0), strict=False):
        seen = interpret(v, x_t, higher, "flow_prediction")
        scheduler._step_index = None
        torch.testing.assert_close(step(seen, to=lower), scheduler.step(v, t, x_t).prev_sample, rtol=0, atol=1e-6)
        seen = interpret(v, x_t, lower, "flow_prediction")
        torch.testing.assert_close(step(seen, to=higher), x_t + (higher.b - lower.b) * v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_velocity_tells_picture_and_noise(t: float) -> None:
    x_0, eps, at = draw(0), draw(1), Level(1000 * t, 1 - t, t)
    seen = interpret(eps - x_0, add_noise(x_0, eps, at), at, "flow_prediction")
    torch.testing.assert_close(seen.x_0, x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.eps, eps, rtol=0, atol=1e-12)


def test_the_network_is_asked_with_the_label_and_the_whole_text(model: StableDiffusion3) -> None:
    x_t, text, at = torch.randn(2, 16, 16, 16), model.embed("a cat"), Level(700.5, 0.2995, 0.7005)
    v = model.transformer(x_t, text.tokens.expand(2, -1, -1), text.pooled.expand(2, -1), torch.full((2,), 700.5)).sample
    seen = model.predict(x_t, at, text)
    torch.testing.assert_close(seen.eps - seen.x_0, v)
    torch.testing.assert_close(at.a * seen.x_0 + at.b * seen.eps, x_t)
    assert model.evaluations == 2
    other = model.embed("a dog")
    for changed in (replace(text, tokens=other.tokens), replace(text, pooled=other.pooled)):
        assert (model.predict(x_t, at, changed).eps - seen.eps).abs().max() > 1e-4
    assert (model.predict(x_t, replace(at, timestep=300.0), text).eps - seen.eps).abs().max() > 1e-3


def test_the_mask_is_that_of_the_velocity(model: StableDiffusion3) -> None:
    """At fixed t noises differ by a times what velocities differ, and the mask sees proportions only."""
    at, x_0, noise = model.levels(50)[25], draw(0).float(), draw(1, n=4).float()
    R, Q = model.embed("a cat on grass"), model.embed("a dog on grass")
    x_t = add_noise(x_0, noise, at)
    label = torch.full((4,), at.timestep)
    v_r, v_q = (
        model.transformer(x_t, some.tokens, some.pooled, label).sample for some in (text.rows(4) for text in (R, Q))
    )
    ours = torch.stack(list(contrast_maps(model, x_0, at, Text(R), Text(Q), noise))).mean(dim=0)
    theirs = (v_q - v_r).abs().mean(dim=(0, 1))
    torch.testing.assert_close(ours, at.a * theirs, rtol=1e-2, atol=1e-5)
    M = binarise(ours, clamp=2.0)
    assert 0 < M.sum() < M.numel()
    assert (binarise(theirs, clamp=2.0) != M).float().mean() < 0.02  # rounding at the threshold


def test_the_stages_use_the_levels_of_the_pictures_size(
    tiny_sd3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inversion writes its labels down; mask and edit are seen to ask with the same."""
    copy = Path(shutil.copytree(tiny_sd3, tmp_path / "model"))
    dynamic = DYNAMIC | {"base_image_seq_len": 16, "max_image_seq_len": 256}
    write_json(copy / "scheduler" / "scheduler_config.json", FLOW | dynamic)
    settled(tmp_path, copy, monkeypatch)
    asked: list[float] = []
    predict = StableDiffusion3.predict

    def noted(self: StableDiffusion3, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        asked.append(at.timestep)
        return predict(self, x_t, at, text)

    monkeypatch.setattr(StableDiffusion3, "predict", noted)
    ran = diffedit("edit", "cat.png", *WORDS, "--scheduler", "ddim", "--strength", "0.4", "--mask-strength", "0.4")
    assert ran.code == 0, ran.err
    cells = 14 * 20  # 60 x 40 pixels are fitted to 80 x 56, in cells of 4
    model = StableDiffusion3.load(copy, "cpu", torch.float32)
    low, high = (level.timestep for level in model.levels(5, cells)[1:3])
    assert asked == [high, high, low, high, high, low]
    assert high != model.levels(5)[2].timestep


# A flow that is known


@dataclass
class Output:
    sample: Tensor


class Gaussian(nn.Module):
    """The exact velocity for Gaussian data of the text's mean m and deviation s, E[eps - x_0 | x_t]."""

    def __init__(self, like: nn.Module, s: float) -> None:
        super().__init__()
        self.config, self.dtype, self.s = like.config, torch.float32, s

    def forward(self, x_t: Tensor, *, timestep: Tensor, encoder_hidden_states: Tensor, **_: Tensor) -> Output:
        t, m = timestep.view(-1, 1, 1, 1) / 1000, encoder_hidden_states[:, :1, :1, None]
        variance = ((1 - t) * self.s) ** 2 + t**2
        return Output((t - (1 - t) * self.s**2) / variance * (x_t - (1 - t) * m) - m)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("strength", [40, 50])
def test_inversion_follows_the_flow_and_decoding_leads_back(
    model: StableDiffusion3, shift: float, strength: int
) -> None:
    """For this velocity the flow's line is x_t = a m + sqrt(a^2 s^2 + b^2) / s (x_0 - m)."""
    s, m = 0.7, 0.4
    model.network = model.transformer = Gaussian(model.transformer, s)
    text = Text(Embedding(torch.full((1, 1, 1), m), torch.zeros(1, 1)))
    levels = with_scheduler(model, shift=shift).levels(50)[: strength + 1]
    x_0 = m + s * draw(0).float()
    given = Trajectory(torch.cat([x_0, *invert(model, x_0, levels, text)]), levels)
    *_, y_0 = edit(model, given, torch.ones(SHAPE[2:]), text)

    a, b = levels[-1].a, levels[-1].b
    exact = a * m + (a * a * s * s + b * b) ** 0.5 / s * (x_0 - m)
    assert relative(given.latents[-1:] - x_0, x_0) > 0.3
    assert relative(given.latents[-1:] - exact, exact) < 0.05
    assert relative(y_0 - x_0, x_0) < 0.05


def relative(difference: Tensor, whole: Tensor) -> float:
    return float(difference.norm() / whole.norm())
