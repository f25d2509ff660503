"""Writes files of one network, in the layouts of its authors and in GGUF, from tiny models, by reverse renaming."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import ldm
import ldm_sd3
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from ldm import Tensors, prefixed, read
from safetensors.torch import save_file
from torch import Tensor

COMFY = "model.diffusion_model."
FLOAT8 = torch.float8_e4m3fn

FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
    "ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
}  # fmt: skip
FLUX_SINGLE = {
    "norm.linear": "modulation.lin", "attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2", "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2",
}  # fmt: skip
FLUX_TOP = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}  # fmt: skip
FUSED = {
    "transformer_blocks": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single_transformer_blocks": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
}
BLOCKS = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}


def flux(folder: Path) -> Tensors:
    """Returns the transformer in a folder in the layout of the authors of FLUX.1, FLUX.2 or Chroma."""
    tensors, _ = read(folder)
    for name in [name for name in tensors if name.startswith("norm_out.")]:
        tensors[name] = torch.cat(tensors[name].chunk(2)[::-1])  # shift and scale stand the other way round there
    placed: Tensors = {}
    for kind, fused in FUSED.items():
        blocks = sorted({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})
        for block, (theirs, ours), end in (
            (block, pair, end) for block in blocks for pair in fused.items() for end in ("weight", "bias")
        ):
            names = [f"{kind}.{block}.{one}.{end}" for one in ours]
            if names[0] in tensors:
                placed[f"{BLOCKS[kind]}.{block}.{theirs}.{end}"] = torch.cat([tensors.pop(name) for name in names])
    for name, tensor in tensors.items():
        stem, _, end = name.rpartition(".")
        if found := re.fullmatch(r"((?:single_)?transformer_blocks)\.(\d+)\.(.*)", stem):
            layers = FLUX_SINGLE if found[1].startswith("single") else FLUX_DOUBLE
            end = "scale" if ".norm_" in stem else end
            placed[f"{BLOCKS[found[1]]}.{found[2]}.{layers[found[3]]}.{end}"] = tensor
        elif found := re.fullmatch(r"(distilled_guidance_layer\.)(?:layers\.(\d+)\.linear_([12])|norms\.(\d+))", stem):
            inner = f"layers.{found[2]}.{'in' if found[3] == '1' else 'out'}_layer" if found[2] else f"norms.{found[4]}"
            placed[f"{found[1]}{inner}.{end if found[2] else 'scale'}"] = tensor
        else:
            placed[f"{FLUX_TOP.get(stem, stem)}.{end}"] = tensor
    return placed


def z_image(folder: Path) -> Tensors:
    tensors, _ = read(folder)
    placed: Tensors = {}
    for name in [name for name in tensors if name.endswith("attention.to_q.weight")]:
        parts = [tensors.pop(name.replace("to_q", f"to_{one}")) for one in "qkv"]
        placed[name.replace("to_q", "qkv")] = torch.cat(parts)
    others = {
        "all_final_layer.2-1": "final_layer", "all_x_embedder.2-1": "x_embedder", "attention.to_out.0": "attention.out",
        "attention.norm_": "attention.", "attention.q.": "attention.q_norm.", "attention.k.": "attention.k_norm.",
    }  # fmt: skip
    for name, tensor in tensors.items():
        for ours, theirs in others.items():
            name = name.replace(ours, theirs)
        placed[name] = tensor
    return placed


def qwen_image(folder: Path) -> Tensors:
    return read(folder)[0]


WAN = {
    "conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2", "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1", "mid_block.resnets.1": "middle.2",
}  # fmt: skip
WAN_RESNET = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}


def wan_vae(folder: Path) -> Tensors:
    """Returns the VAE of Qwen-Image in a folder in the layout of Wan's authors; each level has three resnets."""
    placed: Tensors = {}
    for name, tensor in read(folder)[0].items():
        half, _, rest = name.partition(".")
        rest = re.sub(r"^down_blocks", "downsamples", rest)
        rest = re.sub(r"^up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"upsamples.{4 * int(at[1]) + int(at[2])}", rest)
        rest = re.sub(r"^up_blocks\.(\d)\.upsamplers\.0", lambda at: f"upsamples.{4 * int(at[1]) + 3}", rest)
        for ours, theirs in (WAN | WAN_RESNET | {"conv_shortcut": "shortcut"}).items():
            is_resnet = ours not in WAN_RESNET or re.match(r"(downsamples|upsamples|mid_block|middle)", rest)
            rest = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, rest) if is_resnet else rest
        tops = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
        placed[f"{tops[half]}.{rest}" if half in tops else f"{half}.{rest}"] = tensor
    return placed


def flux2_vae(folder: Path) -> Tensors:
    halves = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    found = {name: tensor for name, tensor in ldm.vae(folder).items() if not name.endswith("num_batches_tracked")}
    placed: Tensors = {}
    for name, tensor in found.items():
        layer, _, rest = name.partition(".")
        placed[f"{halves.get(layer, layer)}.{rest}"] = tensor
    return placed


ORIGINAL: dict[str, Callable[[Path], Tensors]] = {
    "flux2": flux,
    "z-image": z_image,
    "flux": flux,
    "chroma": flux,
    "qwen-image": qwen_image,
    "sd3": ldm_sd3.transformer,
    "sd": ldm.unet,
    "sdxl": ldm.unet,
}
"""The tensors of a denoiser's folder in the layout of its authors, by family."""


def write(tensors: Tensors, file: Path, prefix: str = "") -> Path:
    save_file(prefixed(prefix, {name: tensor.contiguous() for name, tensor in tensors.items()}), file)
    return file


def float8(tensors: Tensors, scale: str | None = None) -> Tensors:
    """Returns the tensors with matrices in float8, divided by a `scale` of that name if there is one."""
    found: Tensors = {} if scale is None else {"scaled_fp8": torch.zeros(2, dtype=FLOAT8)}
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            found[name] = tensor.bfloat16()
        elif scale is None or not name.endswith(".weight"):
            found[name] = tensor.to(FLOAT8)
        else:
            factor = tensor.abs().max() / 448  # the largest number in float8
            found[name] = (tensor / factor).to(FLOAT8)
            found[f"{name.removesuffix('weight')}{scale}"] = factor
    return found


def write_gguf(tensors: Tensors, file: Path, kind: GGMLQuantizationType) -> Path:
    """Writes the tensors with matrices in a format, if their rows fill its blocks, and all else in float32."""
    writer = GGUFWriter(file, "tiny")
    for name, tensor in tensors.items():
        block = quants.GGML_QUANT_SIZES[kind][0]
        own = kind if tensor.ndim > 1 and not tensor.shape[-1] % block else GGMLQuantizationType.F32
        writer.add_tensor(name, quants.quantize(_array(tensor), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().numpy()
