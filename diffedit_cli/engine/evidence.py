"""Measures whether a picture shows what a prompt names, by the denoising error (arXiv:2303.16203).

The network predicts noise added to a picture better with a prompt for what is there, and worse than without any prompt
for what is not there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unexplained(eps: Tensor, noise: Tensor) -> Tensor:
    """Returns the squared error of predicted noise, averaged over noise draws and channels.

    Args:
        eps: (n, C, h, w) predicted noise of n draws.
        noise: (n, C, h, w) noise that was added.

    Returns:
        Error (h, w), at least 0.
    """
    return (eps - noise).square().mean(dim=(0, 1))


def gain(without: Tensor, with_prompt: Tensor, M: Tensor) -> float:
    """Returns by how much a prompt lowers the denoising error in a region, as a share of the error with the prompt.

    Args:
        without: (h, w) error without a prompt, from `unexplained`.
        with_prompt: (h, w) error with the prompt, from `unexplained`.
        M: (h, w) region: boolean, or weights of at least 0.

    Returns:
        Gain from -1. Above 0 the prompt explains the region better than no prompt does.
    """
    weights = M.to(without.dtype)
    spared, left = ((without - with_prompt) * weights).sum(), (with_prompt * weights).sum()
    return float(spared / left.clamp(min=torch.finfo(without.dtype).tiny))
