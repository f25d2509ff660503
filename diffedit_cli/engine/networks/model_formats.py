"""The formats of models in diffusers' folders, one family each: which pipelines have it and what parts. Imports nothing
heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffedit_cli.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """A format of models: the pipelines that have it and the parts of a folder, the networks apart.

    `implementation` names the class that computes it, in a module beside this one.
    """

    implementation: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("safety_checker", "feature_extractor")  # no mask or latents depend on them
    denoiser: str = "unet"  # the network that predicts
    attends: bool = True  # from the picture to the words, as UNets do
    follows_flow: bool = False  # and no noise schedule

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
    """The format of a pipeline. Raises ModelError for one that diffedit cannot use."""
    for family, known in FAMILIES.items():
        if pipeline in known.pipelines:
            return family
    raise ModelError(
        f"{name} is a {str(pipeline)[:80]}, which diffedit cannot use; use a Stable Diffusion 1.x, 2.x, XL or 3 model."
    )


SETTINGS_KEY = "lora_adapter_metadata"
"""Where the header of a LoRA that diffusers wrote has PEFT's settings."""


def adapter_settings(lora: Path) -> Path | None:
    """The file with the alpha of a LoRA that PEFT wrote by itself; None for any other LoRA."""
    path = lora.with_name("adapter_config.json")
    return path if lora.name == "adapter_model.safetensors" and path.is_file() else None
