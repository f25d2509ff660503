"""Regularises the predicted noise of an inversion towards white noise (pix2pix-zero, arXiv:2302.03027, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.errors import UsageError

SMALLEST = 8  # cells: the pyramid ends with the first scale whose shorter side is at most this long


@dataclass(frozen=True)
class Regularisation:
    """Gradient steps on the predicted noise, not through the network, so that they cost no network evaluation.

    They act on eps, whatever quantity the network predicts: the same noise is treated the same in every family.

    Attributes:
        steps: Gradient steps for each prediction.
        auto_corr: Weight of the autocorrelation loss; 0 omits it.
        rolls: Random shifts of the autocorrelation loss in each step; each has the weight `auto_corr` / `rolls`.
        kl: Weight of the KL divergence; 0 omits it.
        generator: CPU generator of the shifts.
        diverged: Whether the noise diverged, a boolean (,) of each prediction on its device, for `check`.
    """

    steps: int
    auto_corr: float
    rolls: int
    kl: float
    generator: torch.Generator
    diverged: list[Tensor] = field(default_factory=list)

    def __call__(self, prediction: Prediction, at: Level) -> Prediction:
        """Returns a prediction with its noise regularised and its clean latents changed to match the same x_t.

        Args:
            prediction: Clean latents and noise, (B, C, h, w) each, predicted at level `at`.
            at: Noise level of the latents x_t.

        Returns:
            Prediction for the same x_t.
        """
        eps = prediction.eps
        for _ in range(self.steps):
            if self.auto_corr > 0:
                for _ in range(self.rolls):
                    eps = eps - self.auto_corr / self.rolls * _gradient(self._auto_correlation, eps)
            if self.kl > 0:
                eps = eps - self.kl * _gradient(kl_divergence, eps)
        self.diverged.append(prediction.eps.isfinite().all() & ~eps.isfinite().all())
        return Prediction(prediction.x_0 + at.b / at.a * (prediction.eps - eps), eps)

    def check(self) -> None:
        """Checks the noise of all predictions so far: once, as a GPU is done with them only then.

        Raises:
            UsageError: If the noise diverged, as weights are too large for latents of so few cells.
        """
        if self.diverged and torch.stack(self.diverged).any():
            raise UsageError("The regularised inversion diverges; lower --lambda-auto-corr and --lambda-kl.")

    def _auto_correlation(self, eps: Tensor) -> Tensor:
        return auto_correlation(eps, self.generator)


def auto_correlation(eps: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the autocorrelation of noise at random shifts: squared mean products, over all scales of a pyramid.

    Each channel and scale has a random shift of its own, below half the shorter side, along either axis.

    Args:
        eps: (B, C, h, w) noise.
        generator: CPU generator of the shifts.

    Returns:
        Scalar, at least 0, summed over pictures, channels, scales and axes.
    """
    loss = eps.new_zeros(())
    for channel in torch.split(eps.flatten(0, 1), 1):
        while True:
            shorter = min(channel.shape[-2:])
            shift = int(torch.randint(max(1, shorter // 2), (1,), generator=generator))
            for side in (-2, -1):
                loss = loss + (channel * channel.roll(shift, dims=side)).mean() ** 2
            if shorter <= SMALLEST:
                break
            channel = F.avg_pool2d(channel, kernel_size=2)
    return loss


def kl_divergence(eps: Tensor) -> Tensor:
    """Returns twice the KL divergence of the noise's normal distribution from N(0, 1).

    Args:
        eps: (B, C, h, w) noise. Mean and variance are those of each picture.

    Returns:
        Scalar, summed over pictures.
    """
    each = eps.flatten(1)
    variance, mean = each.var(dim=1), each.mean(dim=1)
    return (variance + mean**2 - 1 - torch.log(variance + 1e-7)).sum()


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Returns the gradient of a loss, also in inference mode, in which the stages run."""
    with torch.inference_mode(False), torch.enable_grad():
        at = at.clone().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]
