"""Predicted noise kept like noise while a picture is inverted (pix2pix-zero, arXiv:2302.03027, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.errors import UsageError

SMALLEST = 8  # cells: the pyramid ends with the first picture whose shorter side is no longer than this


@dataclass(frozen=True)
class Regularisation:
    """Gradient steps of the predicted noise itself, not through the network: so nothing is evaluated again.

    `auto_corr` and `kl` are the weights of the two losses, 0 to leave one out; the shifts come from `generator`.
    It acts on eps, whatever the network predicts: the same noise is treated the same in every family.
    """

    steps: int
    auto_corr: float
    rolls: int
    kl: float
    generator: torch.Generator

    def __call__(self, prediction: Prediction, at: Level) -> Prediction:
        """The prediction for the latents at level `at` with its noise made more like noise: the latents stay.

        Raises UsageError when weights too large for so few cells make it grow without end.
        """
        eps = prediction.eps
        for _ in range(self.steps):
            if self.auto_corr > 0:
                for _ in range(self.rolls):
                    eps = eps - self.auto_corr / self.rolls * _gradient(self._auto_correlation, eps)
            if self.kl > 0:
                eps = eps - self.kl * _gradient(kl_divergence, eps)
        if prediction.eps.isfinite().all() and not eps.isfinite().all():
            raise UsageError("The regularised inversion diverges; lower --lambda-auto-corr and --lambda-kl.")
        return Prediction(prediction.x_0 + at.b / at.a * (prediction.eps - eps), eps)

    def _auto_correlation(self, eps: Tensor) -> Tensor:
        return auto_correlation(eps, self.generator)


def auto_correlation(eps: Tensor, generator: torch.Generator) -> Tensor:
    """How much eps (B, C, h, w) resembles itself when shifted, at every scale of a pyramid: a scalar.

    Every channel and scale has a shift of its own from `generator`, up to half the shorter side, along both sides.
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
    """Twice the divergence of N(mean, variance) of eps (B, C, h, w) from N(0, 1), summed over pictures: a scalar."""
    each = eps.flatten(1)
    variance, mean = each.var(dim=1), each.mean(dim=1)
    return (variance + mean**2 - 1 - torch.log(variance + 1e-7)).sum()


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Of the loss; the stages that ask for it run in inference mode, where tensors know no gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        at = at.clone().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]
