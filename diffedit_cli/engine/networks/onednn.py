"""Convolutions of small networks, their weights kept as oneDNN wants them: it would else reorder them at each call.

It wants another order for each shape of the input, and is far slower with a wrong one, so that each shape has weights
of its own. The kernels are the same, and so are the results, to the last bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

MOST_SHAPES = 4  # that weights are kept for at once: one row and two, of two sizes
MOST_BYTES = 2**27  # of a network whose weights may be kept several times; the built-in one has a third of that


class Convolution(nn.Conv2d):
    """One that keeps its weights in order."""

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
        """None where torch would not ask oneDNN."""
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
    """From its next use on, if the network is small."""
    if sum(weights.nbytes for weights in network.parameters()) > MOST_BYTES:
        return
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = Convolution
            cast(Convolution, layer).packed = {}
