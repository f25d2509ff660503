"""Writes checkpoints in the layout of Stable Diffusion's authors from diffusers folders, by reverse renaming."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
VAE = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


def write_checkpoint(folder: Path, file: Path, kind: str, **marks: Tensor) -> Path:
    """Writes the model in `folder` as one file in the layout of `sd15`, `sd21` or `sdxl`, with `marks` added."""
    tensors = prefixed("model.diffusion_model.", unet(folder / "unet"))
    tensors |= prefixed("first_stage_model.", vae(folder / "vae"))
    first = text_encoder(folder / "text_encoder")
    if kind == "sd15":
        tensors |= prefixed("cond_stage_model.transformer.", first)
    elif kind == "sd21":
        tensors |= prefixed("cond_stage_model.model.", open_clip(first))
    else:
        tensors |= prefixed("conditioner.embedders.0.transformer.", first)
        tensors |= prefixed("conditioner.embedders.1.model.", open_clip(text_encoder(folder / "text_encoder_2")))
    save_file({name: tensor.contiguous() for name, tensor in (tensors | marks).items()}, file)
    return file


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = re.sub(rf"(?<![\w.]){re.escape(ours)}(?!\w)|(?<=\.){re.escape(ours)}(?!\w)", theirs, name)
    return name


def read(folder: Path) -> tuple[Tensors, dict[str, object]]:
    return load_file(next(folder.glob("*.safetensors"))), json.loads((folder / "config.json").read_text())


def unet(folder: Path) -> Tensors:
    tensors, config = read(folder)
    each = int(config["layers_per_block"]) + 1
    down = config["down_block_types"]
    attentions_up = ["CrossAttn" in kind for kind in config["up_block_types"]]

    def place(name: str) -> str:
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            side, i, what, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            rest = renamed(rest, RESNET) if what == "resnets" else rest
            if side == "down":
                number = (i + 1) * each if what == "downsamplers" else i * each + j + 1
                inner = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[what]
                rest = rest.replace("conv.", "op.", 1) if what == "downsamplers" else rest
                return f"input_blocks.{number}.{inner}.{rest}"
            number = i * each + (each - 1 if what == "upsamplers" else j)
            inner = {"resnets": "0", "attentions": "1", "upsamplers": "2" if attentions_up[i] else "1"}[what]
            return f"output_blocks.{number}.{inner}.{rest}"
        if found := re.match(r"mid_block\.(\w+)\.(\d+)\.(.*)", name):
            number = 1 if found[1] == "attentions" else 2 * int(found[2])
            return f"middle_block.{number}.{renamed(found[3], RESNET) if found[1] == 'resnets' else found[3]}"
        return renamed(name, UNET)

    assert len(down) > 1
    return {place(name): tensor for name, tensor in tensors.items()}


def vae(folder: Path) -> Tensors:
    tensors, config = read(folder)
    last = len(config["block_out_channels"]) - 1

    def place(name: str) -> str:
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
        if "mid_block" in name:
            name = renamed(name.replace("mid_block", "mid"), VAE_MIDDLE)
        return renamed(name, VAE)

    squares = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")  # attention by 1 x 1 convolutions there
    placed = {place(name): tensor for name, tensor in tensors.items()}
    return {name: tensor[:, :, None, None] if name.endswith(squares) else tensor for name, tensor in placed.items()}


def text_encoder(folder: Path) -> Tensors:
    """Returns a text encoder's tensors, with the names of older versions of transformers."""
    tensors, _ = read(folder)
    return {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
    }


def open_clip(tensors: Tensors) -> Tensors:
    placed = {renamed(name, OPEN_CLIP): tensor for name, tensor in tensors.items()}
    if "text_projection.weight" in placed:
        placed["text_projection"] = placed.pop("text_projection.weight").T
    for name in [name for name in placed if ".q_proj." in name]:
        parts = [placed.pop(name.replace(".q_proj.", f".{one}_proj.")) for one in "qkv"]
        placed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return placed
