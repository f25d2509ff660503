"""Whether a picture is of the kind that a small model knows: noise it, and see how well the model finds the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.process import add_noise

STEPS = 20  # of the schedule that `strength` is a share of
DRAWS = 2  # network evaluations that a look costs


def misfit(model: Model, x_0: Tensor, strength: float, generator: torch.Generator) -> float:
    """Mean squared error of the noise that the model, told nothing, predicts in x_0 (1, C, h, w); 1 for a blind one.

    A denoiser's error bounds the likelihood of x_0 from below (arXiv:2006.11239 Eq. 12): it is small for pictures
    like those it was trained on.
    """
    at = model.levels(STEPS, x_0.shape[-2:].numel())[round(strength * STEPS)]
    noise = torch.randn((DRAWS, *x_0.shape[1:]), generator=generator).to(x_0.device)
    prediction = model.predict(add_noise(x_0, noise, at), at, model.embed(""))
    return float((prediction.eps - noise).square().mean())
