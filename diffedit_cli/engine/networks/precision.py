"""The number format that a network's weights are kept in, and float32 for a while."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

# By safetensors' names. Float8 is for keeping weights, not for computing; nothing is gained by more than float32.
FORMATS = {
    "F64": torch.float32,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.bfloat16,
    "F8_E5M2": torch.bfloat16,
}


def common(slices: Iterable[Any]) -> torch.dtype:
    """The format of most of the numbers in a network's tensors, given as safetensors' slices; float32 if there is none.

    Whole numbers, such as positions, do not count.
    """
    counts: Counter[torch.dtype] = Counter()
    for one in slices:
        if (dtype := FORMATS.get(one.get_dtype())) is not None:
            counts[dtype] += math.prod(one.get_shape())
    return max(counts, key=lambda dtype: (counts[dtype], dtype.itemsize), default=torch.float32)


@contextlib.contextmanager
def in_float32(networks: Sequence[nn.Module]) -> Iterator[None]:
    """In here they compute in float32; then every tensor gets its own format back."""

    def tensors() -> list[torch.Tensor]:
        return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]

    dtypes = [tensor.dtype for tensor in tensors()]  # not all the same: a VAE or T5 may be float32 in part
    for network in networks:
        network.to(torch.float32)
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors(), dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)  # nothing is lost on the way back: every half is a float32
