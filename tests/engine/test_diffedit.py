"""The paper's three steps with networks of known noise: every expected value is a formula."""

from __future__ import annotations

import pytest
import torch
from known_noise import (
    EMPTY,
    HALF,
    LEVELS,
    ONES,
    SHAPE,
    SOURCE,
    TARGET,
    ZEROS,
    Known,
    close,
    constant,
    cosine_levels,
    draw,
    trajectory,
)
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, binarise, contrast_maps, edit, invert, until_stable
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.process import PredictionType
from diffedit_cli.engine.solvers import DDIM
from diffedit_cli.pipeline.params import Params, levels_up_to

# Inversion and edit


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_inversion_with_a_constant_noise_is_exact(guidance: float) -> None:
    text = Text(SOURCE, negative=EMPTY, guidance=guidance)
    given = trajectory(constant(), text)
    *_, y_0 = edit(constant(), given, ONES, text)
    assert (given.latents[-1] - draw(0)).abs().max() > 0.5
    close(y_0, draw(0))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_inversion_follows_the_probability_flow(prediction_type: PredictionType) -> None:
    """For Gaussian data, mean m and deviation s, it is x_t = a m + sqrt(a^2 s^2 + b^2) / s (x_0 - m)."""
    s = 0.5

    def error(steps: int) -> float:
        levels = cosine_levels(steps)
        at = {level.timestep: level for level in levels}

        def eps(x_t: Tensor, timestep: float, m: Tensor) -> Tensor:
            a, b = at[timestep].a, at[timestep].b
            return b * (x_t - a * m) / (a * a * s * s + b * b)

        given = trajectory(Known(eps, prediction_type), Text(SOURCE), levels)
        a, b, m = levels[-1].a, levels[-1].b, float(SOURCE.tokens)
        exact = a * m + (a * a * s * s + b * b) ** 0.5 / s * (draw(0) - m)
        return float((given.latents[-1] - exact).abs().max())

    assert error(100) < 0.05
    assert error(200) / error(100) == pytest.approx(0.5, abs=0.05)


def test_inversion_tells_the_network_the_level_it_goes_to_and_edit_the_level_it_is_at() -> None:
    inverting, editing = constant(), constant()
    given = trajectory(inverting, Text(SOURCE))
    assert inverting.timesteps == [level.timestep for level in LEVELS[1:]]
    assert len(list(edit(editing, given, ONES, Text(TARGET)))) == len(LEVELS) - 1
    assert editing.timesteps == [level.timestep for level in reversed(LEVELS[1:])]


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_guidance_steers_away_from_the_negative(guidance: float) -> None:
    """With constant noises a guided walk is the walk of the one guided noise u + g (t - u)."""
    steered = Text(Embedding(EMPTY.tokens + guidance * (SOURCE.tokens - EMPTY.tokens)))
    guided = Text(SOURCE, EMPTY, guidance)
    given = trajectory(constant(), steered)
    close(trajectory(constant(), guided).latents, given.latents)
    for ours, expected in zip(
        edit(constant(), given, ONES, guided), edit(constant(), given, ONES, steered), strict=True
    ):
        close(ours, expected)


def test_an_all_zero_mask_returns_the_picture_bit_for_bit() -> None:
    given = trajectory(constant(), Text(SOURCE))
    *_, y_0 = edit(constant(), given, ZEROS, Text(TARGET, SOURCE, 7.5))
    assert torch.equal(y_0, given.latents[:1])


def test_the_background_is_that_of_the_same_level_at_every_level() -> None:
    given = trajectory(constant(), Text(SOURCE))
    inside = HALF.bool()
    levels = list(edit(constant(), given, HALF, Text(TARGET, SOURCE, 7.5)))
    for y_t, x_t in zip(levels, given.latents[:-1].flip(0), strict=True):
        assert torch.equal(y_t[0, :, ~inside], x_t[:, ~inside])
        assert (y_t[0, :, inside] - x_t[:, inside]).abs().min() > 1e-3


def test_fresh_noise_changes_the_inside_only() -> None:
    given, inside = trajectory(constant(), Text(SOURCE)), HALF.bool()
    ends = []
    for seed in (0, 0, 1):
        solver = DDIM(1.0, torch.Generator().manual_seed(seed))
        levels = list(edit(constant(), given, HALF, Text(TARGET, SOURCE, 7.5), solver))
        for y_t, x_t in zip(levels, given.latents[:-1].flip(0), strict=True):
            assert torch.equal(y_t[0, :, ~inside], x_t[:, ~inside])
        ends.append(levels[-1][0, :, inside])
    assert torch.equal(ends[0], ends[1])
    assert (ends[0] - ends[2]).abs().min() > 1e-6


def test_a_grey_cell_is_repainted_in_its_share_of_the_steps_the_last_ones() -> None:
    """Of 10 steps: 0.25 in two, 0.3 in three; what is kept before is the background of the same level."""
    given = trajectory(constant(), Text(SOURCE))
    values = (0.0, 0.05, 0.25, 0.3, 0.99, 1.0)
    M = torch.tensor(values, dtype=torch.float64).expand(SHAPE[2:])
    levels = list(edit(constant(), given, M, Text(TARGET)))
    kept = [
        [torch.equal(y_t[..., column], x_t[..., column]) for column in range(len(values))]
        for y_t, x_t in zip(levels, given.latents[:-1, None].flip(0), strict=True)
    ]
    assert [10 - sum(column) for column in zip(*kept, strict=True)] == [0, 0, 2, 3, 9, 10]
    assert all(list(column) == sorted(column, reverse=True) for column in zip(*kept, strict=True))


def test_a_mask_of_black_and_white_is_the_papers_blend() -> None:
    given, query = trajectory(constant(), Text(SOURCE)), Text(TARGET, SOURCE, 7.5)
    y_t = given.latents[-1:]
    for step, ours in enumerate(edit(nonlinear(), given, HALF, query)):
        higher, lower = LEVELS[-1 - step], LEVELS[-2 - step]
        negative, positive = (nonlinear().predict(y_t, higher, text) for text in (SOURCE, TARGET))
        y_t = DDIM().step(negative.towards(positive, 7.5), at=higher, to=lower)
        y_t = HALF * y_t + (1 - HALF) * given.latents[-2 - step]
        close(ours, y_t)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_fixed_points_bring_the_picture_back(guidance: float) -> None:
    """Each repetition costs an evaluation a step and brings the round trip nearer."""
    text = Text(SOURCE, EMPTY, guidance)

    def error(repetitions: int) -> float:
        model, x_0, levels = nonlinear(), draw(0), LEVELS[:8]
        walked = invert(model, x_0, levels, text, fixed_point=repetitions)
        given = Trajectory(torch.cat([x_0, *walked]), levels)
        assert model.evaluations == (len(levels) - 1) * (1 + repetitions) * (1 if guidance == 1 else 2)
        *_, y_0 = edit(nonlinear(), given, ONES, text)
        return float((y_0 - x_0).abs().max())

    plain, once, often, exact = (error(repetitions) for repetitions in (0, 1, 5, 40))
    assert plain > once > often > exact
    assert exact < 1e-6


def test_a_trajectory_has_a_level_for_each_of_its_latents() -> None:
    with pytest.raises(ValueError, match="4 latents for 5 levels"):
        Trajectory(draw(0, n=4), LEVELS[:5])


@pytest.mark.parametrize(
    ("invert_guidance", "guidance", "spent"),
    [(1.0, 7.5, (20, 40, 80)), (7.5, 7.5, (20, 80, 80)), (1.0, 1.0, (20, 40, 40))],
)
def test_evaluations(invert_guidance: float, guidance: float, spent: tuple[int, int, int]) -> None:
    """At its defaults 2n + 40 + 80 = 140, where diffusers' pipeline spends 200; at ours 74."""
    params = Params(invert_guidance=invert_guidance, guidance=guidance, steps=50, strength=0.8, mask_strength=0.5)
    levels = cosine_levels(params.steps)
    at = levels[levels_up_to(params.mask_strength, params.steps)]
    masking, inverting, editing = constant(), constant(), constant()
    for _ in contrast_maps(masking, draw(0), at, Text(SOURCE), Text(TARGET), draw(1, params.most_maps)):
        pass
    levels = levels[: levels_up_to(params.strength, params.steps) + 1]
    given = trajectory(inverting, Text(SOURCE, EMPTY, params.invert_guidance), levels)
    for _ in edit(editing, given, HALF, Text(TARGET, SOURCE, params.guidance)):
        pass
    assert (masking.evaluations, inverting.evaluations, editing.evaluations) == spent


# The contrast map

AT = LEVELS[5]
NOISE = draw(1, n=10)


def noisy(x_0: Tensor = draw(0)) -> Tensor:
    return AT.a * x_0 + AT.b * NOISE


def maps(model: Known, R: Text = Text(SOURCE), Q: Text = Text(TARGET), noise: Tensor = NOISE) -> Tensor:
    return torch.stack(list(contrast_maps(model, draw(0), AT, R, Q, noise)))


def tanh(x_t: Tensor, timestep: float, text: Tensor) -> Tensor:
    return torch.tanh((3 * text + 1) * x_t) + timestep / 100


def nonlinear(prediction_type: PredictionType = "epsilon") -> Known:
    return Known(tanh, prediction_type)


def test_every_map_comes_from_a_noise_of_its_own() -> None:
    model = Known(lambda x_t, _, text: text * x_t)
    close(maps(model), 1.2 * noisy().abs().mean(dim=1))
    assert set(model.timesteps) == {AT.timestep}


def test_differences_of_either_sign_do_not_cancel() -> None:
    """The sign of the difference changes with the channel and with the noise; its size is 1.2 everywhere."""
    signs = draw(5).sign()
    model = Known(lambda x_t, _, text: text * signs * x_t.mean(dim=(1, 2, 3), keepdim=True).sign())
    assert len({float(sign) for sign in noisy().mean(dim=(1, 2, 3)).sign()}) == 2
    close(maps(model), torch.full((10, *SHAPE[2:]), 1.2, dtype=torch.float64))


@pytest.mark.parametrize("at_once", [1, 3, 10, 64])
def test_maps_do_not_depend_on_how_many_are_made_at_once(at_once: int) -> None:
    model = nonlinear()
    some = torch.stack(list(contrast_maps(model, draw(0), AT, Text(SOURCE), Text(TARGET), NOISE, at_once)))
    close(some, maps(nonlinear()))
    assert len(model.timesteps) == 2 * -(-10 // at_once), "calls"


def spots(*places: int) -> Tensor:
    """A map (4, 4) that is 1 in these cells and 0 elsewhere."""
    cells = torch.zeros(16)
    cells[list(places)] = 1
    return cells.view(4, 4)


@pytest.mark.parametrize(
    ("drawn", "used"),
    [
        ([spots(1), spots(1), spots(2), spots(3)], 2),
        ([spots(1), spots(2), spots(2), spots(1)], 4),
        ([spots(1), spots(2), spots(3), spots(4), spots(1), spots(2)], 6),
        ([spots(), spots(), spots(1), spots(1)], 2),
        ([spots(0, 1, 2, 3, 4), spots(0, 1, 2, 3), spots(1), spots(1)], 2),
        ([spots(0, 1, 2, 3), spots(0, 1, 2), spots(0, 1, 2), spots(0, 1, 2, 3)], 4),
    ],
    ids=["alike", "swapped", "never", "without contrast", "four of five", "three of four"],
)
def test_maps_are_drawn_until_their_halves_agree(drawn: list[Tensor], used: int) -> None:
    """Of 16 cells up to five are marked: the clamp, three times the mean, leaves them above the threshold."""
    left = iter(drawn)
    assert len(list(until_stable(left))) == used
    assert len(list(left)) == len(drawn) - used


@pytest.mark.parametrize("n", [1, 5, 10])
@pytest.mark.parametrize(("negative", "rows"), [(None, 2), (EMPTY, 4)])
def test_negatives_double_the_evaluations(n: int, negative: Embedding | None, rows: int) -> None:
    model = constant()
    R, Q = Text(SOURCE, negative, 7.5), Text(TARGET, negative, 7.5)
    assert len(maps(model, R, Q, NOISE[:n])) == n
    assert model.evaluations == rows * n


@pytest.mark.parametrize("guidance", [3.0, 7.5])
def test_guidance_with_one_negative_only_scales_the_map(guidance: float) -> None:
    R, Q = Text(SOURCE, EMPTY, guidance), Text(TARGET, EMPTY, guidance)
    close(maps(nonlinear(), R, Q), guidance * maps(nonlinear()))
    M = binarise(maps(nonlinear()).mean(dim=0), clamp=2.0)
    assert 0.2 < M.double().mean() < 0.8
    assert torch.equal(binarise(maps(nonlinear(), R, Q).mean(dim=0), clamp=2.0), M)


def test_different_negatives_enter_the_map() -> None:
    other, g = Embedding(EMPTY.tokens - 2), 7.5
    source, target, empty, far = (tanh(noisy(), 0, text.tokens[..., None]) for text in (SOURCE, TARGET, EMPTY, other))
    reference, query = empty + g * (source - empty), far + g * (target - far)
    ours = maps(nonlinear(), Text(SOURCE, EMPTY, g), Text(TARGET, other, g))
    close(ours, (query - reference).abs().mean(dim=1))


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_the_map_does_not_depend_on_what_the_network_predicts(prediction_type: PredictionType) -> None:
    close(maps(nonlinear(prediction_type)), maps(nonlinear()))


def test_the_mask_of_what_a_v_network_puts_out_is_that_of_its_noise() -> None:
    """v = (eps - b x_t) / a at fixed x_t, so the differences are proportional, and so are those of x_0."""
    noise = maps(nonlinear()).mean(dim=0)
    for factor in (1 / AT.a, AT.b / AT.a):
        assert torch.equal(binarise(factor * noise, clamp=2.0), binarise(noise, clamp=2.0))


# The mask


def contrast_map(seed: int) -> Tensor:
    return torch.rand((16, 16), generator=torch.Generator().manual_seed(seed)) ** 3


@pytest.mark.parametrize("clamp", [1.5, 2.0, 3.0])
def test_binarise_is_diffusers_formula(clamp: float) -> None:
    for seed in range(5):
        limit = contrast_map(seed).mean() * clamp
        theirs = torch.where(contrast_map(seed).clamp(0, limit) / limit <= 0.5, 0, 1)
        assert 0 < theirs.sum() < theirs.numel()
        assert torch.equal(binarise(contrast_map(seed), clamp).long(), theirs)


def test_a_cell_at_the_threshold_is_kept() -> None:
    assert not binarise(torch.ones(4, 4), clamp=2.0).any()
    assert binarise(torch.ones(4, 4), clamp=2.0, threshold=0.499).all()


@pytest.mark.parametrize("brightness", [1e-4, 1e4])
def test_only_a_maps_own_mean_counts(brightness: float) -> None:
    assert torch.equal(binarise(brightness * contrast_map(0)), binarise(contrast_map(0)))


def test_an_extreme_does_not_spread_over_its_neighbours() -> None:
    contrast = torch.zeros(16, 16)
    contrast[5, 9] = 1e6  # 85 times the limit: unclamped it would cover 7 x 7 of these pixels
    M = binarise(contrast, size=(64, 64))
    assert M[20:24, 36:40].sum() == M.sum() > 8


@pytest.mark.parametrize("size", [None, (40, 24)])
def test_no_contrast_is_an_empty_mask(size: tuple[int, int] | None) -> None:
    M = binarise(torch.zeros(10, 6), size=size)
    assert (M.dtype, M.shape) == (torch.bool, size or (10, 6))
    assert not M.any()


def test_a_mask_of_a_given_size_has_the_same_place() -> None:
    contrast = torch.full((10, 6), 0.01)
    contrast[6:8, 1:3] = 1.0
    assert torch.equal(binarise(contrast, size=(10, 6)), binarise(contrast))
    M = binarise(contrast, size=(80, 48))
    assert (M.dtype, M.shape) == (torch.bool, (80, 48))
    rows, columns = M.nonzero().T
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (48 + 63, 8 + 23)
    assert M[48:64, 8:24].sum() == M.sum() > 0.7 * 16 * 16


def test_a_higher_threshold_gives_a_smaller_mask() -> None:
    wide, usual, narrow = (binarise(contrast_map(0), threshold=t) for t in (0.25, 0.5, 0.75))
    assert wide.sum() > usual.sum() > narrow.sum() > 0
    assert torch.equal(wide & usual, usual)
    assert torch.equal(usual & narrow, narrow)


def test_a_mask_is_the_same_after_other_pictures() -> None:
    def mask(seed: int) -> Tensor:
        maps = list(contrast_maps(model, draw(seed), AT, Text(SOURCE), Text(TARGET), NOISE))
        return binarise(torch.stack(maps).mean(dim=0), clamp=2.0)

    model = nonlinear()
    alone = mask(0)
    others = [mask(20), mask(21)]
    assert torch.equal(mask(0), alone)
    assert all((other != alone).any() for other in others)
