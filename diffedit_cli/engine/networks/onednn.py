"""Keeps convolution weights of small networks in oneDNN's memory layout, which saves a reordering in each call.

The best layout depends on the input's shape, and oneDNN is far slower with another one, so that each shape has its own
copy of the weights. The kernels are the same, and so are the results, to the last bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from diffedit_cli.engine.networks.model_formats import SMALL_NETWORK

MOST_SHAPES = 4  # input shapes with weights at a time: one row and two rows, of two sizes


class Convolution(nn.Conv2d):
    """Convolution that keeps reordered copies of its weights."""

    packed: dict[tuple[torch.Size, torch.dtype], Tensor | None]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        key = input.shape, input.dtype
        if key not in self.packed:
            if len(self.packed) == MOST_SHAPES:
                self.packed.clear()
            self.packed[key] = self._in_order(input, weight, bias)
        ordered = self.packed[key]
        if ordered is None:
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        how = self.padding, self.stride, self.dilation, self.groups
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(input, ordered, bias, *how, "none", [], ""))

    def _in_order(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Returns the weights in oneDNN's layout for this input, or None if torch would not use oneDNN."""
        library: Any = torch._C
        padding, stride, dilation = [*self.padding], [*self.stride], [*self.dilation]
        none = [0, 0]
        backend = library._select_conv_backend(
            input, weight, bias, stride, padding, dilation, False, none, self.groups, None
        )
        if backend != library._ConvBackend.Mkldnn:
            return None
        order = padding, stride, dilation, self.groups, [*input.shape]
        return cast(Tensor, library._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *order))


def pack(network: nn.Module) -> None:
    """Makes the convolutions of a network keep reordered weights, if it is small."""
    if sum(weights.nbytes for weights in network.parameters()) > SMALL_NETWORK:
        return
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = Convolution
            cast(Convolution, layer).packed = {}
