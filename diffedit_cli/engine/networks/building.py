"""Limits the size of a network to that of its weights, as its settings may come from an untrusted source."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from diffedit_cli.engine.networks import gguf_header

TIMES = 2  # factor on the stored size: weights shared by several layers are stored once
SPARE_NUMBERS, SPARE_TENSORS = 2**26, 1000  # allowance beyond that: 256 MB


class WithoutSymbols(TorchFunctionMode):
    """Mode for building networks on the meta device, where torch would import sympy for some functions.

    Random initial values, which the weights of files replace, are left out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        device = torch.device(named.get("device") or "cpu").type
        if func is nn.init.normal_ and named["tensor"].is_meta:
            return named["tensor"]
        if func is torch.arange and device == "meta":
            return func(*args, **{**named, "device": "cpu"}).to("meta")
        if func is torch.empty_like and args and args[0].is_meta and device != "meta":
            return torch.empty(args[0].shape, dtype=args[0].dtype, **named)
        return func(*args, **named)


@contextlib.contextmanager
def no_larger_than(files: Iterable[Path]) -> Iterator[None]:
    """Context for reading a network: raises ValueError as soon as it has more weights than its files can fill.

    Libraries build a network without allocating it and then allocate the weights that the files lack, which is how a
    small file could take all memory.
    """
    numbers, tensors = _held(files)
    numbers, tensors = TIMES * numbers + SPARE_NUMBERS, TIMES * tensors + SPARE_TENSORS
    own, built = threading.get_ident(), [0, 0]

    def count(_module: Any, _name: str, parameter: Any) -> None:
        if parameter is None or threading.get_ident() != own:
            return
        built[0] += parameter.numel()
        built[1] += 1
        if built[0] > numbers or built[1] > tensors:
            raise ValueError("its settings describe a far larger network than its weights fill")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _held(files: Iterable[Path]) -> tuple[int, int]:
    """Returns how many numbers and how many tensors the files contain."""
    numbers = tensors = 0
    for path in files:
        if gguf_header.is_gguf(path):
            found = gguf_header.tensors(path)
            numbers += sum(math.prod(one.shape) for one in found.values())
            tensors += len(found)
            continue
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                numbers, tensors = numbers + math.prod(opened.get_slice(name).get_shape()), tensors + 1
    return numbers, tensors
