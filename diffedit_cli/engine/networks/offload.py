"""Moves networks from main memory to the device only while they are used, by accelerate's hooks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from torch import nn


def by_model(networks: Sequence[nn.Module], device: str) -> None:
    """Keeps one network at a time on the device: the one that was used last."""
    hooks = [cpu_offload_with_hook(network, device)[1] for network in networks]
    for network in networks:
        for hook in hooks:
            if hook.model is not network:
                cpu_offload_with_hook(network, device, prev_module_hook=hook)


def by_layer(networks: Sequence[nn.Module], device: str) -> None:
    """Keeps one layer at a time on the device: the slowest way, with the least memory."""
    for network in networks:
        if getattr(network, "is_quantized", False):  # whose weights accelerate cannot move one by one
            at = {"onload_device": torch.device(device), "offload_device": torch.device("cpu")}
            apply_group_offloading(network, offload_type="leaf_level", **at)
            continue
        own = any(True for _ in network.parameters(recurse=False))  # weights outside of any layer
        cpu_offload(network, device, offload_buffers=own)
