"""Edits held to their source: an exact way back, and values of the source in the first steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from known_noise import EMPTY, HALF, LEVELS, ONES, SOURCE, TARGET, Known, draw
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, edit, invert, noise_first_levels
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.process import Level, Prediction, PredictionType
from diffedit_cli.engine.solvers import DDIM, DPMSolver
from diffedit_cli.engine.source_path import AlignedPredictor, KeepingPredictor, places, sources

FLOW = [Level(1000 * t, 1 - t, t) for t in torch.linspace(0, 0.95, 11, dtype=torch.float64).tolist()]
PURE = [*FLOW[:-1], Level(1000.0, 0.0, 1.0)]  # a flow that begins with noise alone


def nonlinear(prediction_type: PredictionType = "epsilon") -> Known:
    return Known(lambda x_t, timestep, text: torch.tanh((3 * text + 1) * x_t) + timestep / 1000, prediction_type)


def inverted(
    model: Known, solver: type[DDIM], levels: list[Level] = LEVELS, every: int = 1, begun: int = 0, guidance: float = 1
) -> Trajectory:
    first = noise_first_levels(draw(0), draw(3), levels, levels[begun].b)
    caption = Text(SOURCE, EMPTY, guidance)
    walked = invert(model, draw(0), levels, caption, solver(), every=every, first_latents=first)
    return Trajectory(torch.cat([draw(0), *walked]), levels)


def furthest(walked: Iterator[Tensor], given: Trajectory, begun: int = 0) -> float:
    """Largest distance from the trajectory, at all levels down to the last one that holds fresh noise."""
    back = given.latents[begun:-1, None].flip(0)
    return max(float((y_t - x_t).abs().max()) for y_t, x_t in zip(walked, back, strict=False))


# The way back


@pytest.mark.parametrize("solver", [DDIM, DPMSolver])
@pytest.mark.parametrize("levels", [LEVELS, FLOW], ids=["diffusion", "flow"])
@pytest.mark.parametrize(("every", "begun"), [(1, 0), (2, 0), (3, 0), (2, 3), (1, 1)])
def test_aligned_the_caption_leads_back_at_every_level(
    solver: type[DDIM], levels: list[Level], every: int, begun: int
) -> None:
    """Also with long steps and with levels of fresh noise, where plain steps miss; at no evaluation more."""
    model = nonlinear()
    given = inverted(model, solver, levels, every, begun)
    plain, aligned = nonlinear(), nonlinear()
    found = places(given, solver(), solver(), every, begun)
    assert furthest(edit(plain, given, ONES, Text(SOURCE), solver()), given, begun) > 0.1
    assert furthest(edit(AlignedPredictor(aligned, found), given, ONES, Text(SOURCE), solver()), given, begun) < 1e-10
    assert aligned.evaluations == plain.evaluations


@pytest.mark.parametrize("solver", [DDIM, DPMSolver])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_in_single_precision_too(solver: type[DDIM], prediction_type: PredictionType) -> None:
    exact = inverted(nonlinear(prediction_type), solver, every=2)
    given = Trajectory(exact.latents.float(), LEVELS)
    caption = Text(Embedding(SOURCE.tokens.float()))
    predictor = AlignedPredictor(nonlinear(prediction_type), places(given, solver(), solver(), 2))
    assert furthest(edit(predictor, given, ONES, caption, solver()), given) < 1e-5


def test_from_noise_alone_too() -> None:
    """Velocities have no division by the share of the picture, which is 0 there."""
    model = Known(lambda x_t, _, text: torch.tanh((3 * text + 1) * x_t), "sample")
    given = Trajectory(inverted(model, DDIM, FLOW).latents, PURE)
    found = places(given, DDIM(), DDIM())
    assert all(bool(place.turn.isfinite().all()) for place in found.values())


def test_a_guided_inversion_leads_back_with_its_guidance() -> None:
    """The last step is predicted at the clean level, where an offset of guidance in the latents would have no noise."""
    given = inverted(nonlinear(), DDIM, guidance=2.0)
    guided = Text(SOURCE, EMPTY, 2.0)
    predictor = AlignedPredictor(nonlinear(), places(given, DDIM(), DDIM()))
    assert furthest(edit(predictor, given, ONES, guided), given) < 1e-10
    *_, y_0 = edit(predictor, given, ONES, Text(TARGET, EMPTY, 7.5), guide_every=2)
    assert bool(y_0.isfinite().all())


def test_aligned_is_direct_edits_step_in_a_flow() -> None:
    """v at y_t + r_t, with the timestep of y_t, steps from y_t: y_s = y_t + (s - t) v."""
    given = inverted(nonlinear(), DDIM, FLOW)
    predictor = AlignedPredictor(nonlinear(), places(given, DDIM(), DDIM()))
    y_t = given.latents[-1:]
    for number, ours in zip(range(10, 0, -1), edit(predictor, given, ONES, Text(TARGET)), strict=True):
        t, s, r_t = FLOW[number], FLOW[number - 1], given.latents[number - 1] - given.latents[number]
        seen = nonlinear().predict(y_t + r_t, Level(t.timestep, s.a, s.b), TARGET)
        y_t = y_t + (s.b - t.b) * (seen.eps - seen.x_0)
        torch.testing.assert_close(ours, y_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [DDIM, DPMSolver])
def test_aligned_another_prompt_edits_inside_only(solver: type[DDIM]) -> None:
    given, inside = inverted(nonlinear(), solver), HALF.bool()
    predictor = AlignedPredictor(nonlinear(), places(given, solver(), solver()))
    for y_t, x_t in zip(
        edit(predictor, given, HALF, Text(TARGET, EMPTY, 3.0), solver()), given.latents[:-1].flip(0), strict=True
    ):
        assert torch.equal(y_t[0, :, ~inside], x_t[:, ~inside])
        assert (y_t[0, :, inside] - x_t[:, inside]).abs().max() > 1e-3


def test_levels_of_fresh_noise_have_no_place() -> None:
    given = inverted(nonlinear(), DPMSolver, begun=10)
    assert places(given, DPMSolver(), DPMSolver(), 2, 10) == {}


@pytest.mark.parametrize("solver", [DDIM, DPMSolver])
def test_the_prediction_between_two_latents_steps_from_one_to_the_other(solver: type[DDIM]) -> None:
    """In a row of steps, of which the second order keeps the last."""
    stepping, telling = solver(), solver()
    x = [draw(seed) for seed in range(4)]
    for number, (at, to) in enumerate(zip(LEVELS[6:3:-1], LEVELS[5:2:-1], strict=True)):
        prediction = telling.prediction_between(x[number], at, x[number + 1], to)
        torch.testing.assert_close(at.a * prediction.x_0 + at.b * prediction.eps, x[number], rtol=0, atol=1e-9)
        torch.testing.assert_close(stepping.step(prediction, at, to), x[number + 1], rtol=0, atol=1e-9)


# Values of the source


class Keeper(Known):
    """Its values are the latents and the text that they are of; noise is the mean of the values kept, or 0."""

    def __init__(self) -> None:
        super().__init__(lambda x_t, _, __: torch.full_like(x_t, self.kept))
        self.kept = 0.0
        self.asked: list[tuple[float, Level, float]] = []

    def source_values(self, x_t: Tensor, at: Level, text: Embedding) -> Tensor:
        self.evaluations += 1
        self.asked.append((float(x_t.mean()), at, float(text.tokens.mean())))
        return x_t

    @contextmanager
    def keeping(self, values: object) -> Iterator[None]:
        assert isinstance(values, Tensor)
        self.kept = float(values.mean())
        yield
        self.kept = 0.0


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.01, 1), (0.1, 1), (0.2, 2), (0.21, 3), (1.0, 10)])
def test_the_first_steps_take_the_values_of_the_source_at_their_level(share: float, steps: int) -> None:
    model, given = Keeper(), inverted(nonlinear(), DDIM)
    predictor = KeepingPredictor(model, sources(given, share, {}), SOURCE)
    plain = Known(lambda x_t, _, __: torch.zeros_like(x_t))
    ours = list(edit(predictor, given, ONES, Text(TARGET, EMPTY, 2.0), guide_every=2))
    assert len(ours) == len(list(edit(plain, given, ONES, Text(TARGET, EMPTY, 2.0), guide_every=2)))
    kept = range(10, 10 - steps, -1)
    assert model.asked == [(float(given.latents[t].mean()), LEVELS[t], pytest.approx(0.3)) for t in kept]
    assert model.evaluations == plain.evaluations + steps


def test_one_source_serves_both_prompts_of_different_lengths() -> None:
    model, given = Keeper(), inverted(nonlinear(), DDIM)
    long = Embedding(torch.zeros(1, 2, 1, dtype=torch.float64))
    model.eps = lambda x_t, _, __: torch.zeros_like(x_t)
    predictor = KeepingPredictor(model, sources(given, 0.1, {}), SOURCE)
    made: list[Prediction] = [predictor.predict(given.latents[-1:], LEVELS[-1], text) for text in (EMPTY, long)]
    assert len(made) == 2
    assert len(model.asked) == 1


def test_aligned_the_source_is_where_the_inversion_predicted() -> None:
    given = inverted(nonlinear(), DPMSolver, every=2)
    found = places(given, DPMSolver(), DPMSolver(), 2)
    model = Keeper()
    keeping = KeepingPredictor(model, sources(given, 0.4, found), SOURCE)
    assert len(list(edit(AlignedPredictor(keeping, found), given, ONES, Text(TARGET), DPMSolver()))) == 10
    assert [at for _, at, _ in model.asked] == [LEVELS[8], LEVELS[6]], "two steps share a place"
    assert [mean for mean, _, _ in model.asked] == [float(given.latents[t].mean()) for t in (8, 6)]
