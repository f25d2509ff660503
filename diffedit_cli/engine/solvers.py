"""From what the network says at one level to the latents at the next: DDIM and DPM-Solver++, noisier or cleaner.

A solver serves one walk along the levels: it may remember what it was told before.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction, step


class DDIM:
    """First order. With `eta` above 0 each step down exchanges part of the noise for fresh noise from `generator`."""

    def __init__(self, eta: float = 0.0, generator: torch.Generator | None = None) -> None:
        """eta is 0 (deterministic) to 1 (as noisy as the forward process backwards, DDPM)."""
        self.eta, self.generator = eta, generator

    def asks_at(self, lower: Level, higher: Level) -> Level:
        """Timestep at which inversion evaluates the network for the step lower -> higher: that of `higher`.

        The edit comes back with the noise predicted there, and eps(x_t, t+1) is closer to it than eps(x_t, t).
        """
        return replace(lower, timestep=higher.timestep)

    def step(self, prediction: Prediction, at: Level, to: Level) -> Tensor:
        """The latents at level `to`, from the prediction for those at level `at`. All shaped alike."""
        prediction = self._refined(prediction, at, to)
        if self.eta > 0:
            noise = torch.randn(prediction.eps.shape, generator=self.generator, dtype=prediction.eps.dtype)
            prediction = renew(prediction, at, to, self.eta, noise.to(prediction.eps.device))
        return step(prediction, to)

    def _refined(self, prediction: Prediction, at: Level, to: Level) -> Prediction:  # noqa: ARG002
        """What is taken for true over the whole step."""
        return prediction


class DPMSolver(DDIM):
    """DPM-Solver++ (2M), second order (arXiv:2211.01095, algorithm 2); with eta = 1 its SDE form (section 5).

    Its update, (b_s / b_t) x_t + a_s (1 - e^-h) D with D the clean latents extrapolated to the middle of the step, is
    DDIM's with D in place of x_0, and the noise that x_t then holds: so it is written here. Steps that have the clean
    level or mere noise at an end or behind them are of first order, for lambda is infinite there.

    What is remembered is the last prediction of the clean latents, and nothing else: neither the latents that it was
    made from nor those that the step gave. An edit predicts from blended latents only, so all that a step combines
    comes from blended ones, and each cell only from its own: what was pasted reaches others through the network alone.
    """

    def __init__(self, eta: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__(eta, generator)
        self._last: tuple[Level, Tensor] | None = None

    def asks_at(self, lower: Level, higher: Level) -> Level:
        """That of `lower`, without which an inversion is of first order; no network knows wholly clean latents."""
        return lower if lower.b > 0 else super().asks_at(lower, higher)

    def _refined(self, prediction: Prediction, at: Level, to: Level) -> Prediction:
        last, self._last = self._last, (at, prediction.x_0)
        if last is None:
            return prediction
        before, x_0 = last
        ahead = (to.log_snr - at.log_snr) / (at.log_snr - before.log_snr) / 2
        if not math.isfinite(ahead):
            return prediction
        D = prediction.x_0 + ahead * (prediction.x_0 - x_0)
        return Prediction(D, prediction.eps + at.a / at.b * (prediction.x_0 - D))


SOLVERS = {"dpm++": DPMSolver, "ddim": DDIM}  # as params.SCHEDULERS


def renew(prediction: Prediction, at: Level, to: Level, eta: float, noise: Tensor) -> Prediction:
    """The prediction for x_t at level t = `at`, part of its noise exchanged for `noise`, for the step down to s = `to`.

    arXiv:2010.02502 Eq. 12 and 16: sigma of b_s eps is new, where sigma^2 = eta^2 (b_s / b_t)^2 (1 - a_t^2 / a_s^2).
    Written as sigma = eta b_s sqrt(1 - (a_t b_s / (a_s b_t))^2), which is the same where a^2 + b^2 = 1, it is
    q(x_s | x_t, x_0) of any Gaussian process at eta = 1, so that it holds for a flow too.
    """
    share = eta * (1 - (at.a * to.b / (to.a * at.b)) ** 2) ** 0.5
    return Prediction(prediction.x_0, (1 - share**2) ** 0.5 * prediction.eps + share * noise)
