"""A stand-in for a GPU whose work the host must not wait for: the device "meta", which has shapes but no values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REMOTE = torch.device("meta")
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default)


class Waits(AssertionError):
    """The host would have to wait for a GPU here."""


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU would have to be done for. To ask for a value of "meta" raises anyway.

    Numbers (without dimensions) may be on the CPU, as they are passed with the kernel.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        found = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
        if any(one.device == REMOTE for one in found) and any(one.device != REMOTE and one.dim() for one in given):
            raise Waits(f"{func} copies {[tuple(one.shape) for one in given]} to the device")
        if func in INDEXING and any(one.dtype is torch.bool for one in tree_leaves(args[1]) if isinstance(one, Tensor)):
            raise Waits(f"{func} asks how many values are true")
        return made


def away(tensor: Tensor, device: torch.device = REMOTE) -> Tensor:
    """Returns a tensor without its values on the device, as a copy that nobody waits for."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
