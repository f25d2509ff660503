"""From what the network says at one level to the latents at the next: DDIM, with noise of its own if wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction, step


class DDIM:
    """First order. With `eta` above 0 each step down exchanges part of the noise for fresh noise from `generator`."""

    def __init__(self, eta: float = 0.0, generator: torch.Generator | None = None) -> None:
        """eta is 0 (deterministic) to 1 (as noisy as the forward process backwards, DDPM)."""
        self.eta, self.generator = eta, generator

    def step(self, prediction: Prediction, at: Level, to: Level) -> Tensor:
        """The latents at level `to`, from the prediction for those at level `at`. All shaped alike."""
        if self.eta > 0:
            noise = torch.randn(prediction.eps.shape, generator=self.generator, dtype=prediction.eps.dtype)
            prediction = renew(prediction, at, to, self.eta, noise.to(prediction.eps.device))
        return step(prediction, to)


def renew(prediction: Prediction, at: Level, to: Level, eta: float, noise: Tensor) -> Prediction:
    """The prediction for x_t at level t = `at`, part of its noise exchanged for `noise`, for the step down to s = `to`.

    arXiv:2010.02502 Eq. 12 and 16: sigma of b_s eps is new, where sigma^2 = eta^2 (b_s / b_t)^2 (1 - a_t^2 / a_s^2).
    Written as sigma = eta b_s sqrt(1 - (a_t b_s / (a_s b_t))^2), which is the same where a^2 + b^2 = 1, it is
    q(x_s | x_t, x_0) of any Gaussian process at eta = 1, so that it holds for a flow too.
    """
    share = eta * (1 - (at.a * to.b / (to.a * at.b)) ** 2) ** 0.5
    return Prediction(prediction.x_0, (1 - share**2) ** 0.5 * prediction.eps + share * noise)
