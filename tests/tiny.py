"""Tiny random models on disk, in the formats of Stable Diffusion 1.5 (epsilon) and 2.1 (v)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import diffedit_cli

BUILTIN = Path(diffedit_cli.__file__).parent / "builtin"
WORDS = ("a", "cat", "dog", "on", "grass")
TEXT_WIDTH = 32

SCHEDULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
PNDM = SCHEDULER | {"_class_name": "PNDMScheduler"}  # as SD 1.5 ships it: no prediction type, so epsilon
DDIM = SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}  # as SD 2.1 ships it


def write_model(folder: Path, *, v_prediction: bool = False, channels: int = 4, width: int = TEXT_WIDTH) -> Path:
    """A whole model folder of 64 px and factor 4. The UNet takes `channels` and text of `width`."""
    torch.manual_seed(2 if v_prediction else 10)
    vae(folder / "vae")
    unet(folder / "unet", channels, width)
    text_encoder(folder / "text_encoder")
    tokenizer(folder / "tokenizer", fast=v_prediction)
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM if v_prediction else PNDM)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler" if v_prediction else "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def vae(folder: Path) -> None:
    model = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=3.0,  # latents of about unit size, as the real ones make them
    )
    model.save_pretrained(folder)


def unet(folder: Path, channels: int, width: int) -> None:
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=width,
        norm_num_groups=4,
    )
    with torch.no_grad():  # random networks hardly listen to the text: without this masks are rounding errors
        for name, weight in model.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(4)
    model.save_pretrained(folder)


def text_encoder(folder: Path) -> None:
    config = CLIPTextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=TEXT_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=len(vocabulary()[0]) - 2,
        eos_token_id=len(vocabulary()[0]) - 1,
        initializer_range=1.0,
    )
    CLIPTextModel(config).save_pretrained(folder)


def tokenizer(folder: Path, fast: bool) -> None:
    """CLIP's byte-pair encoding with the merges of a few words; like the real one it spells all others."""
    vocab, merges = vocabulary()
    if fast:
        CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
        return
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    letters = sorted(ByteLevel.alphabet())
    tokens, merges = letters + [letter + "</w>" for letter in letters], []
    for word in WORDS:
        whole, *rest = [*word[:-1], word[-1] + "</w>"]
        for letter in rest:
            if (whole, letter) not in merges:
                merges.append((whole, letter))
            whole += letter
            if whole not in tokens:
                tokens.append(whole)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
