"""Table of the model families in diffusers' format: their pipelines and parts. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
        attends: Whether the denoiser has cross-attention from the picture to the words, as UNets do.
        follows_flow: Whether the family uses flow matching in place of a noise schedule.
    """

    implementation: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("safety_checker", "feature_extractor")
    denoiser: str = "unet"
    attends: bool = True
    follows_flow: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return self.networks + self.others

    @property
    def all_parts(self) -> tuple[str, ...]:
        return (*self.parts, *self.optional, *self.beside)


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
        attends=False,
        follows_flow=True,
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
