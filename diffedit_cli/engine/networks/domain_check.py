"""Measures by the denoising error whether a picture is like those that a small model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.process import add_noise

STEPS = 20  # steps of the schedule that `strength` is a share of
DRAWS = 2  # noise draws, a network evaluation each


def misfit(model: Model, x_0: Tensor, strength: float, generator: torch.Generator) -> float:
    """Returns the mean squared error of the noise that a model predicts in noised latents with the empty prompt.

    The denoising error gives a lower bound of the likelihood of x_0 (arXiv:2006.11239 Eq. 12): it is small for pictures
    like those that the model was trained on.

    Args:
        model: Model to evaluate, DRAWS times.
        x_0: (1, C, h, w) latents of the picture, float32.
        strength: Noise level, as a share of the schedule's steps, 0 to 1.
        generator: CPU generator of the noise.

    Returns:
        Error, at least 0; about 1 for a model that predicts no noise at all.
    """
    at = model.levels(STEPS, x_0.shape[-2:].numel())[round(strength * STEPS)]
    noise = torch.randn((DRAWS, *x_0.shape[1:]), generator=generator).to(x_0.device)
    prediction = model.predict(add_noise(x_0, noise, at), at, model.embed(""))
    return float((prediction.eps - noise).square().mean())
