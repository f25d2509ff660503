"""Writes checkpoints of Stable Diffusion 3 in its authors' layout from diffusers folders, by reverse renaming."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from ldm import Tensors, prefixed, read, text_encoder, vae
from safetensors.torch import save_file

NAMES = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
QKV = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def write_checkpoint(folder: Path, file: Path) -> Path:
    """Writes the model in `folder` as one file, without the first text encoder's projection, taken as identity."""
    first = text_encoder(folder / "text_encoder")
    first.pop("text_projection.weight")
    tensors = prefixed("model.diffusion_model.", transformer(folder / "transformer"))
    tensors |= prefixed("first_stage_model.", vae(folder / "vae"))
    tensors |= prefixed("text_encoders.clip_l.transformer.", first)
    tensors |= prefixed("text_encoders.clip_g.transformer.", text_encoder(folder / "text_encoder_2"))
    if (folder / "text_encoder_3").is_dir():
        tensors |= prefixed("text_encoders.t5xxl.transformer.", read(folder / "text_encoder_3")[0])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def set_no_projection(folder: Path) -> None:
    """Sets the projection of the text encoder in a folder to the identity."""
    (file,) = folder.glob("*.safetensors")
    tensors = read(folder)[0]
    tensors["text_projection.weight"] = torch.eye(len(tensors["text_projection.weight"]))
    save_file(tensors, file, {"format": "pt"})


def transformer(folder: Path) -> Tensors:
    tensors, config = read(folder)
    last = f"transformer_blocks.{int(config['num_layers']) - 1}.norm1_context"
    for name in [name for name in tensors if name.startswith((last, "norm_out."))]:
        tensors[name] = torch.cat(tensors[name].chunk(2)[::-1])  # shift and scale stand the other way round there
    placed: Tensors = {}
    for i in range(int(config["num_layers"])):
        start = f"transformer_blocks.{i}."
        for theirs, ours in QKV.items():
            for kind in ("weight", "bias"):
                parts = [tensors.pop(f"{start}{one}.{kind}") for one in ours]
                placed[f"joint_blocks.{i}.{theirs}.{kind}"] = torch.cat(parts)
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)\.(weight|bias)", name):
            placed[f"joint_blocks.{found[1]}.{BLOCK[found[2]]}.{found[3]}"] = tensor
        else:
            stem, _, kind = name.rpartition(".")
            placed[NAMES[name] if name in NAMES else f"{NAMES.get(stem, stem)}.{kind}"] = tensor
    return placed
