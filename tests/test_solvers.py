"""Solvers: against diffusers' schedulers, and on processes whose every step is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diffedit_cli.engine.process import Level, add_noise, interpret, step
from diffedit_cli.engine.solvers import DDIM, renew

SHAPE = (2, 4, 6, 5)
SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE |= {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(scheduler: Any, timestep: int) -> Level:
    alpha = float(scheduler.alphas_cumprod[timestep])
    return Level(timestep, alpha**0.5, (1 - alpha) ** 0.5)


def vp(angle: float) -> Level:
    at = torch.tensor(angle, dtype=torch.float64)
    return Level(angle, float(at.cos()), float(at.sin()))


def flow(t: float) -> Level:
    return Level(1000 * t, 1 - t, t)


# Fresh noise: DDIM with eta


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("t", [51, 501, 951])
def test_a_stochastic_step_is_that_of_diffusers(prediction_type: Any, eta: float, t: int) -> None:
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction_type)
    scheduler.set_timesteps(20)
    x_t, output, noise = draw(0).float(), draw(1).float(), draw(2).float()
    at, to = level(scheduler, t), level(scheduler, t - 50)
    ours = step(renew(interpret(output, x_t, at, prediction_type), at, to, eta, noise), to)
    theirs = scheduler.step(output, t, x_t, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (ours - step(interpret(output, x_t, at, prediction_type), to)).abs().max() > 1e-3


@pytest.mark.parametrize(("at", "to"), [(vp(1.2), vp(0.7)), (flow(0.8), flow(0.5))], ids=["diffusion", "flow"])
def test_with_eta_1_a_step_draws_from_the_posterior_of_the_forward_process(at: Level, to: Level) -> None:
    """x_s ~ N(a_s x_0, b_s^2) and x_t | x_s ~ N(r x_s, w^2) make x_s | x_t Gaussian, by Bayes' rule."""
    x_0, eps, noise = draw(0), draw(1), draw(2)
    x_t = add_noise(x_0, eps, at)
    r = at.a / to.a
    w2 = at.b**2 - (r * to.b) ** 2
    variance = 1 / (1 / to.b**2 + r**2 / w2)
    mean = variance * (to.a * x_0 / to.b**2 + r * x_t / w2)
    ours = step(renew(interpret(eps, x_t, at, "epsilon"), at, to, 1.0, noise), to)
    torch.testing.assert_close(ours, mean + variance**0.5 * noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_keeps_the_amount_of_noise(eta: float) -> None:
    """x_s is a_s x_0 and b_s of unit noise, whatever share of it is fresh."""
    x_0, eps, noise = (torch.randn(200_000, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    at, to = vp(1.3), vp(0.9)
    x_s = step(renew(interpret(eps, add_noise(x_0, eps, at), at, "epsilon"), at, to, eta, noise), to)
    assert float((x_s - to.a * x_0).std()) == pytest.approx(to.b, rel=0.01)


def test_nothing_is_fresh_at_the_clean_level() -> None:
    at, clean = vp(0.3), vp(0.0)
    seen = interpret(draw(1), draw(0), at, "epsilon")
    assert torch.equal(DDIM(1.0, torch.Generator()).step(seen, at, clean), step(seen, clean))


def test_the_noise_is_the_generators_and_each_step_has_its_own() -> None:
    at, to = vp(1.2), vp(0.7)
    seen = interpret(draw(1), draw(0), at, "epsilon")
    one, same, other = (DDIM(0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    first = one.step(seen, at, to)
    assert torch.equal(same.step(seen, at, to), first)
    assert (other.step(seen, at, to) - first).abs().max() > 0.1
    assert (one.step(seen, at, to) - first).abs().max() > 0.1
