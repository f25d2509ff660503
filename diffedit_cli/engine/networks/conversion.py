"""Fills diffusers' networks from a checkpoint in the original layout, and reports the tensors that were not used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from diffedit_cli.engine.networks import precision
from diffedit_cli.engine.networks.original_layout import Layout, Place

SCALES = ("scale_weight", "weight_scale")
"""Names of the scale that a stored weight is to be multiplied by: ComfyUI's older and newer one."""


class Checkpoint:
    """Checkpoint in the original layout, read tensor by tensor; `left` has the names of the tensors not used yet."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = frozenset(file.keys())
        self.left = set(self._names)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Checkpoint]:
        with safe_open(path, framework="pt") as file:
            yield cls(file)

    def shape(self, name: str) -> list[int] | None:
        """Returns the shape of a tensor, or None if the checkpoint has no tensor of this name."""
        return list(self._file.get_slice(name).get_shape()) if name in self._names else None

    def common_dtype(self, names: Iterable[str] | None = None) -> torch.dtype:
        """Returns the number format of most values of some tensors. Default: of all."""
        return precision.common(map(self._file.get_slice, self._names if names is None else names))

    def fill(self, network: nn.Module, prefix: str, layout: Layout, absent: Mapping[str, Tensor] | None = None) -> None:
        """Fills an empty network with the tensors whose names have a prefix, in the number format of most of them.

        Where a value would overflow in that format, the network is in float32.

        Args:
            network: Network without weights.
            prefix: Start of the network's tensor names in the checkpoint.
            layout: Places of the network's tensors in the original layout.
            absent: Weights by name that the checkpoint may lack. Default: none.

        Raises:
            ValueError: If a weight is missing, of another shape, or in a format that diffedit does not read.
        """
        tensors, used, settings = {}, set(), settings_of(network)
        for name, weight in network.state_dict().items():
            places = [place for place in layout(name, settings) if prefix + place.name in self._names]
            if places:
                tensors[name] = self._taken(prefix, places[0], list(weight.shape))
                used.add(prefix + places[0].name)
            elif absent is not None and name in absent:
                tensors[name] = absent[name]
            else:
                raise ValueError("weights are missing")
        self.left -= used
        dtype = self.common_dtype(used)
        if not all(_fits(tensor, dtype) for tensor in tensors.values()):
            dtype = torch.float32
        network.load_state_dict({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, assign=True)

    def _taken(self, prefix: str, place: Place, shape: list[int]) -> Tensor:
        tensor = to_diffusers_layout(floating(prefix + place.name, self.scaled(prefix + place.name)), place)
        if bare(tensor.shape) != bare(shape):
            raise ValueError(f"{prefix}{place.name} has the shape {tuple(tensor.shape)} in place of {tuple(shape)}")
        return tensor.reshape(shape)

    def scaled(self, name: str) -> Tensor:
        """Returns a tensor multiplied by its scale: float8 is often stored with the scale that it was divided by."""
        tensor: Tensor = self._file.get_tensor(name)
        for scale in (f"{name.removesuffix('.weight')}.{one}" for one in SCALES):
            if name.endswith(".weight") and scale in self._names and tensor.is_floating_point():
                factor = self._file.get_tensor(scale)
                if bare(factor.shape) not in ([], [len(tensor)]):
                    raise ValueError(f"{scale} has scales of shape {tuple(factor.shape)}, which diffedit does not read")
                tensor = tensor.float() * factor.float().reshape(-1, *[1] * (tensor.ndim - 1))
                self.left.discard(scale)
        return tensor


def floating(name: str, tensor: Tensor) -> Tensor:
    """Returns the tensor. Raises ValueError for integers, as quantised weights are."""
    if not tensor.is_floating_point():
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is stored as {dtype}, which diffedit does not support")
    return tensor


def to_diffusers_layout(tensor: Tensor, place: Place) -> Tensor:
    """Returns a tensor of the original layout in that of diffusers."""
    if place.of > 1:
        rows = math.ceil(len(tensor) / place.of)  # rows that cannot be divided show in the shape
        tensor = tensor[place.part * rows : (place.part + place.span) * rows]
    tensor = torch.cat([*tensor.chunk(2)][::-1]) if place.swapped else tensor  # a list, for quantised tensors
    return tensor.T if place.turned else tensor


def settings_of(network: Any) -> Mapping[str, Any]:
    """Returns the configuration of a network of diffusers or transformers."""
    config = network.config
    return config if isinstance(config, Mapping) else config.to_dict()


def bare(shape: Any) -> list[int]:
    """Returns a shape without sides of 1 at its end, by which 1 x 1 convolutions differ from matrices."""
    sides = list(shape)
    while sides and sides[-1] == 1:
        sides.pop()
    return sides


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Returns whether no value of a tensor becomes infinite in a number format."""
    if dtype is not torch.float16 or tensor.dtype is dtype or not tensor.numel():
        return True
    return float(tensor.float().abs().max()) <= torch.finfo(dtype).max
