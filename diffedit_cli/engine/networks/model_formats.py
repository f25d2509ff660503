"""Table of the model families in diffusers' format: their pipelines and parts. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Format of a family of models.

    Attributes:
        implementation: Module of this package and class in it that compute the family, as "sd.StableDiffusion".
        pipelines: Names of the diffusers pipelines with this format.
        networks: Parts of a folder that are networks.
        others: Other parts that a folder must have.
        optional: Parts that a folder may lack.
        beside: Parts that neither a mask nor latents depend on.
        denoiser: Part that is the denoising network.
        language_models: Text encoders with billions of parameters, which are quantised like the denoising network.
        attends: Whether the mask reads attention to the words unless asked otherwise: measured for UNets only.
        follows_flow: Whether the family uses flow matching in place of a noise schedule.
        native_side: Side in pixels of the training pictures, if the denoiser's settings do not state it (0: they do).
        vae_levels: Entry of the VAE's settings that lists its resolutions.
        vae_maps: Maps of the VAE's first width, of the picture's size, that are alive at once while it decodes.
    """

    implementation: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("safety_checker", "feature_extractor")
    denoiser: str = "unet"
    language_models: tuple[str, ...] = ()
    attends: bool = True
    follows_flow: bool = False
    native_side: int = 0
    vae_levels: str = "block_out_channels"
    vae_maps: int = 6

    @property
    def parts(self) -> tuple[str, ...]:
        return self.networks + self.others

    @property
    def all_parts(self) -> tuple[str, ...]:
        return (*self.parts, *self.optional, *self.beside)

    @property
    def quantised(self) -> tuple[str, ...]:
        """Parts that --quantize changes."""
        return (self.denoiser, *self.language_models)

    def factor(self, vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of a latent cell by the settings of the VAE."""
        return int(2 ** (len(vae.get(self.vae_levels, [0])) - 1))

    def native_size(self, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of the training pictures by the settings of the denoiser and the VAE."""
        if self.native_side:
            return int(vae.get("sample_size") or self.native_side)
        return int(denoiser.get("sample_size", 0) * self.factor(vae))


def _pipelines(stem: str, *tasks: str) -> tuple[str, ...]:
    return tuple(f"{stem}{task}Pipeline" for task in ("", "Img2Img", *tasks))


FAMILIES = {
    "sd": Family(
        implementation="sd.StableDiffusion",
        pipelines=_pipelines("StableDiffusion", "DiffEdit", "Inpaint"),
        networks=("vae", "unet", "text_encoder"),
        others=("tokenizer", "scheduler"),
    ),
    "sdxl": Family(
        implementation="sdxl.StableDiffusionXL",
        pipelines=_pipelines("StableDiffusionXL", "Inpaint"),
        networks=("vae", "unet", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
    ),
    "sd3": Family(
        implementation="sd3.StableDiffusion3",
        pipelines=_pipelines("StableDiffusion3", "Inpaint"),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        optional=("text_encoder_3", "tokenizer_3"),
        denoiser="transformer",
        language_models=("text_encoder_3",),
        attends=False,
        follows_flow=True,
    ),
    "flux2": Family(
        implementation="flux2.Flux2Klein",
        pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "flux": Family(
        implementation="flux.Flux",
        pipelines=_pipelines("Flux", "Inpaint"),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder_2",),
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "chroma": Family(
        implementation="chroma.Chroma",
        pipelines=_pipelines("Chroma", "Inpaint"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "qwen-image": Family(
        implementation="qwen_image.QwenImage",
        pipelines=_pipelines("QwenImage", "Inpaint"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        vae_levels="dim_mult",
        vae_maps=18,
    ),
    "pixart": Family(
        implementation="pixart.PixArtSigma",
        pipelines=("PixArtSigmaPipeline",),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
    ),
    "z-image": Family(
        implementation="z_image.ZImage",
        pipelines=_pipelines("ZImage", "Inpaint"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
}


def family_with(pipeline: object, name: str) -> str:
    """Returns the family of a diffusers pipeline class. Raises ModelError if diffedit cannot use it.

    Args:
        pipeline: Class name from `model_index.json`.
        name: Name of the model, for messages.
    """
    for family, known in FAMILIES.items():
        if pipeline in known.pipelines:
            return family
    raise ModelError(
        f"{name} is a {str(pipeline)[:80]}, which diffedit cannot use; use a Stable Diffusion 1.x, 2.x, XL or 3 model."
    )


SETTINGS_KEY = "lora_adapter_metadata"
"""Header entry with PEFT's settings in LoRA files that diffusers wrote."""


def adapter_settings(lora: Path) -> Path | None:
    """Returns the settings file, which has the alpha, of a LoRA that PEFT wrote; None for any other LoRA."""
    path = lora.with_name("adapter_config.json")
    return path if lora.name == "adapter_model.safetensors" and path.is_file() else None


LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
"""Library that a kind of quantisation needs."""
INSTALL = "install it with: pip install 'diffedit-cli[quantize]'"
_IN_BLOCK = re.compile(r"(.*\.)?\d+\.(\w+\.)+weight")
_IN_FULL = (".wo.weight",)  # T5's layers that transformers keeps in float32 beside float16


def is_quantised_weight(name: str) -> bool:
    """Whether --quantize changes the weight of this name, if it is one of a linear layer: those of repeated blocks."""
    return _IN_BLOCK.fullmatch(name) is not None and not name.endswith(_IN_FULL)
