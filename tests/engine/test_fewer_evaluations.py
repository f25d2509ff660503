"""Evaluations that are left out, with networks of known noise: of the inversion, and of the edit's guidance."""

from __future__ import annotations

import pytest
import torch
from known_noise import (
    EMPTY,
    LEVELS,
    ONES,
    SOURCE,
    TARGET,
    Known,
    close,
    constant,
    cosine_levels,
    draw,
    trajectory,
)  # fmt: skip
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, edit, invert, noise_first_levels
from diffedit_cli.engine.process import add_noise
from diffedit_cli.engine.solvers import DDIM, DPMSolver


@pytest.mark.parametrize("every", [2, 3, 10])
def test_longer_steps_ask_less_and_give_every_level(every: int) -> None:
    """With a constant noise nothing is lost."""
    pattern = draw(7)
    walked, asked = (Known(lambda _, __, text: text * pattern) for _ in range(2))
    whole = trajectory(asked, Text(SOURCE))
    given = torch.cat([draw(0), *invert(walked, draw(0), LEVELS, Text(SOURCE), every=every)])
    close(given, whole.latents)
    last = len(LEVELS) - 1
    assert walked.timesteps == [LEVELS[at].timestep for at in sorted(range(last, 0, -every))]
    assert walked.evaluations == -(-last // every) < asked.evaluations == last


def test_between_longer_steps_the_latents_follow_the_probability_flow() -> None:
    """Of Gaussian data, as above: the second-order solver by every second level is as true as DDIM by every one."""
    s, m, levels = 0.5, 0.3, cosine_levels(40)[:37]

    def eps(x_t: Tensor, timestep: float, _: Tensor) -> Tensor:
        a, b = levels[int(timestep) // 10].a, levels[int(timestep) // 10].b
        return b * (x_t - a * m) / (a * a * s * s + b * b)

    def errors(solver: DDIM, every: int) -> Tensor:
        found = torch.cat(list(invert(Known(eps), draw(0), levels, Text(SOURCE), solver, every=every)))
        exact = [level.a * m + (level.a**2 * s * s + level.b**2) ** 0.5 / s * (draw(0) - m) for level in levels[1:]]
        return (found - torch.cat(exact)).abs().amax((1, 2, 3))

    plain, coarse = errors(DDIM(), 1), errors(DPMSolver(), 2)
    assert coarse.max() < plain.max()
    assert coarse[::2].max() < 1.5 * coarse[1::2].max()  # what is interpolated is no worse than what was asked


@pytest.mark.parametrize(("begin", "evaluations"), [(1, 9), (3, 7), (10, 0)])
def test_the_first_levels_may_be_given_noise_unasked(begin: int, evaluations: int) -> None:
    """With a network that finds the very noise again the rest of the way is that of the forward process, too."""
    noise = draw(3)
    model = Known(lambda *_: noise)
    begun = noise_first_levels(draw(0), noise, LEVELS, LEVELS[begin].b)
    given = list(invert(model, draw(0), LEVELS, Text(SOURCE), first_latents=begun))
    close(torch.cat(given), torch.cat([add_noise(draw(0), noise, level) for level in LEVELS[1:]]))
    assert model.evaluations == evaluations


def test_noise_that_the_network_does_not_find_stays() -> None:
    """What it takes for none in the clean picture would be none at every level (arXiv:2410.23530)."""

    def eps(x_t: Tensor, timestep: float, _: Tensor) -> Tensor:
        at = LEVELS[int(timestep) // 10]
        return (x_t - at.a * draw(0)) / at.b  # knows the picture: whatever else is there is noise

    plain, begun = (
        torch.cat(list(invert(Known(eps), draw(0), LEVELS, Text(SOURCE), DPMSolver(), first_latents=begun)))
        for begun in ([], noise_first_levels(draw(0), draw(3), LEVELS, LEVELS[2].b))
    )
    held = [(x_t - level.a * draw(0)) / level.b for x_t, level in zip(begun.split(1), LEVELS[1:], strict=True)]
    close(torch.cat(held), draw(3).expand(len(held), -1, -1, -1))
    assert ((plain[-1] - LEVELS[-1].a * draw(0)[0]) / LEVELS[-1].b).std() < 0.5 * draw(3).std()


def test_the_last_steps_go_without_guidance() -> None:
    model, text = constant(), Text(TARGET, EMPTY, 7.5)
    given = trajectory(constant(), Text(SOURCE))
    walked = list(edit(model, given, ONES, text, unguided=2))
    assert model.evaluations == 2 * 8 + 2
    unguided = list(edit(constant(), given, ONES, text, unguided=10))
    close(unguided[0], next(edit(constant(), given, ONES, Text(TARGET))))
    whole = list(edit(constant(), given, ONES, text))
    close(walked[7], whole[7])
    assert (walked[8] - whole[8]).abs().max() > 0.1


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("unguided", [0, 4])
def test_where_guidance_leads_is_asked_now_and_then(every: int, unguided: int) -> None:
    """With clean latents that depend on the text alone nothing is lost."""

    def eps(x_t: Tensor, timestep: float, text: Tensor) -> Tensor:
        at = LEVELS[int(timestep) // 10]
        return (x_t - at.a * text * draw(7)) / at.b

    given, text = trajectory(constant(), Text(SOURCE)), Text(TARGET, EMPTY, 7.5)
    each, some = Known(eps), Known(eps)
    whole = torch.cat(list(edit(each, given, ONES, text, DPMSolver(), unguided)))
    close(torch.cat(list(edit(some, given, ONES, text, DPMSolver(), unguided, every))), whole)
    guided = 10 - unguided
    assert each.evaluations == 2 * guided + unguided
    assert some.evaluations == 10 + -(-guided // every)


def test_between_two_of_them_the_clean_latents_move_as_before() -> None:
    given, text = trajectory(constant(), Text(SOURCE)), Text(TARGET, EMPTY, 3.0)
    first, second, *_ = edit(constant(), given, ONES, text, guide_every=2)
    close(first, next(edit(constant(), given, ONES, text)))
    higher, lower, lowest = LEVELS[10], LEVELS[9], LEVELS[8]
    push = -2.0 * higher.b / higher.a * (-0.9 - 0.1) * draw(7)  # of x_0 = (x_t - b eps) / a
    eps = -0.9 * draw(7) + lower.timestep / 100
    x_0 = (first - lower.b * eps) / lower.a + push
    close(second, lowest.a * x_0 + lowest.b * (first - lower.a * x_0) / lower.b)
