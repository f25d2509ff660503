"""Writes tiny random models that only paint, in diffusers' format: FLUX.1 Fill and Kontext, Qwen-Image-Edit, others."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, LongCatImageTransformer2DModel, UNet2DConditionModel
from tiny import T5_WIDTH, TEXT_WIDTH, vae, write_json, write_model, write_sdxl
from tiny_transformers import (
    QWEN_WIDTH,
    VALUES,
    qwen_tokenizer,
    scaled,
    write_flux,
    write_flux2,
    write_qwen_image,
)
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SEEING = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CELLS = 4 * 16  # channels of a patch of 2 x 2 cells of FLUX.1's VAE
MASK = 4 * 4**2  # pixels of such a patch: cells have 4 pixels here


def write_fill(folder: Path) -> Path:
    """Writes a model like FLUX.1 Fill: its transformer reads latents, masked picture and mask."""
    write_flux(folder)
    flux_transformer(folder, 2 * CELLS + MASK)
    return renamed(folder, "FluxFillPipeline")


def write_kontext(folder: Path) -> Path:
    """Writes a model like FLUX.1 Kontext."""
    write_flux(folder)
    return renamed(folder, "FluxKontextPipeline")


def write_klein(folder: Path) -> Path:
    """Writes a model like FLUX.2-klein, base, with the name of its inpainting pipeline."""
    write_flux2(folder)
    return renamed(folder, "Flux2KleinInpaintPipeline")


def write_qwen_edit(folder: Path, pipeline: str = "QwenImageEditPipeline") -> Path:
    """Writes a model like Qwen-Image-Edit, whose processor makes pictures of 56 px."""
    write_qwen_image(folder)
    seeing_tokenizer(folder / "tokenizer")
    seeing_tokenizer(folder / "processor")
    Qwen2VLImageProcessorPil(size={"shortest_edge": 28**2, "longest_edge": 56**2}).save_pretrained(folder / "processor")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    start, end, picture, film = tokenizer.convert_tokens_to_ids(list(SEEING))
    settings = json.loads((folder / "text_encoder" / "config.json").read_text())
    settings |= {"vision_start_token_id": start, "vision_end_token_id": end}
    settings |= {"image_token_id": picture, "video_token_id": film}
    settings["text_config"]["vocab_size"] = len(tokenizer)
    torch.manual_seed(120)
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))
    encoder.save_pretrained(folder / "text_encoder")
    return renamed(folder, pipeline, processor=["transformers", "Qwen2VLProcessor"])


def write_pix2pix(folder: Path) -> Path:
    """Writes a model like InstructPix2Pix: its UNet reads the latents of the picture beside those of the noise."""
    return renamed(write_model(folder, channels=8), "StableDiffusionInstructPix2PixPipeline")


def write_sdxl_pix2pix(folder: Path) -> Path:
    """Writes a model like InstructPix2Pix of Stable Diffusion XL."""
    write_sdxl(folder)
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"in_channels": 8}
    torch.manual_seed(130)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return renamed(folder, "StableDiffusionXLInstructPix2PixPipeline")


def write_pag(folder: Path) -> Path:
    """Writes a plain model under the name of the inpainting pipeline with perturbed attention."""
    return renamed(write_model(folder), "StableDiffusionPAGInpaintPipeline")


def write_longcat(folder: Path) -> Path:
    """Writes a model like LongCat-Image-Edit, whose encoder sees the picture, as that of Qwen-Image-Edit."""
    write_qwen_edit(folder)
    (folder / "processor").rename(folder / "text_processor")
    vae(folder / "vae", latent_channels=16, shift_factor=0.06)
    torch.manual_seed(140)
    network = LongCatImageTransformer2DModel(
        in_channels=CELLS, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=QWEN_WIDTH, pooled_projection_dim=QWEN_WIDTH, axes_dims_rope=[4, 6, 6],
    )  # fmt: skip
    network.save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_processor"] = index.pop("processor")
    index |= {"vae": ["diffusers", "AutoencoderKL"], "transformer": ["diffusers", "LongCatImageTransformer2DModel"]}
    write_json(folder / "model_index.json", index)
    return renamed(folder, "LongCatImageEditPipeline")


def seeing_tokenizer(folder: Path) -> None:
    """Writes the tokenizer of Qwen, with the tokens that stand for pictures."""
    qwen_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens(list(SEEING), special_tokens=True)
    tokenizer.save_pretrained(folder)


def flux_transformer(folder: Path, channels: int) -> None:
    torch.manual_seed(81)
    transformer = FluxTransformer2DModel(
        in_channels=channels, out_channels=CELLS, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=T5_WIDTH, pooled_projection_dim=TEXT_WIDTH, guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scaled(transformer, **dict.fromkeys(VALUES, 10), proj_out=0.3)
    transformer.save_pretrained(folder / "transformer")


def renamed(folder: Path, pipeline: str, **parts: list[str]) -> Path:
    """Gives a folder another pipeline and further parts."""
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | {"_class_name": pipeline, **parts})
    return folder
