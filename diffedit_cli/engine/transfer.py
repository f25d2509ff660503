"""Copies tensors to the device that computes without waiting for what it computes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; a CUDA device copies it when its turn comes, from memory that stays in place.

    Args:
        tensor: Tensor on the CPU.
        device: Device that computes.

    Returns:
        The same values on `device`; the tensor itself if it is there.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
