"""Whether a picture shows what a prompt names, by how well the prompt explains it (arXiv:2303.16203).

Noise that was added to a picture is found the better, the more the prompt says of what is there. Of what is not there
the prompt finds it worse than no prompt at all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unexplained(eps: Tensor, noise: Tensor) -> Tensor:
    """Squared error (h, w) of predicted noise (n, C, h, w), mean over channels and draws."""
    return (eps - noise).square().mean(dim=(0, 1))


def gain(without: Tensor, with_prompt: Tensor, M: Tensor) -> float:
    """How much of the error without a prompt is spared by it, as a share of the error with it, in the region M (h, w).

    Above 0 the prompt explains the region better than none does; -1 is the least.
    """
    weights = M.to(without.dtype)
    spared, left = ((without - with_prompt) * weights).sum(), (with_prompt * weights).sum()
    return float(spared / left.clamp(min=torch.finfo(without.dtype).tiny))
