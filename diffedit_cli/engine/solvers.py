"""Solvers that lead from one noise level to the next, noisier or cleaner: DDIM and DPM-Solver++.

A solver may keep earlier predictions, so that each pass along the noise levels needs a solver of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction, between, step
from diffedit_cli.engine.transfer import to_device


class DDIM:
    """First-order solver (arXiv:2010.02502): deterministic, or with fresh noise in each step down."""

    def __init__(self, eta: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Initialises a solver for one pass along the noise levels.

        Args:
            eta: Amount of fresh noise that replaces predicted noise in each step down, from 0 (deterministic, the
                default) to 1 (as in DDPM, the posterior of the forward process).
            generator: CPU generator of the fresh noise. Default: torch's global generator.
        """
        self.eta, self.generator = eta, generator

    def asks_at(self, lower: Level, higher: Level) -> Level:
        """Returns the level at which inversion evaluates the network for the step lower -> higher.

        It has the timestep of `higher`: the edit comes back with the noise predicted there, and eps(x_t, t+1) is closer
        to that noise than eps(x_t, t).

        Args:
            lower: Noise level of the latents x_t, where the step begins.
            higher: Noise level where the step ends.

        Returns:
            Level with a and b of `lower` and the timestep of `higher`.
        """
        return replace(lower, timestep=higher.timestep)

    def step(self, prediction: Prediction, at: Level, to: Level) -> Tensor:
        """Returns the latents at level `to`.

        Args:
            prediction: Clean latents and noise, (B, C, h, w) each, predicted for the latents at level `at`.
            at: Noise level where the step begins.
            to: Noise level where the step ends: lower than `at` if `eta` is above 0.

        Returns:
            Latents (B, C, h, w) at level `to`.
        """
        prediction = self._refined(prediction, at, to)
        if self.eta > 0:
            noise = torch.randn(prediction.eps.shape, generator=self.generator, dtype=prediction.eps.dtype)
            prediction = renew(prediction, at, to, self.eta, to_device(noise, prediction.eps.device))
        return step(prediction, to)

    def prediction_between(self, x_t: Tensor, at: Level, x_s: Tensor, to: Level) -> Prediction:
        """Returns the prediction from which `step` without fresh noise leads from x_t to x_s; counts as a step.

        Args:
            x_t: (B, C, h, w) latents at level `at`.
            at: Noise level where the step begins.
            x_s: (B, C, h, w) latents at level `to`.
            to: Noise level where the step ends.

        Returns:
            Clean latents and noise, (B, C, h, w) each.
        """
        return self._unrefined(between(x_t, at, x_s, to), at, to)

    def _refined(self, prediction: Prediction, at: Level, to: Level) -> Prediction:  # noqa: ARG002
        """Returns the prediction that is held constant over the step."""
        return prediction

    def _unrefined(self, constant: Prediction, at: Level, to: Level) -> Prediction:  # noqa: ARG002
        """Returns the prediction that is refined to one held constant over the step: inverse of `_refined`."""
        return constant


class DPMSolver(DDIM):
    """Second-order solver DPM-Solver++ (2M) (arXiv:2211.01095, algorithm 2); with eta = 1 its SDE form (section 5).

    Its update is (b_s / b_t) x_t + a_s (1 - e^-h) D, with D the clean latents extrapolated to the middle of the step.
    This equals the step of DDIM with D in place of x_0 and the noise that x_t then contains, and is implemented so.
    Steps that begin or end at the clean level or at pure noise, or follow a step that began there, are of first order,
    because lambda is infinite at these levels.

    The solver keeps the last prediction of the clean latents, but neither the latents it was predicted from nor those
    that the step gave. An edit predicts from blended latents only, so every term of a step comes from blended latents,
    and each cell depends on terms of the same cell only: the pasted background reaches other cells through the network
    alone.
    """

    def __init__(self, eta: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Initialises a solver for one pass along the noise levels.

        Args:
            eta: Amount of fresh noise in each step down, from 0 (deterministic, the default) to 1 (SDE).
            generator: CPU generator of the fresh noise. Default: torch's global generator.
        """
        super().__init__(eta, generator)
        self._last: tuple[Level, Tensor] | None = None

    def asks_at(self, lower: Level, higher: Level) -> Level:
        """Returns the level at which inversion evaluates the network for the step lower -> higher.

        It is `lower` itself: with another timestep the inversion would be of first order. At the clean level it is that
        of DDIM, because no network is trained on clean latents.

        Args:
            lower: Noise level of the latents x_t, where the step begins.
            higher: Noise level where the step ends.

        Returns:
            `lower`, or with the timestep of `higher` if `lower` is clean.
        """
        return lower if lower.b > 0 else super().asks_at(lower, higher)

    def _refined(self, prediction: Prediction, at: Level, to: Level) -> Prediction:
        ahead, last = self._ahead(at, to)
        self._last = at, prediction.x_0
        if last is None:
            return prediction
        D = prediction.x_0 + ahead * (prediction.x_0 - last)
        return Prediction(D, prediction.eps + at.a / at.b * (prediction.x_0 - D))

    def _unrefined(self, constant: Prediction, at: Level, to: Level) -> Prediction:
        ahead, last = self._ahead(at, to)
        D = constant.x_0
        x_0 = D if last is None else (D + ahead * last) / (1 + ahead)
        self._last = at, x_0
        return constant if last is None else Prediction(x_0, constant.eps + at.a / at.b * (D - x_0))

    def _ahead(self, at: Level, to: Level) -> tuple[float, Tensor | None]:
        """Returns how far the middle of a step lies ahead, in steps, and the last clean latents; None: first order."""
        if self._last is None:
            return 0.0, None
        before, x_0 = self._last
        ahead = (to.log_snr - at.log_snr) / (at.log_snr - before.log_snr) / 2
        return (ahead, x_0) if math.isfinite(ahead) else (0.0, None)


SOLVERS = {"dpm++": DPMSolver, "ddim": DDIM}  # the names of pipeline.param_fields.SCHEDULERS


def renew(prediction: Prediction, at: Level, to: Level, eta: float, noise: Tensor) -> Prediction:
    """Returns a prediction with part of its noise replaced by fresh noise, for the stochastic step from t down to s.

    By arXiv:2010.02502 Eq. 12 and 16, the fresh part of the noise b_s eps has standard deviation sigma, where
    sigma^2 = eta^2 (b_s / b_t)^2 (1 - a_t^2 / a_s^2). Written as sigma = eta b_s sqrt(1 - (a_t b_s / (a_s b_t))^2),
    which is the same for a^2 + b^2 = 1, it gives q(x_s | x_t, x_0) of any Gaussian process at eta = 1, and so
    holds for a flow too.

    Args:
        prediction: Clean latents and noise, (B, C, h, w) each, predicted for x_t.
        at: Noise level t of x_t, where the step begins.
        to: Noise level s where the step ends, lower than `at`.
        eta: Amount of fresh noise, 0 to 1.
        noise: (B, C, h, w) fresh standard normal noise.

    Returns:
        Prediction with the same clean latents.
    """
    share = eta * (1 - (at.a * to.b / (to.a * at.b)) ** 2) ** 0.5
    return Prediction(prediction.x_0, (1 - share**2) ** 0.5 * prediction.eps + share * noise)
