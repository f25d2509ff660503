"""Levels, predictions and the step: against the formulas, and against diffusers' schedulers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, PNDMScheduler
from tiny import DDIM, PNDM
from torch import Tensor

from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.process import Level, Prediction, PredictionType, add_noise, interpret, step
from diffedit_cli.errors import UsageError

LOW, HIGH = Level(101, 0.96, 0.28), Level(501, 0.6, 0.8)
SHAPE = (2, 4, 6, 5)

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE |= {"clip_sample": False, "prediction_type": "v_prediction"}
LEADING, TRAILING = {"timestep_spacing": "leading", "steps_offset": 1}, {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
ZERO_SNR = {"rescale_betas_zero_snr": True}


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model(tiny_epsilon: Path) -> StableDiffusion:
    return StableDiffusion.load(tiny_epsilon, "cpu", torch.float32, name="tiny")


def with_scheduler(model: StableDiffusion, **options: Any) -> StableDiffusion:
    """The model with another noise schedule."""
    return StableDiffusion(
        vae=model.vae,
        unet=model.unet,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=DDIMScheduler(**(SCHEDULE | options)),
        name="tiny",
    )


@pytest.mark.parametrize(
    ("prediction_type", "output"),
    [
        ("epsilon", lambda _, eps: eps),
        ("sample", lambda x_0, _: x_0),
        ("v_prediction", lambda x_0, eps: HIGH.a * eps - HIGH.b * x_0),
    ],
)
def test_every_prediction_type_tells_the_same_picture_and_noise(prediction_type: PredictionType, output: Any) -> None:
    x_0, eps = draw(0), draw(1)
    seen = interpret(output(x_0, eps), add_noise(x_0, eps, HIGH), HIGH, prediction_type)
    torch.testing.assert_close(seen.x_0, x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.eps, eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_a_clean_level_holds_the_picture_and_nothing_becomes_infinite(prediction_type: PredictionType) -> None:
    seen = interpret(draw(1), draw(0), Level(0, 1.0, 0.0), prediction_type)
    assert torch.equal(seen.x_0, draw(0))
    assert seen.eps.isfinite().all()


def test_step_goes_to_the_forward_process_at_the_other_level() -> None:
    x_0, eps = draw(0), draw(1)
    seen = interpret(eps, HIGH.a * x_0 + HIGH.b * eps, HIGH, "epsilon")
    torch.testing.assert_close(step(seen, to=LOW), LOW.a * x_0 + LOW.b * eps, rtol=0, atol=1e-12)


def test_step_is_its_own_inverse() -> None:
    x_t, eps = draw(0), draw(1)
    lower = step(interpret(eps, x_t, HIGH, "epsilon"), to=LOW)
    assert (lower - x_t).abs().max() > 0.1
    back = step(interpret(eps, lower, LOW, "epsilon"), to=HIGH)
    torch.testing.assert_close(back, x_t, rtol=0, atol=1e-12)


def test_guidance_goes_from_the_negative_towards_the_positive() -> None:
    negative, positive = Prediction(draw(0), draw(1)), Prediction(draw(2), draw(3))
    guided = negative.towards(positive, 7.5)
    torch.testing.assert_close(guided.eps, draw(1) + 7.5 * (draw(3) - draw(1)))
    torch.testing.assert_close(guided.x_0, draw(0) + 7.5 * (draw(2) - draw(0)))


def test_chunk_gives_the_first_half_first() -> None:
    first, second = Prediction(draw(0), draw(1)).chunk()
    assert torch.equal(first.x_0, draw(0)[:1])
    assert torch.equal(second.x_0, draw(0)[1:])
    assert torch.equal(first.eps, draw(1)[:1])
    assert torch.equal(second.eps, draw(1)[1:])


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("spacing", [LEADING, TRAILING, TRAILING | ZERO_SNR, LINSPACE])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_levels_are_those_of_diffusers(
    model: StableDiffusion, spacing: dict[str, Any], clean: bool, steps: int
) -> None:
    scheduler = DDIMScheduler(**SCHEDULE, **spacing, set_alpha_to_one=clean)
    scheduler.set_timesteps(steps)
    first, *levels = with_scheduler(model, **spacing, set_alpha_to_one=clean).levels(steps)

    assert [level.timestep for level in levels] == scheduler.timesteps.flip(0).tolist()
    alphas = scheduler.alphas_cumprod[scheduler.timesteps.flip(0)].double()
    torch.testing.assert_close(torch.tensor([level.a for level in levels]).double(), alphas.sqrt())
    torch.testing.assert_close(torch.tensor([level.b for level in levels]).double(), (1 - alphas).sqrt())
    assert first.a**2 == pytest.approx(1.0 if clean else float(scheduler.alphas_cumprod[0]))
    assert first.b**2 == pytest.approx(1 - first.a**2)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("spacing", [LEADING, TRAILING, LEADING | ZERO_SNR, TRAILING | ZERO_SNR])
def test_every_step_is_that_of_diffusers(model: StableDiffusion, spacing: dict[str, Any], clean: bool) -> None:
    levels = with_scheduler(model, **spacing, set_alpha_to_one=clean).levels(20)
    down = DDIMScheduler(**SCHEDULE, **spacing, set_alpha_to_one=clean)
    up = DDIMInverseScheduler(**SCHEDULE, **spacing, set_alpha_to_one=clean)
    down.set_timesteps(20)
    up.set_timesteps(20)
    x_t, v = draw(0).float(), draw(1).float()

    for lower, higher, t in zip(levels, levels[1:], up.timesteps, strict=False):
        ours = step(interpret(v, x_t, higher, "v_prediction"), to=lower)
        torch.testing.assert_close(ours, down.step(v, t, x_t).prev_sample, rtol=0, atol=1e-5)
        ours = step(interpret(v, x_t, lower, "v_prediction"), to=higher)
        torch.testing.assert_close(ours, up.step(v, t, x_t).prev_sample, rtol=0, atol=1e-5)


def test_zero_terminal_snr_ends_in_pure_noise(model: StableDiffusion) -> None:
    last = with_scheduler(model, **TRAILING, **ZERO_SNR).levels(10)[-1]
    assert (last.timestep, last.a, last.b) == (999, 0.0, 1.0)


@pytest.mark.parametrize(("config", "prediction_type"), [(PNDM, "epsilon"), (DDIM, "v_prediction")])
def test_levels_of_the_schedules_that_stable_diffusion_ships(
    tiny_epsilon: Path, tiny_v: Path, config: dict[str, Any], prediction_type: str
) -> None:
    folder = tiny_epsilon if config is PNDM else tiny_v
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text()) == config
    model = StableDiffusion.load(folder, "cpu", torch.float32)
    assert model.prediction_type == prediction_type

    first, *levels = model.levels(50)
    alphas = PNDMScheduler.from_config(PNDM).alphas_cumprod
    assert [level.timestep for level in levels] == list(range(1, 1000, 20))
    assert [level.a**2 for level in levels] == pytest.approx(alphas[1::20].tolist())
    assert first.a**2 == pytest.approx(float(alphas[0]))


def test_levels_ascend_from_clean_to_noisy(builtin: StableDiffusion) -> None:
    levels = builtin.levels(50)
    assert len(levels) == 51
    assert [level.b for level in levels] == sorted({level.b for level in levels})
    assert all(level.a**2 + level.b**2 == pytest.approx(1) for level in levels)


@pytest.mark.parametrize("steps", [1000, 1001, 100_000])
def test_more_steps_than_the_model_has_is_a_usage_error(model: StableDiffusion, steps: int) -> None:
    assert len(model.levels(999)) == 1000
    with pytest.raises(UsageError, match=rf"--steps {steps} .* tiny .* at most 999"):
        model.levels(steps)
