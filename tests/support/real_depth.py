"""Writes the files that `models pull NAME --no-weights` fetches, as deep as real models, as wide as `listings.TINY`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from listings import TINY

WIDE = TINY.open_clip * 5 // 4


def unet_settings(kind: str) -> dict[str, Any]:
    """Returns the configuration of a UNet2DConditionModel as deep as the real one."""
    widths = [TINY.unet * times for times in ((1, 2, 4) if kind == "sdxl" else (1, 2, 4, 4))]
    attends = (0, 1, 1) if kind == "sdxl" else (1, 1, 1, 0)
    found = {
        "_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4, "out_channels": 4,
        "block_out_channels": widths, "layers_per_block": 2, "attention_head_dim": 4, "norm_num_groups": 4,
        "down_block_types": [("CrossAttnDownBlock2D" if one else "DownBlock2D") for one in attends],
        "up_block_types": [("CrossAttnUpBlock2D" if one else "UpBlock2D") for one in reversed(attends)],
        "cross_attention_dim": {"sd15": TINY.clip, "sd21": TINY.open_clip, "sdxl": TINY.clip + WIDE}[kind],
        "use_linear_projection": kind != "sd15",
    }  # fmt: skip
    if kind == "sdxl":
        found |= {"transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
                  "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": WIDE + 1536}  # fmt: skip
    return found


def write_configuration(folder: Path, kind: str) -> Path:
    """Writes a model folder without weights, for `sd15`, `sd21`, `sdxl` or `sd3` (3.5 medium)."""
    flow = kind == "sd3"
    z = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False} if flow else {}
    vae = {
        "_class_name": "AutoencoderKL", "block_out_channels": [TINY.vae * times for times in (1, 2, 4, 4)],
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 2, "sample_size": 64,
    }  # fmt: skip
    tiny.write_json(folder / "vae" / "config.json", vae | z)
    if flow:
        transformer = {
            "_class_name": "SD3Transformer2DModel", "sample_size": 8, "patch_size": 2, "in_channels": 16,
            "out_channels": 16, "num_layers": 24, "attention_head_dim": TINY.head,
            "num_attention_heads": TINY.mmdit // TINY.head, "caption_projection_dim": TINY.mmdit,
            "joint_attention_dim": TINY.t5, "pooled_projection_dim": TINY.clip + WIDE, "pos_embed_max_size": 24,
            "qk_norm": "rms_norm", "dual_attention_layers": list(range(13)),
        }  # fmt: skip
        tiny.write_json(folder / "transformer" / "config.json", transformer)
        t5 = {
            "architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": TINY.t5_words, "d_model": TINY.t5,
            "d_kv": 8, "num_heads": TINY.t5 // 8, "d_ff": 2 * TINY.t5, "num_layers": 24,
            "feed_forward_proj": "gated-gelu",
        }  # fmt: skip
        tiny.write_json(folder / "text_encoder_3" / "config.json", t5)
        tiny.t5_tokenizer(folder / "tokenizer_3")
    else:
        tiny.write_json(folder / "unet" / "config.json", unet_settings(kind))
    sizes = {"sd15": [(TINY.clip, 12)], "sd21": [(TINY.open_clip, 23)]}.get(kind, [(TINY.clip, 12), (WIDE, 32)])
    for end, (width, layers) in zip(("", "_2"), sizes, strict=False):
        projected = flow or end
        encoder = {
            "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"], "hidden_size": width,
            "model_type": "clip_text_model", "vocab_size": TINY.words, "intermediate_size": 4 * width,
            "num_hidden_layers": layers, "num_attention_heads": 2, "projection_dim": width,
        }  # fmt: skip
        tiny.write_json(folder / f"text_encoder{end}" / "config.json", encoder)
        tiny.tokenizer(folder / f"tokenizer{end}", fast=False)
    scheduler = {"sd15": tiny.PNDM, "sd21": tiny.DDIM, "sdxl": tiny.EULER, "sd3": tiny.FLOW}[kind]
    tiny.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    name = {"sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline"}.get(kind, "StableDiffusionPipeline")
    tiny.write_index(folder, name)
    return folder
