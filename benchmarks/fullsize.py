"""Measures time and memory of an edit by a model of Stable Diffusion 1.5's size with random weights.

    python -m benchmarks.fullsize [--small] [--keep FOLDER] [-- options of diffedit edit]

The model is written and run in separate processes, so that the peak of memory is that of `diffedit edit` alone. Random
weights paint nothing meaningful: only time and memory are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Stable Diffusion 1.5's configuration where it differs from the classes' defaults; the small one is for trials.
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
SMALL_UNET = {**UNET, "sample_size": 8, "block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64}
SMALL_VAE = {**VAE, "block_out_channels": (32,) * 4}
SMALL_TEXT = {**TEXT, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
XL_UNET = {  # that of SDXL
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
XL_VAE = {**VAE, "sample_size": 1024, "scaling_factor": 0.13025}
XL_TEXT = {
    **TEXT, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
SMALL_XL_UNET = {
    **XL_UNET, "sample_size": 8, "block_out_channels": (32, 64, 64), "cross_attention_dim": 128,
    "attention_head_dim": 8, "transformer_layers_per_block": (1, 1, 1), "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 112,
}  # fmt: skip
SMALL_XL_TEXT = {**SMALL_TEXT, "projection_dim": 64}
SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip


def write_model(folder: Path, small: bool, large: bool = False) -> None:
    """Writes a model folder in bfloat16, with one network in memory at a time; of SDXL's size if `large`."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    import diffedit_cli

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = (SMALL_XL_UNET if small else XL_UNET) if large else (SMALL_UNET if small else UNET)
    unet = UNet2DConditionModel(**config)
    with torch.no_grad():  # random networks hardly depend on the text: without this the mask would be empty
        for name, weight in unet.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(4)
    unet.save_pretrained(folder / "unet")
    print(f"UNet of {sum(weight.numel() for weight in unet.parameters()) / 1e6:.0f} million parameters", flush=True)
    del unet
    AutoencoderKL(**(SMALL_VAE if small else XL_VAE if large else VAE)).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**(SMALL_TEXT if small else TEXT))).save_pretrained(folder / "text_encoder")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if large:
        second = CLIPTextModelWithProjection(CLIPTextConfig(**(SMALL_XL_TEXT if small else XL_TEXT)))
        second.save_pretrained(folder / "text_encoder_2")
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    for part in (part for part in index if part.startswith("tokenizer")):
        shutil.copytree(Path(diffedit_cli.__file__).parent / "builtin" / "tokenizer", folder / part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps(index))


def write_picture(path: Path) -> None:
    """Writes a photograph of 512 x 512 pixels."""
    from PIL import Image
    from skimage import data

    Image.fromarray(data.astronaut()).save(path)


def measure(folder: Path, options: list[str]) -> tuple[dict[str, Any], float]:
    """Returns the output of `diffedit edit --json`, and the peak memory of its process in bytes."""
    words = ["edit", "picture.png", "--from", "cat", "--to", "dog", "--model", "model", "--no-cache", "--json"]
    words += ["--steps", "4", "--dtype", "bfloat16", "--threshold", "0.2", *options]
    running = subprocess.Popen([sys.executable, "-m", "diffedit_cli", *words], stdout=subprocess.PIPE, cwd=folder)
    assert running.stdout is not None
    said = running.stdout.read()
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        sys.exit(f"diffedit edit ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(said), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a model of a hundredth of the size, for trials")
    parser.add_argument("--keep", type=Path, help="the folder to work in, kept with the model for the next time")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of diffedit edit, after --")
    given = parser.parse_args()
    if given.write:
        write_model(given.write, given.small)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_picture(folder / "picture.png")
        if not (folder / "model" / "model_index.json").is_file():
            size = ["--small"] if given.small else []
            words = [sys.executable, "-m", "benchmarks.fullsize", "--write", str(folder / "model"), *size]
            subprocess.run(words, check=True)
        result, peak = measure(folder, given.options)
        print(f"seconds: {result['seconds']}, evaluations: {result['evaluations']}")
        print(f"{sum(result['seconds'].values()):.1f} s in all, {peak / 2**30:.2f} GiB at most")


if __name__ == "__main__":
    main()
