"""Solvers: against diffusers' schedulers, and on processes whose every step is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, edit, invert
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.process import Level, Prediction, add_noise, interpret, step
from diffedit_cli.engine.solvers import DDIM, SOLVERS, DPMSolver, renew
from diffedit_cli.pipeline.param_fields import SCHEDULERS

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


# DPM-Solver++ (2M)

MULTISTEP: dict[str, Any] = {name: SCHEDULE[name] for name in ("beta_schedule", "beta_start", "beta_end")}
MULTISTEP |= {"lower_order_final": False}  # at the clean level we are of first order anyway, elsewhere they need not be


def network(x_t: Tensor, timestep: float) -> Tensor:
    """Something that is neither linear nor the same at every level."""
    return torch.tanh(0.7 * x_t + timestep / 700) + 0.2 * x_t


def theirs_as_levels(scheduler: Any) -> list[Level]:
    """The sigmas of a scheduler, b / a, in its own order."""
    timesteps, sigmas = [*scheduler.timesteps.tolist(), -1], scheduler.sigmas.double().tolist()
    scale = [(1 + sigma**2) ** -0.5 for sigma in sigmas]
    return [Level(t, a, a * sigma) for t, a, sigma in zip(timesteps, scale, sigmas, strict=True)]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [1, 2, 8, 25])
def test_every_step_down_is_that_of_diffusers(prediction_type: Any, final: str, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(**MULTISTEP, prediction_type=prediction_type, final_sigmas_type=final)
    scheduler.set_timesteps(steps)
    solver, ours = DPMSolver(), draw(0).float()
    theirs = ours
    for at, to in pairwise(theirs_as_levels(scheduler)):
        seen = interpret(network(ours, at.timestep), ours, at, prediction_type)
        ours = solver.step(seen, at, to)
        theirs = scheduler.step(network(theirs, at.timestep), int(at.timestep), theirs).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 8, 25])
def test_every_step_up_is_that_of_diffusers(prediction_type: Any, steps: int) -> None:
    scheduler = DPMSolverMultistepInverseScheduler(**MULTISTEP, prediction_type=prediction_type)
    scheduler.set_timesteps(steps)
    levels = theirs_as_levels(scheduler)
    solver, ours = DPMSolver(), draw(0).float()
    theirs = ours
    for at, to in pairwise(levels):
        assert solver.asks_at(at, to) == at
        seen = interpret(network(ours, at.timestep), ours, at, prediction_type)
        ours = solver.step(seen, at, to)
        theirs = scheduler.step(network(theirs, at.timestep), int(at.timestep), theirs).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_with_eta_1_it_is_the_sde_solver_of_diffusers() -> None:
    scheduler = DPMSolverMultistepScheduler(**MULTISTEP, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(10)
    drawn = torch.Generator().manual_seed(5)
    solver, ours = DPMSolver(1.0, torch.Generator().manual_seed(5)), draw(0).float()
    theirs = ours
    for at, to in pairwise(theirs_as_levels(scheduler)):
        ours = solver.step(interpret(network(ours, at.timestep), ours, at, "epsilon"), at, to)
        noise = torch.randn(SHAPE, generator=drawn)
        output = network(theirs, at.timestep)
        theirs = scheduler.step(output, int(at.timestep), theirs, variance_noise=noise).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


class Gaussian:
    """The exact prediction for Gaussian data of the text's mean m and deviation s, by its label."""

    def __init__(self, levels: Sequence[Level], s: float = 0.5) -> None:
        self.at, self.s = {level.timestep: level for level in levels}, s

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        told, m = self.at[at.timestep], float(text.tokens)
        eps = told.b * (x_t - told.a * m) / (told.a**2 * self.s**2 + told.b**2)
        return interpret(eps, x_t, at, "epsilon")

    def follow(self, x: Tensor, at: Level, to: Level, m: float) -> Tensor:
        """Where the probability flow leads from x."""
        spread = [(level.a**2 * self.s**2 + level.b**2) ** 0.5 for level in (at, to)]
        return to.a * m + spread[1] / spread[0] * (x - at.a * m)


def walk(process: Any, first: float, last: float, steps: int) -> list[Level]:
    return [process(first + (last - first) * i / steps) for i in range(steps + 1)]


MEAN = Text(Embedding(torch.full((1, 1, 1), 0.3, dtype=torch.float64)))
ONES = torch.ones(SHAPE[2:], dtype=torch.float64)


@pytest.mark.parametrize(("process", "last"), [(vp, 1.5), (flow, 0.95)])
@pytest.mark.parametrize(("first", "least"), [(0.0, 2.8), (0.03, 3.5)], ids=["clean", "nearly clean"])
def test_both_ways_the_error_falls_with_the_square_of_the_steps(
    process: Any, last: float, first: float, least: float
) -> None:
    """To a quarter when the steps double, but for a logarithm where the walk begins or ends at infinite lambda."""

    def errors(steps: int) -> tuple[float, float]:
        levels = walk(process, first, last, steps)
        model, x_0 = Gaussian(levels), draw(0)[:1]
        *_, x_r = invert(model, x_0, levels, MEAN, DPMSolver())
        exact = model.follow(x_0, levels[0], levels[-1], 0.3)
        *_, y_0 = edit(model, Trajectory(exact.expand(steps + 1, -1, -1, -1), levels), ONES, MEAN, DPMSolver())
        return float((x_r - exact).abs().max()), float((y_0 - x_0).abs().max())

    few, many = errors(100), errors(200)
    assert max(few) < 0.01
    for coarse, fine in zip(few, many, strict=True):
        assert least < coarse / fine < 4.5


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(("process", "last"), [(vp, 1.2), (flow, 0.8)])
def test_there_and_back_it_loses_less_than_ddim(process: Any, last: float, steps: int) -> None:
    levels, x_0 = walk(process, 0.0, last, steps), draw(0)[:1]
    model = Gaussian(levels)
    lost = {}
    for name, solver in SOLVERS.items():
        given = Trajectory(torch.cat([x_0, *invert(model, x_0, levels, MEAN, solver())]), levels)
        *_, y_0 = edit(model, given, ONES, MEAN, solver())
        lost[name] = float((y_0 - x_0).norm() / x_0.norm())
    assert lost["dpm++"] < 0.5 * lost["ddim"]


def test_steps_that_touch_mere_noise_or_the_clean_level_are_ddims() -> None:
    """Lambda is infinite there, and nothing must become so."""
    noise, clean = Level(999, 0.0, 1.0), Level(0, 1.0, 0.0)
    for levels in ([noise, vp(1.2), clean], [clean, vp(0.4), vp(0.8)], [clean, vp(0.8), noise]):
        solver, ddim = DPMSolver(), DDIM()
        for at, to in pairwise(levels):
            seen = Prediction(draw(0), draw(int(at.timestep * 10)))
            assert torch.equal(solver.step(seen, at, to), ddim.step(seen, at, to))


# Its memory, and what is pasted


class Pointwise:
    """A network whose cells know nothing of each other: whatever passes between them, the solver passed."""

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        return interpret(network(x_t, 100 * at.timestep + float(text.tokens)), x_t, at, "epsilon")


LEVELS = walk(vp, 0.0, 1.4, 12)
HALF = (torch.arange(SHAPE[3]) < 3).expand(SHAPE[2:])
OTHER = Text(Embedding(torch.full((1, 1, 1), 90.0)))


def inverted() -> Trajectory:
    x_0 = draw(0)[:1]
    return Trajectory(torch.cat([x_0, *invert(Pointwise(), x_0, LEVELS, MEAN, DPMSolver())]), LEVELS)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_edit_with_an_empty_mask_returns_the_picture_bit_for_bit(eta: float) -> None:
    given = inverted()
    *_, y_0 = edit(Pointwise(), given, 0 * ONES, OTHER, DPMSolver(eta, torch.Generator()))
    assert torch.equal(y_0, given.latents[:1])


def test_an_edit_with_a_full_mask_is_plain_sampling() -> None:
    given, solver = inverted(), DPMSolver()
    plain = given.latents[-1:]
    for (higher, lower), y_t in zip(
        pairwise(reversed(LEVELS)), edit(Pointwise(), given, ONES, OTHER, DPMSolver()), strict=True
    ):
        plain = solver.step(Pointwise().predict(plain, higher, OTHER.prompt), higher, lower)
        assert torch.equal(y_t, plain)


def test_what_is_pasted_does_not_reach_the_inside_through_the_memory() -> None:
    given = inverted()
    *_, whole = edit(Pointwise(), given, ONES, OTHER, DPMSolver())
    disturbed = given.latents.clone()
    disturbed[:-1, :, ~HALF] += 100
    for trajectory in (given, Trajectory(disturbed, LEVELS)):
        *_, y_0 = edit(Pointwise(), trajectory, HALF.double(), OTHER, DPMSolver())
        assert torch.equal(y_0[..., HALF], whole[..., HALF])
        assert torch.equal(y_0[..., ~HALF], trajectory.latents[:1, :, ~HALF])


def test_a_prediction_from_what_was_not_pasted_is_never_used_again() -> None:
    """Each step is what the predictions from the blended latents of its own and the level before make it."""
    given, M = inverted(), 0.6 * HALF.double()
    blended = [given.latents[-1:], *edit(Pointwise(), given, M, OTHER, DPMSolver())]
    levels = LEVELS[::-1]
    for i in range(2, len(levels) - 1):
        solver = DPMSolver()
        for j in (i - 2, i - 1):
            y_t = solver.step(Pointwise().predict(blended[j], levels[j], OTHER.prompt), levels[j], levels[j + 1])
        x_t = given.latents[len(levels) - 1 - i]
        repainted = (len(levels) - i) / (len(levels) - 1) <= M  # from then on, what was pasted before
        torch.testing.assert_close(blended[i], torch.where(repainted, y_t, x_t), rtol=0, atol=0)


def test_the_solvers_are_those_that_people_can_name() -> None:
    assert list(SOLVERS) == list(SCHEDULERS)
