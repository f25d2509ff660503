"""The diffusion process: noise levels, predictions of clean latents and noise, and the step between two levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class Level:
    """Noise level of a diffusion process: x_t = a * x_0 + b * eps.

    Attributes:
        timestep: Timestep that the network is conditioned on: an integer in diffusion, any number in flow matching.
        a: Factor of the clean latents, 0 to 1. Diffusion has a^2 + b^2 = 1, flow matching a = 1 - t.
        b: Factor of the noise, 0 to 1. Flow matching has b = t.
    """

    timestep: int | float
    a: float
    b: float

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, lambda = log(a / b): inf for clean latents, -inf for pure noise."""
        if self.a > 0 and self.b > 0:
            return math.log(self.a / self.b)
        return math.inf if self.a > 0 else -math.inf


@dataclass(frozen=True)
class Prediction:
    """Clean latents and noise that the network predicts in x_t.

    Attributes:
        x_0: Clean latents, shaped like x_t.
        eps: Noise, shaped like x_t.
    """

    x_0: Tensor
    eps: Tensor

    def towards(self, other: Prediction, guidance: float) -> Prediction:
        """Returns the guided prediction of classifier-free guidance (arXiv:2207.12598 Eq. 6).

        Args:
            other: Prediction for the prompt; this one is that for the negative prompt.
            guidance: Guidance scale: 0 gives this prediction, 1 gives `other`, more extrapolates beyond it.

        Returns:
            This prediction plus `guidance` times its difference to `other`.
        """
        return Prediction(self.x_0 + guidance * (other.x_0 - self.x_0), self.eps + guidance * (other.eps - self.eps))

    def shift(self, by: Tensor, at: Level) -> Prediction:
        """Returns the prediction with shifted clean latents, and its noise changed so that both still add up to x_t.

        Args:
            by: Shift of the clean latents, shaped like them.
            at: Noise level of x_t, with b above 0.

        Returns:
            Prediction for the same x_t.
        """
        return Prediction(self.x_0 + by, self.eps - at.a / at.b * by)

    def chunk(self) -> tuple[Prediction, Prediction]:
        """Returns the two halves of a batch, which has an even number of rows."""
        (x_0, other_x_0), (eps, other_eps) = self.x_0.chunk(2), self.eps.chunk(2)
        return Prediction(x_0, eps), Prediction(other_x_0, other_eps)


def interpret(output: Tensor, x_t: Tensor, at: Level, prediction_type: PredictionType) -> Prediction:
    """Returns the raw output of a network as clean latents and noise.

    Sources: arXiv:2202.00512, appendix D, for v; arXiv:2209.03003 Eq. 1 for the velocity eps - x_0 of a flow.

    Args:
        output: (B, C, h, w) output of the network for `x_t`.
        x_t: (B, C, h, w) latents at level `at`.
        at: Noise level of `x_t`; a^2 + b^2 = 1 for "v_prediction", a + b = 1 for "flow_prediction".
        prediction_type: Quantity that the network predicts.

    Returns:
        Clean latents and noise, (B, C, h, w) each.
    """
    if prediction_type == "epsilon":
        return Prediction((x_t - at.b * output) / at.a, output)
    if prediction_type == "sample" and at.b == 0:
        return Prediction(x_t / at.a, torch.zeros_like(x_t))  # limit of E[eps | x_t] for b -> 0: no noise
    if prediction_type == "sample":
        return Prediction(output, (x_t - at.a * output) / at.b)
    if prediction_type == "flow_prediction":
        return Prediction(x_t - at.b * output, x_t + at.a * output)
    return Prediction(at.a * x_t - at.b * output, at.a * output + at.b * x_t)


def between(x_t: Tensor, at: Level, x_s: Tensor, to: Level) -> Prediction:
    """Returns the prediction by which `step` leads from x_t to x_s, for the latents at the levels between them.

    It solves x_t = a_t x_0 + b_t eps and x_s = a_s x_0 + b_s eps for x_0 and eps.

    Args:
        x_t: (B, C, h, w) latents at level `at`.
        at: Noise level of `x_t`.
        x_s: (B, C, h, w) latents at level `to`.
        to: Noise level of `x_s`, with another signal-to-noise ratio than `at`.

    Returns:
        Clean latents and noise, (B, C, h, w) each.
    """
    determinant = at.a * to.b - to.a * at.b
    return Prediction((to.b * x_t - at.b * x_s) / determinant, (at.a * x_s - to.a * x_t) / determinant)


def add_noise(x_0: Tensor, noise: Tensor, to: Level) -> Tensor:
    """Returns noisy latents x_t = a x_0 + b eps of the forward process.

    Args:
        x_0: (1, C, h, w) or (B, C, h, w) clean latents.
        noise: (B, C, h, w) independent standard normal noise eps.
        to: Noise level of the result.

    Returns:
        Latents x_t (B, C, h, w).
    """
    return to.a * x_0 + to.b * noise


def step(prediction: Prediction, to: Level) -> Tensor:
    """Returns the latents at another level, noisier or cleaner, by the deterministic step.

    In diffusion this is the step of DDIM (arXiv:2010.02502 Eq. 12 with sigma = 0). In a flow it is the Euler step,
    since (1 - s) x_0 + s eps = x_t + (s - t) (eps - x_0).

    Args:
        prediction: Clean latents and noise, (B, C, h, w) each, predicted at the level where the step begins.
        to: Noise level where the step ends.

    Returns:
        Latents (B, C, h, w) at level `to`.
    """
    return to.a * prediction.x_0 + to.b * prediction.eps
