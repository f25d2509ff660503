"""Writes tiny random networks for the figures of benchmarks.piebench, in the real formats and of the real classes."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTModel

CLIP_SIDE, CLIP_PATCH, CLIP_WIDTH, CLIP_HEADS = 32, 8, 32, 4
DINO_WIDTH, DINO_HEADS = 24, 3
FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192)} | {
    10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)
}  # fmt: skip
"""Channels before, squeezed and of each expansion, by position among SqueezeNet 1.1's features."""


def write_dino(folder: Path) -> Path:
    """Writes a transformer of DINO ViT-B/8's depth, patch and picture size."""
    torch.manual_seed(50)
    config = ViTConfig(
        hidden_size=DINO_WIDTH, num_hidden_layers=12, num_attention_heads=DINO_HEADS, intermediate_size=48,
        image_size=224, patch_size=8, initializer_range=0.3,
    )  # fmt: skip
    ViTModel(config).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """Writes a CLIP for pictures of 32 px, with the tiny models' tokenizer."""
    torch.manual_seed(70)  # with these weights the scores are above 0, where they are cut off
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": CLIP_HEADS,
        "intermediate_size": 48,
        "initializer_range": 1.0,
    }
    last = len(tiny.vocabulary()[0]) - 1
    text = {
        **sizes, "vocab_size": last + 1, "hidden_size": CLIP_WIDTH, "bos_token_id": last - 1, "eos_token_id": last,
        "pad_token_id": last, "max_position_embeddings": 77,
    }  # fmt: skip
    vision = {**sizes, "hidden_size": CLIP_WIDTH, "image_size": CLIP_SIDE, "patch_size": CLIP_PATCH}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tiny.tokenizer(folder, fast=True)
    CLIPImageProcessor(size={"shortest_edge": CLIP_SIDE}, crop_size=CLIP_SIDE).save_pretrained(folder)
    return folder


def write_squeezenet(path: Path) -> Path:
    """Writes random weights as torchvision does for SqueezeNet 1.1, with its classifier."""
    torch.manual_seed(52)
    shapes = {"features.0": (64, 3, 3, 3), "classifier.1": (1000, 512, 1, 1)}
    for number, (before, squeezed, expanded) in FIRES.items():
        shapes[f"features.{number}.squeeze"] = (squeezed, before, 1, 1)
        shapes[f"features.{number}.expand1x1"] = (expanded, squeezed, 1, 1)
        shapes[f"features.{number}.expand3x3"] = (expanded, squeezed, 3, 3)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        tensors[f"{name}.bias"] = torch.randn(shape[0]) * 0.1
    torch.save(tensors, path)
    return path
