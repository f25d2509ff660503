"""Compares what a LoRA adds to the weights of networks with what it should add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffedit_cli.engine.networks import lora, original_layout
from diffedit_cli.engine.networks.original_layout import Layout

Parts = dict[str, Any]
Products = dict[tuple[str, str], Tensor]
"""Added weights by part and layer."""
LAYOUTS = {"unet": original_layout.unet, "transformer": original_layout.mmdit}  # those of Stable Diffusion


def added(parts: Parts, file: Path, scale: float = 1.0, layouts: dict[str, Layout] = LAYOUTS) -> Products:
    """Returns what a LoRA adds to each weight of the networks, and restores them."""
    before = {
        part: {name: one.clone() for name, one in network.state_dict().items()} for part, network in parts.items()
    }
    try:
        lora.fuse(parts, file, scale, layouts)
        return {(part, name.removesuffix(".weight")): (tensor - before[part][name]).clone()
                for part, network in parts.items() for name, tensor in network.state_dict().items()}  # fmt: skip
    finally:
        for part, network in parts.items():
            network.load_state_dict(before[part])


def check(found: Products, products: Products, scale: float = 1.0) -> None:
    assert products
    for where, tensor in found.items():
        expected = scale * products.get(where, torch.zeros_like(tensor))
        torch.testing.assert_close(tensor, expected, rtol=0, atol=2e-5)
