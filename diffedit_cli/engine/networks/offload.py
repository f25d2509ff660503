"""Moves networks from main memory to the device only while they are used, by hooks of accelerate and diffusers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

STREAMS = ("cuda", "xpu")  # devices that copy weights while they compute
_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")  # diffusers' names


def by_model(networks: Sequence[nn.Module], device: str) -> None:
    """Keeps one network at a time on the device: the one that was used last."""
    from accelerate import cpu_offload_with_hook  # slow to import

    hooks = [cpu_offload_with_hook(network, device)[1] for network in networks]
    for network in networks:
        for hook in hooks:
            if hook.model is not network:
                cpu_offload_with_hook(network, device, prev_module_hook=hook)


def by_group(networks: Sequence[nn.Module], device: str) -> None:
    """Keeps the layer that computes on the device, and where the device can copy meanwhile also the next one.

    There the weights wait in pinned memory, which the device reads itself.
    """
    for network in networks:
        for entry in _entries(network):
            _group(entry, device)


def by_layer(networks: Sequence[nn.Module], device: str) -> None:
    """Keeps one layer at a time on the device: the slowest way, with the least memory."""
    from accelerate import cpu_offload  # slow to import

    for network in networks:
        if getattr(network, "is_quantized", False):  # whose weights accelerate cannot move one by one
            _group(network, device, streams=False)
            continue
        own = any(True for _ in network.parameters(recurse=False))  # weights outside of any layer
        cpu_offload(network, device, offload_buffers=own)


def renew(network: nn.Module) -> None:
    """Takes over weights of a network that were changed: group offloading keeps a copy of them in pinned memory."""
    for entry in _entries(network):
        hooks = (_hook(layer) for layer in entry.modules())
        hook = next((hook for hook in hooks if hook is not None and hook.group.stream is not None), None)
        if hook is not None:
            for name in _HOOKS:
                for layer in entry.modules():
                    if hasattr(layer, "_diffusers_hook"):
                        layer._diffusers_hook.remove_hook(name, recurse=False)  # type: ignore[union-attr,operator]
            _group(entry, str(hook.group.onload_device))


def _entries(network: Any) -> list[nn.Module]:
    """Returns the parts of a network that are called: those of a VAE, and of a language model all but its last layer.

    Prefetching follows the order of the layers in a call.
    """
    if hasattr(network, "decode"):
        return list(network.children())
    return [getattr(network, "model", network)]


def _group(entry: nn.Module, device: str, streams: bool = True) -> None:
    from diffusers.hooks import apply_group_offloading

    logging.getLogger("diffusers.hooks.group_offloading").setLevel(logging.ERROR)  # of layers that have no use here
    at = torch.device(device)
    # A single layer has nothing to prefetch, and diffusers would not wait for its copy.
    streams = streams and at.type in STREAMS and any(True for _ in entry.children())
    apply_group_offloading(entry, onload_device=at, offload_type="leaf_level", use_stream=streams)


def _hook(layer: Any) -> Any:
    registry = getattr(layer, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook(_HOOKS[0])
