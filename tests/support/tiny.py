"""Writes tiny random models in the formats of Stable Diffusion 1.5 (epsilon), 2.1 (v), XL and 3 (flow)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

import diffedit_cli

BUILTIN = Path(diffedit_cli.__file__).parent / "builtin"
WORDS = ("a", "cat", "dog", "on", "grass")
TEXT_WIDTH, TEXT_WIDTH_2, T5_WIDTH = 32, 48, 96
POOLED, POOLED_2 = 16, 24

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

EULER = SCHEDULER | {  # as SDXL ships it
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}  # as SD3 ships it


def write_model(folder: Path, *, v_prediction: bool = False, channels: int = 4, width: int = TEXT_WIDTH) -> Path:
    """Writes a model folder for 64 px pictures, VAE factor 4, with a UNet for `channels` and text of `width`."""
    torch.manual_seed(2 if v_prediction else 10)
    vae(folder / "vae")
    unet(folder / "unet", channels, width)
    text_encoder(folder / "text_encoder")
    tokenizer(folder / "tokenizer", fast=v_prediction)
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM if v_prediction else PNDM)
    absent: dict[str, Any] = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    write_index(folder, "StableDiffusionPipeline", requires_safety_checker=False, **absent)
    return folder


def write_sdxl(folder: Path) -> Path:
    """Writes a model folder for 64 px pictures, VAE factor 4, whose text encoders differ in width."""
    torch.manual_seed(20)
    vae(folder / "vae")
    sizes = 8  # channels for each of the six sizes
    unet(
        folder / "unet",
        channels=4,
        width=TEXT_WIDTH + TEXT_WIDTH_2,
        addition_embed_type="text_time",
        addition_time_embed_dim=sizes,
        projection_class_embeddings_input_dim=6 * sizes + POOLED_2,
    )
    text_encoder(folder / "text_encoder")
    text_encoder(folder / "text_encoder_2", TEXT_WIDTH_2, POOLED_2)
    tokenizer(folder / "tokenizer", fast=False)
    tokenizer(folder / "tokenizer_2", fast=False, pad_token="!")  # as the real one has it
    write_json(folder / "scheduler" / "scheduler_config.json", EULER)
    write_index(folder, "StableDiffusionXLPipeline", force_zeros_for_empty_prompt=True)
    return folder


def write_sd3(folder: Path, t5: bool = True, first_projection: int = POOLED) -> Path:
    """Writes a model folder for 64 px pictures, VAE factor 4, with 16 latent channels in patches of 2 x 2."""
    torch.manual_seed(30)
    vae(folder / "vae", latent_channels=16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    transformer(folder / "transformer", first_projection + POOLED_2)
    text_encoder(folder / "text_encoder", TEXT_WIDTH, first_projection)
    text_encoder(folder / "text_encoder_2", TEXT_WIDTH_2, POOLED_2)
    tokenizer(folder / "tokenizer", fast=False)
    tokenizer(folder / "tokenizer_2", fast=False, pad_token="!")
    if t5:
        t5_encoder(folder / "text_encoder_3")
        t5_tokenizer(folder / "tokenizer_3")
    write_json(folder / "scheduler" / "scheduler_config.json", FLOW)
    absent = {} if t5 else {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    write_index(folder, "StableDiffusion3Pipeline", **absent)
    return folder


def write_safety(folder: Path, threshold: float) -> Path:
    """Adds a safety checker that flags similarities to its concepts above `threshold`: -1 flags any picture, 1 none."""
    torch.manual_seed(40)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds.normal_()
        checker.special_care_embeds.normal_()
        checker.concept_embeds_weights.fill_(threshold)
        checker.special_care_embeds_weights.fill_(1.0)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    write_json(folder / "model_index.json", index)
    return folder


def write_index(folder: Path, pipeline: str, **more: Any) -> None:
    """Writes model_index.json, with the class of each part that the part's own files name."""
    parts: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.6.0", **more}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        (config,) = [path for path in part.glob("*config.json") if path.name != "special_tokens_map.json"][:1]
        said = json.loads(config.read_text())
        kind = said.get("_class_name") or said.get("tokenizer_class") or said["architectures"][0]
        parts[part.name] = ["transformers" if part.name.startswith(("text", "token")) else "diffusers", kind]
    write_json(folder / "model_index.json", parts)


def vae(folder: Path, latent_channels: int = 4, **more: Any) -> None:
    model = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=3.0,  # latents of about unit size, as the real ones make them
        **more,
    )
    model.save_pretrained(folder)


def unet(folder: Path, channels: int, width: int, **more: Any) -> None:
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
        **more,
    )
    with torch.no_grad():  # random networks hardly listen to the text: without this masks are rounding errors
        for name, weight in model.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(4)
    model.save_pretrained(folder)


def transformer(folder: Path, pooled: int = POOLED + POOLED_2, channels: int = 16) -> None:
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=channels,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=pooled,
        pos_embed_max_size=24,
    )
    model.save_pretrained(folder)


def text_encoder(folder: Path, width: int = TEXT_WIDTH, projection: int | None = None) -> None:
    """Writes a text encoder, of the class with a projection if `projection` is given."""
    config = CLIPTextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=len(vocabulary()[0]) - 2,
        eos_token_id=len(vocabulary()[0]) - 1,
        initializer_range=1.0,
        projection_dim=projection or 512,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    kind(config).save_pretrained(folder)


def t5_encoder(folder: Path, width: int = T5_WIDTH) -> None:
    config = T5Config(
        vocab_size=len(t5_vocabulary()), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder)


def t5_tokenizer(folder: Path) -> None:
    """Writes a T5 unigram tokenizer of a few words and every letter."""
    T5Tokenizer(vocab=t5_vocabulary(), extra_ids=0, model_max_length=512).save_pretrained(folder)


def t5_vocabulary() -> list[tuple[str, float]]:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -2.0) for word in WORDS if len(word) > 1]
    return [*special, *words, *((letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz")]


def tokenizer(folder: Path, fast: bool, **more: Any) -> None:
    """Writes a CLIP byte-pair tokenizer with the merges of a few words; like the real one it spells all others."""
    vocab, merges = vocabulary()
    if fast:
        CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
        return
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **more})


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


def overflowing(model: Path, folder: Path, by: float) -> Path:
    """Copies a model, rounds its weights to half precision, and scales the output of the UNet's first layer by `by`."""
    shutil.copytree(model, folder)
    for weights in folder.glob("*/*.safetensors"):
        tensors = load_file(weights)
        if weights.parent.name == "unet":
            for name in ("conv_in.weight", "conv_in.bias"):
                tensors[name] = tensors[name] * by
        halves = {
            name: tensor.half().float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
        save_file(halves, weights, {"format": "pt"})
    return folder
