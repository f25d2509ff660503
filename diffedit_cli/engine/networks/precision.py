"""The number format of a network's weights, and a context that computes in float32."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from diffedit_cli.engine.networks import offload, quantisation

# By safetensors' names. Float8 is for storage only, so it is computed in bfloat16; float64 gains nothing over float32.
FORMATS = {
    "F64": torch.float32,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.bfloat16,
    "F8_E5M2": torch.bfloat16,
}

ANGLES = "PosEmbed"  # end of the names of the classes of diffusers that compute in float64


def common(slices: Iterable[Any]) -> torch.dtype:
    """Returns the number format of most values in safetensors slices, float32 if there are none.

    Integers, such as positions, do not count.
    """
    counts: Counter[torch.dtype] = Counter()
    for one in slices:
        if (dtype := FORMATS.get(one.get_dtype())) is not None:
            counts[dtype] += math.prod(one.get_shape())
    return max(counts, key=lambda dtype: (counts[dtype], dtype.itemsize), default=torch.float32)


def convert(network: nn.Module, dtype: torch.dtype) -> None:
    """Converts a network as its library does when it reads one: some layers of T5 are float32 in place of float16."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ()) if dtype is torch.float16 else set()
    for name, module in network.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.float32 if kept.intersection(name.split(".")) else dtype)


def keep_float64_off(network: nn.Module, device: str) -> None:
    """Lets the host compute the angles of FLUX's positions, in float64, which many of Intel's GPUs lack."""
    for layer in network.modules():
        if type(layer).__name__.endswith(ANGLES):
            layer.register_forward_pre_hook(lambda _, given: tuple(one.cpu() for one in given))
            layer.register_forward_hook(lambda _, _given, angles: tuple(one.to(device) for one in angles))


@contextlib.contextmanager
def in_float32(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Context in which the networks compute in float32; afterwards every tensor has its own format again.

    Quantised weights stay as they are.
    """

    def tensors() -> list[torch.Tensor]:
        every = (tensor for network in networks for tensor in (*network.parameters(), *network.buffers()))
        return [tensor for tensor in every if tensor.is_floating_point() and quantisation.is_plain(tensor)]

    quantised = [layer for network in networks for layer in quantisation.computing(network)]
    computed = [layer.compute_dtype for layer in quantised]
    dtypes = [tensor.dtype for tensor in tensors()]  # they may differ: a VAE or T5 may be partly float32
    for tensor in tensors():  # not by network.to, which refuses quantised networks
        tensor.data = tensor.data.to(torch.float32)
    for layer in quantised:
        layer.compute_dtype = torch.float32
    for network in networks:
        offload.renew(network)
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors(), dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)  # lossless: every half is a float32
        for layer, dtype in zip(quantised, computed, strict=True):
            layer.compute_dtype = dtype
        for network in networks:
            offload.renew(network)
