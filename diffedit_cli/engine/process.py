"""The diffusion process: noise levels, what a prediction means, and the one step that serves both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class Level:
    """One noise level: x_t = a * x_0 + b * eps. `timestep` is the label that the network is given.

    Diffusion has a^2 + b^2 = 1 and whole labels; flow matching has a = 1 - t, b = t and labels in between.
    """

    timestep: int | float
    a: float
    b: float

    @property
    def log_snr(self) -> float:
        """lambda = log(a / b), half the logarithm of the signal-to-noise ratio; inf where clean, -inf in mere noise."""
        if self.a > 0 and self.b > 0:
            return math.log(self.a / self.b)
        return math.inf if self.a > 0 else -math.inf


@dataclass(frozen=True)
class Prediction:
    """What the network says of x_t: the clean latents and the noise in it, each shaped like x_t."""

    x_0: Tensor
    eps: Tensor

    def towards(self, other: Prediction, guidance: float) -> Prediction:
        """Classifier-free guidance (arXiv:2207.12598 Eq. 6): from this, the negative, `guidance` times to `other`."""
        return Prediction(self.x_0 + guidance * (other.x_0 - self.x_0), self.eps + guidance * (other.eps - self.eps))

    def moved(self, by: Tensor, at: Level) -> Prediction:
        """The same x_t at this level, taken for clean latents that are by so much others."""
        return Prediction(self.x_0 + by, self.eps - at.a / at.b * by)

    def chunk(self) -> tuple[Prediction, Prediction]:
        """The two halves of a batch that held two."""
        (x_0, other_x_0), (eps, other_eps) = self.x_0.chunk(2), self.eps.chunk(2)
        return Prediction(x_0, eps), Prediction(other_x_0, other_eps)


def interpret(output: Tensor, x_t: Tensor, at: Level, prediction_type: PredictionType) -> Prediction:
    """A network's raw output for x_t as clean latents and noise.

    arXiv:2202.00512, appendix D, for v; arXiv:2209.03003 Eq. 1 for a flow's velocity, eps - x_0, where a + b = 1.
    """
    if prediction_type == "epsilon":
        return Prediction((x_t - at.b * output) / at.a, output)
    if prediction_type == "sample" and at.b == 0:
        return Prediction(x_t / at.a, torch.zeros_like(x_t))  # E[eps | x_t] where b goes to 0: clean latents hold none
    if prediction_type == "sample":
        return Prediction(output, (x_t - at.a * output) / at.b)
    if prediction_type == "flow_prediction":
        return Prediction(x_t - at.b * output, x_t + at.a * output)
    return Prediction(at.a * x_t - at.b * output, at.a * output + at.b * x_t)


def between(x_t: Tensor, at: Level, x_s: Tensor, to: Level) -> Prediction:
    """The one prediction by which `step` leads from x_t at a level to x_s at another: to be followed in between.

    Both hold the same x_0 and eps then, x_t = a_t x_0 + b_t eps and x_s = a_s x_0 + b_s eps.
    """
    determinant = at.a * to.b - to.a * at.b
    return Prediction((to.b * x_t - at.b * x_s) / determinant, (at.a * x_s - to.a * x_t) / determinant)


def add_noise(x_0: Tensor, noise: Tensor, to: Level) -> Tensor:
    """x_t of the forward process, for independent noise."""
    return to.a * x_0 + to.b * noise


def step(prediction: Prediction, to: Level) -> Tensor:
    """The deterministic step to another level, noisier or cleaner: DDIM's (arXiv:2010.02502 Eq. 12 with sigma = 0),
    and for a flow Euler's, since (1 - s) x_0 + s eps = x_t + (s - t) (eps - x_0)."""
    return to.a * prediction.x_0 + to.b * prediction.eps
