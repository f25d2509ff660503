"""Writes tiny random models of the families with transformers, in diffusers' format and with the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from tiny import (
    T5_WIDTH,
    TEXT_WIDTH,
    WORDS,
    t5_encoder,
    t5_tokenizer,
    text_encoder,
    tokenizer,
    vae,
    write_index,
    write_json,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)  # as Qwen3 has it
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_WIDTH = 24
DYNAMIC = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
}  # as FLUX ships it
FIXED = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_start": 0.0001,
    "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
    "solver_order": 2, "timestep_spacing": "linspace", "steps_offset": 0,
}  # fmt: skip  # as PixArt-Sigma ships it
VALUES = tuple(f"transformer_blocks__{block}__attn__add_v_proj" for block in (0, 1))
BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "sample_size": 64,
}


def write_flux2(folder: Path, *, is_distilled: bool = False) -> Path:
    """Writes a model like FLUX.2-klein for 64 px pictures, with 8 latent channels in patches of 2 x 2."""
    torch.manual_seed(60)
    vae = AutoencoderKLFlux2(latent_channels=8, **BLOCKS)
    vae.bn.running_mean.normal_(0, 0.1)
    vae.bn.running_var.uniform_(0.02, 0.1)
    vae.save_pretrained(folder / "vae")
    transformer = Flux2Transformer2DModel(
        in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * QWEN_WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )  # fmt: skip
    scaled(transformer, **dict.fromkeys(VALUES, 10), proj_out=0.3)
    transformer.save_pretrained(folder / "transformer")
    qwen3(folder / "text_encoder", layers=28)
    qwen_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", DYNAMIC)
    write_index(folder, "Flux2KleinPipeline", is_distilled=is_distilled)
    return folder


def write_z_image(folder: Path, *, shift: float = 3.0) -> Path:
    """Writes a model like Z-Image for 64 px pictures, with 16 latent channels."""
    torch.manual_seed(70)
    flux_vae(folder / "vae")
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=QWEN_WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    scaled(transformer, cap_embedder__1=8, all_final_layer=0.5)
    with torch.no_grad():
        transformer.x_pad_token.normal_(0, 0.1)
        transformer.cap_pad_token.normal_(0, 0.1)
    transformer.save_pretrained(folder / "transformer")
    qwen3(folder / "text_encoder")
    qwen_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", FIXED | {"shift": shift})
    write_index(folder, "ZImagePipeline")
    return folder


def write_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """Writes a model like FLUX.1 dev, or like schnell without `guidance_embeds`, for 64 px pictures."""
    torch.manual_seed(80)
    flux_vae(folder / "vae")
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=TEXT_WIDTH, guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scaled(transformer, **dict.fromkeys(VALUES, 10), proj_out=0.3)
    transformer.save_pretrained(folder / "transformer")
    text_encoder(folder / "text_encoder")
    tokenizer(folder / "tokenizer", fast=False)
    t5_encoder(folder / "text_encoder_2")
    t5_tokenizer(folder / "tokenizer_2")
    schnell = FIXED | {"shift": 1.0}
    write_json(folder / "scheduler" / "scheduler_config.json", DYNAMIC if guidance_embeds else schnell)
    write_index(folder, "FluxPipeline")
    return folder


def write_chroma(folder: Path) -> Path:
    """Writes a model like Chroma for 64 px pictures."""
    torch.manual_seed(90)
    flux_vae(folder / "vae")
    transformer = ChromaTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, axes_dims_rope=(4, 6, 6), approximator_num_channels=16,
        approximator_hidden_dim=32, approximator_layers=2,
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    t5_encoder(folder / "text_encoder")
    t5_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", FIXED | {"shift": 1.0})
    write_index(folder, "ChromaPipeline")
    return folder


def write_qwen_image(folder: Path) -> Path:
    """Writes a model like Qwen-Image; its VAE states no picture size, so that it is made for 1024 px."""
    torch.manual_seed(100)
    AutoencoderKLQwenImage(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).save_pretrained(folder / "vae")
    transformer = QwenImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=QWEN_WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scaled(transformer, txt_in=8)
    transformer.save_pretrained(folder / "transformer")
    qwen_vl(folder / "text_encoder")
    qwen_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", DYNAMIC | {"shift_terminal": 0.02, "shift": 1.0})
    write_index(folder, "QwenImagePipeline")
    return folder


def write_pixart(folder: Path) -> Path:
    """Writes a model like PixArt-Sigma for 64 px pictures: noise and its variance are predicted."""
    torch.manual_seed(110)
    vae(folder / "vae")
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, cross_attention_dim=32, sample_size=16,
        caption_channels=T5_WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    scaled(transformer, caption_projection__linear_1=8, proj_out=0.1)
    transformer.save_pretrained(folder / "transformer")
    t5_encoder(folder / "text_encoder")
    t5_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", SOLVER)
    write_index(folder, "PixArtSigmaPipeline")
    return folder


def flux_vae(folder: Path) -> None:
    """Writes a VAE like that of FLUX.1: 16 channels, scale and shift."""
    quant = {"use_quant_conv": False, "use_post_quant_conv": False}
    AutoencoderKL(latent_channels=16, scaling_factor=3.0, shift_factor=0.1159, **BLOCKS, **quant).save_pretrained(
        folder
    )


def scaled(transformer: torch.nn.Module, **by: float) -> None:
    """Scales layers of a random network, so that it listens to the text, and answers with a moderate velocity."""
    with torch.no_grad():
        for layer, factor in by.items():
            for weight in transformer.get_submodule(layer.replace("__", ".")).parameters():
                weight.mul_(factor)


def qwen3(folder: Path, layers: int = 3) -> None:
    config = Qwen3Config(
        vocab_size=len(qwen_vocabulary()[0]) + len(SPECIAL), hidden_size=QWEN_WIDTH, intermediate_size=32,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1, head_dim=12, initializer_range=0.2,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)


def qwen_vl(folder: Path) -> None:
    """Writes a language model that sees, like Qwen2.5-VL."""
    text = {
        "vocab_size": len(qwen_vocabulary()[0]) + len(SPECIAL), "hidden_size": QWEN_WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "initializer_range": 0.2, "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]},
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": QWEN_WIDTH,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def qwen_tokenizer(folder: Path) -> None:
    """Writes a byte-level tokenizer with the merges of a few words, and a chat template."""
    vocab, merges = qwen_vocabulary()
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=4096, pad_token=SPECIAL[0], eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[1:]),
    )  # fmt: skip
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def qwen_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokens, merges = sorted(ByteLevel.alphabet()), []
    for word in (*WORDS, *(f"Ġ{word}" for word in WORDS)):
        whole, *rest = word
        for letter in rest:
            if (whole, letter) not in merges:
                merges.append((whole, letter))
            whole += letter
            if whole not in tokens:
                tokens.append(whole)
    return {token: number for number, token in enumerate(tokens)}, merges
