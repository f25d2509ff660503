"""Weights in oneDNN's own order: fewer copies, the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffedit_cli.engine.networks import families, onednn
from diffedit_cli.engine.networks.onednn import MOST_SHAPES, Convolution
from diffedit_cli.engine.networks.sd import StableDiffusion

SIZES = ((16, 16), (24, 16), (8, 8))


def packed(network: nn.Module) -> list[Tensor]:
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution)]
    assert layers
    assert all(len(layer.packed) <= MOST_SHAPES for layer in layers)
    return [weights for layer in layers for weights in layer.packed.values() if weights is not None]


@torch.inference_mode()
def predicted(model: StableDiffusion, size: tuple[int, int], rows: int) -> Tensor:
    x_t = torch.randn((rows, 4, *size), generator=torch.Generator().manual_seed(0))
    return model.predict(x_t, model.levels(10)[5], model.embed("a cat")).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_packed_network_gives_the_same_to_the_last_bit(tiny_epsilon: Path, dtype: torch.dtype) -> None:
    """Of every size and number of rows, in turn and again, and in float32 meanwhile."""
    plain, model = StableDiffusion.load(tiny_epsilon, "cpu", dtype), families.load(tiny_epsilon, "cpu", dtype)
    for rows in (1, 2, 5, 1, 2):
        for size in SIZES:
            assert torch.equal(predicted(model, size, rows), predicted(plain, size, rows))
    with plain.in_float32(), model.in_float32():
        assert torch.equal(predicted(model, SIZES[0], 2), predicted(plain, SIZES[0], 2))
    assert torch.equal(predicted(model, SIZES[0], 2), predicted(plain, SIZES[0], 2))
    if dtype is torch.float32 and torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert packed(model.network)
        assert all(weights.is_mkldnn for weights in packed(model.network))


def test_a_large_network_is_left_as_it_is(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are not to be held twice."""
    monkeypatch.setattr(onednn, "SMALL_NETWORK", 1000)
    network = families.load(tiny_epsilon, "cpu", torch.float32).network
    assert not any(isinstance(layer, Convolution) for layer in network.modules())
