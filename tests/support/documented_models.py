"""Tiny models under the hub's names that the documentation of diffusers' pipeline uses, in a hub cache of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import constants
from tiny import DDIM, TEXT_WIDTH, text_encoder, tokenizer, write_index, write_json
from tiny_writers import write_blip, write_t5
from torch.overrides import TorchFunctionMode

from diffedit_cli.diffusers import placement

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_sd21(folder: Path) -> Path:
    """Writes a model for 768 px pictures, in cells of 32 px, so that a processor walks many steps in float16."""
    torch.manual_seed(12)
    AutoencoderKL(
        block_out_channels=(4,) * 6,
        down_block_types=("DownEncoderBlock2D",) * 6,
        up_block_types=("UpDecoderBlock2D",) * 6,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,
        sample_size=768,
        scaling_factor=30.0,  # the picture shows through the noise, so that masks follow it
    ).save_pretrained(folder / "vae")
    unet = UNet2DConditionModel(
        sample_size=24,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=4,
    )
    with torch.no_grad():  # random networks hardly listen to the text
        for name, weight in unet.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(4)
    unet.save_pretrained(folder / "unet")
    text_encoder(folder / "text_encoder")
    tokenizer(folder / "tokenizer", fast=True)
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM)
    write_index(folder, "StableDiffusionPipeline")
    return folder


WRITERS = {
    "stabilityai/stable-diffusion-2-1": write_sd21,
    "google/flan-t5-xl": write_t5,
    "Salesforce/blip-image-captioning-base": partial(write_blip, longest=256),
}


def fill_hub_cache(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Writes the models into the hub's cache in a folder, and makes that the cache of this process."""
    for name, write in WRITERS.items():
        place = home / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        (place / "snapshots" / COMMIT).mkdir(parents=True)
        write(place / "snapshots" / COMMIT)
    patch.setenv("HF_HOME", str(home))
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))


class WithoutGpu(TorchFunctionMode):
    """Takes the processor wherever torch is asked for CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def here(value: Any) -> Any:
            names_cuda = isinstance(value, str | torch.device) and str(value).startswith("cuda")
            return torch.device("cpu") if names_cuda else value

        return func(*map(here, args), **{name: here(value) for name, value in (kwargs or {}).items()})


def without_gpu(patch: pytest.MonkeyPatch) -> WithoutGpu:
    """Returns a context in which notebooks that ask for CUDA run on the processor."""
    patch.setattr(placement, "choose_device", lambda _: "cpu")
    return WithoutGpu()
