"""Regularised inversion: the losses are diffusers', the gradients true, and what it changes is the noise alone."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_diffedit import pipeline_stable_diffusion_diffedit as theirs
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction, PredictionType, interpret
from diffedit_cli.engine.regularisation import Regularisation, auto_correlation, kl_divergence

AT = Level(301, 0.8, 0.6)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, shape: tuple[int, ...] = (1, 4, 32, 32)) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def smooth(shape: tuple[int, ...] = (1, 4, 32, 32)) -> Tensor:
    """Noise that resembles its neighbours, neither of mean 0 nor of variance 1."""
    return torch.nn.functional.avg_pool2d(draw(0, shape), 5, stride=1, padding=2) * 3 + 0.2


def regularisation(
    steps: int = 1, auto_corr: float = 20, rolls: int = 5, kl: float = 20, seed: int = 3
) -> Regularisation:
    return Regularisation(steps, auto_corr, rolls, kl, seeded(seed))


@pytest.mark.parametrize("size", [8, 16, 64])
def test_the_losses_are_those_of_diffusers(size: int) -> None:
    eps = smooth((1, 4, size, size))
    expected = theirs.auto_corr_loss(eps, generator=seeded())
    torch.testing.assert_close(auto_correlation(eps, seeded()), expected)
    torch.testing.assert_close(kl_divergence(eps), theirs.kl_divergence(eps))


def test_pictures_beside_each_other_do_not_mix() -> None:
    """Theirs takes mean and variance over the whole batch."""
    one, other = smooth(), 5 * draw(1)
    torch.testing.assert_close(kl_divergence(torch.cat([one, other])), kl_divergence(one) + kl_divergence(other))


def test_gradients_are_those_of_finite_differences() -> None:
    eps, h = smooth((1, 2, 16, 16)).double(), 1e-6
    moved = regularisation(auto_corr=1, rolls=1, kl=0)(Prediction(eps, eps), AT).eps
    pulled = regularisation(auto_corr=0, kl=1)(Prediction(eps, eps), AT).eps
    for index in ((0, 0, 3, 5), (0, 1, 15, 0)):
        shifted = eps.clone()
        shifted[index] += h
        slope = (auto_correlation(shifted, seeded()) - auto_correlation(eps, seeded())) / h
        assert float(eps[index] - moved[index]) == pytest.approx(float(slope), rel=1e-3)
        slope = (kl_divergence(shifted) - kl_divergence(eps)) / h
        assert float(eps[index] - pulled[index]) == pytest.approx(float(slope), rel=1e-3)


def test_it_works_in_inference_mode_and_leaves_no_graph() -> None:
    expected = regularisation()(Prediction(draw(1), smooth()), AT)
    with torch.inference_mode():
        ours = regularisation()(Prediction(draw(1), smooth()), AT)
        assert torch.equal(ours.eps + 0, expected.eps)
    assert not ours.eps.requires_grad
    assert not ours.x_0.requires_grad


def test_the_noise_becomes_more_like_noise_and_the_latents_stay() -> None:
    before = Prediction(draw(1), smooth())
    after = regularisation(steps=20)(before, AT)
    for loss in (kl_divergence, lambda eps: auto_correlation(eps, seeded(9))):
        assert loss(after.eps) < 0.8 * loss(before.eps)
    torch.testing.assert_close(AT.a * after.x_0 + AT.b * after.eps, AT.a * before.x_0 + AT.b * before.eps)


@pytest.mark.parametrize(("auto_corr", "kl", "rolls"), [(20, 0, 5), (0, 20, 5), (20, 20, 1), (10, 20, 5), (20, 10, 5)])
def test_each_weight_counts(auto_corr: float, kl: float, rolls: int) -> None:
    usual = regularisation()(Prediction(draw(1), smooth()), AT).eps
    other = regularisation(auto_corr=auto_corr, kl=kl, rolls=rolls)(Prediction(draw(1), smooth()), AT).eps
    assert (usual - other).abs().max() > 1e-4


def test_only_the_shifts_are_drawn() -> None:
    before = Prediction(draw(1), smooth())
    assert torch.equal(regularisation(seed=1)(before, AT).eps, regularisation(seed=1)(before, AT).eps)
    assert not torch.equal(regularisation(seed=1)(before, AT).eps, regularisation(seed=2)(before, AT).eps)
    assert torch.equal(
        regularisation(seed=1, auto_corr=0)(before, AT).eps, regularisation(seed=2, auto_corr=0)(before, AT).eps
    )


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample", "flow_prediction"])
def test_it_does_not_depend_on_what_the_network_predicts(prediction_type: PredictionType) -> None:
    """Theirs does: it steps along the network's output, whose gradient is a fraction of the noise's."""
    at = Level(400, 0.6, 0.4) if prediction_type == "flow_prediction" else AT
    x_0, eps = draw(1), smooth()
    x_t = at.a * x_0 + at.b * eps
    outputs = {"v_prediction": at.a * eps - at.b * x_0, "sample": x_0, "flow_prediction": eps - x_0}
    ours = regularisation()(interpret(outputs[prediction_type], x_t, at, prediction_type), at)
    expected = regularisation()(interpret(eps, x_t, at, "epsilon"), at)
    torch.testing.assert_close(ours.eps, expected.eps, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.x_0, expected.x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 256), (3, 85), (64, 9), (17, 33)])
def test_any_shape_of_picture(size: tuple[int, int]) -> None:
    before = Prediction(draw(1, (1, 4, *size)), draw(2, (1, 4, *size)) + 0.5)
    after = regularisation(steps=2)(before, AT)
    assert after.eps.isfinite().all()
    assert (after.eps - before.eps).abs().max() > 0
