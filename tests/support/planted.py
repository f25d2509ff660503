"""Plants attention in tiny transformers: tokens of text and picture that share a sign attend to each other."""

from __future__ import annotations

from typing import Any

import torch

MODULATION = ("norm1.linear", "norm1_context.linear", "_mod.", "modulation", "adaln")
PICTURE = ("x_embedder.", "img_in.", "all_x_embedder.", "pos_embed.proj.")
TEXT = ("context_embedder.", "txt_in.", "cap_embedder.1.", "caption_projection.linear_1.")
ATTENTION = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
REFINERS = ("noise_refiner", "context_refiner")
SIGNAL = 100.0  # drowns position embeddings


def plant(network: Any, axis: int) -> None:
    """Changes a network's weights so that its first block attends by the sign of channel 0 of its inputs.

    `axis` is the component of queries, keys and values that carries the sign: one that rotary positions hardly turn.
    """
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if any(part in name.lower() for part in MODULATION) or (name.startswith(REFINERS) and "norm" not in name):
                weight.zero_()
            elif name.startswith((*PICTURE, *TEXT)):
                weight.zero_()
                if weight.ndim > 1:
                    weight.flatten(1)[0, 0], weight.flatten(1)[1, 0] = SIGNAL, -SIGNAL
            elif name.startswith("caption_projection.linear_2."):
                weight.zero_()
                if weight.ndim > 1:
                    weight[0, 0], weight[0, 1] = 1, -1
            elif any(f".{layer}." in name for layer in ATTENTION):
                weight.zero_()
                if weight.ndim > 1:
                    weight[axis::16, 0] = 1  # of each head of 16 or 8 components
