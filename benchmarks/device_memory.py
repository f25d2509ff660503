"""Counts the bytes on the device during an edit by Stable Diffusion 1.5 and XL, without a device and without weights.

    python -m benchmarks.device_memory [sd15 sdxl] [--dtype float16] [--size PIXELS]

The published architectures run on an emulated device (benchmarks/emulated.py), whose tensors have sizes but no values:
both prompts are read, the picture is encoded, one guided evaluation made, and the picture decoded. Counted are the
weights that the hooks of --offload bring to the device, and everything that is computed there. Not counted are the
memory that a GPU's driver and libraries take (0.5 GB by models/memory_needed.py), and what kernels use inside.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import diffedit_cli
from benchmarks.emulated import Emulated, emulated
from benchmarks.fullsize import SCHEDULER, TEXT, UNET, VAE

DEVICE = "cuda:0"
ROWS = 2  # of a guided evaluation
TEXT_2 = {
    "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
UNET_XL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Arguments of the classes of a published model where they differ from the defaults, and its native size."""

    family: str
    size: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], ...]


MODELS = {
    "sd15": Published("sd", 512, UNET, VAE, (TEXT,)),
    "sdxl": Published("sdxl", 1024, UNET_XL, VAE | {"sample_size": 1024, "scaling_factor": 0.13025}, (TEXT, TEXT_2)),
}


def built(name: str, dtype: torch.dtype, devices: Emulated) -> Any:
    """Returns diffedit's model of a published architecture, whose weights have sizes only and wait on the host."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from diffedit_cli.engine.networks import families, precision

    full = MODELS[name]
    tokenizer = CLIPTokenizer.from_pretrained(Path(diffedit_cli.__file__).parent / "builtin" / "tokenizer")
    tokenizer.model_max_length = 77
    with torch.device("meta"):
        parts: dict[str, Any] = {"unet": UNet2DConditionModel(**full.unet), "vae": AutoencoderKL(**full.vae)}
        parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**full.texts[0]))
        if len(full.texts) > 1:
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**full.texts[1]))
    for network in parts.values():
        precision.convert(network, dtype)
        _take(network.eval(), devices)
    parts |= {part.replace("text_encoder", "tokenizer"): tokenizer for part in parts if part.startswith("text")}
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    return families.implementation(full.family)(**parts, scheduler=scheduler, name=name)


def _take(network: nn.Module, devices: Emulated) -> None:
    """Gives the weights of a network on the meta device to the emulation."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(devices.on(weight.data, "cpu"), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = devices.on(buffer, "cpu")


def counted(name: str, dtype: torch.dtype, size: int, offload: str, quantize: str, tiling: bool) -> int:
    """Returns the most bytes that are on the device at once during an edit of a picture of `size` pixels."""
    from diffedit_cli.engine.interfaces import ModelInput
    from diffedit_cli.engine.networks import quantisation

    with emulated(values=False) as devices, torch.inference_mode():
        model = built(name, dtype, devices)
        if quantize != "none":
            quantisation.quantise(model.network, quantize, dtype, "cpu")
        if tiling:
            model.vae.enable_tiling()
        if offload == "none":
            model.compute_on(DEVICE)
            for network in model._networks():
                network.to(DEVICE)
        else:
            model.offload_to(DEVICE, offload)
        text = model.embed("a cat").followed_by(model.embed("a dog"))
        for _ in range(2):  # layers are copied ahead from the second call on
            x_0 = model._encoded(torch.zeros(1, 3, size, size))
            rows = ModelInput(x_0.expand(ROWS, -1, -1, -1), torch.zeros(ROWS, device=DEVICE), text, [None] * ROWS)
            model._output(rows)
            model._decoded(x_0)
        return devices.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--size", type=int, help="side of the picture in pixels; default: the native one")
    given = parser.parse_args()
    print("| model | --offload | --quantize | GB | with --vae-tiling |")
    print("|---|---|---|---|---|", flush=True)
    for name in given.models or MODELS:
        for offload in ("none", "model", "group", "sequential"):
            for quantize in ("none", "fp8") if offload != "sequential" else ("none",):
                cells = [name, offload, quantize]
                for tiling in (False, True):
                    size = given.size or MODELS[name].size
                    peak = counted(name, getattr(torch, given.dtype), size, offload, quantize, tiling)
                    cells.append(f"{peak / 1e9:.2f}")
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
