"""Table of the model families in diffusers' format: their pipelines and parts. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks import painters
from diffedit_cli.engine.networks.painters import Painter
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
        painters: Pipelines that repaint under a mask with models of the family.
        vae_channels: Entry of the VAE's settings that is the number of channels of the latents.
        attends: Whether the mask reads attention to the words unless asked otherwise: measured for UNets only.
        follows_flow: Whether the family uses flow matching in place of a noise schedule.
        native_side: Side in pixels of the training pictures, if the denoiser's settings do not state it (0: they do).
        vae_levels: Entry of the VAE's settings that lists its resolutions.
    """

    implementation: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("safety_checker", "feature_extractor")
    denoiser: str = "unet"
    painters: tuple[Painter, ...] = ()
    vae_channels: str = "latent_channels"
    attends: bool = True
    follows_flow: bool = False
    native_side: int = 0
    vae_levels: str = "block_out_channels"

    @property
    def parts(self) -> tuple[str, ...]:
        return self.networks + self.others

    @property
    def all_parts(self) -> tuple[str, ...]:
        return (*self.parts, *self.optional, *self.beside)

    def factor(self, vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of a latent cell by the settings of the VAE."""
        return int(2 ** (len(vae.get(self.vae_levels, [0])) - 1))

    def channels(self, vae: Mapping[str, Any]) -> int:
        """Returns the channels of the latents by the settings of the VAE."""
        return int(vae.get(self.vae_channels, 0))

    def multiple(self, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """Returns the number of pixels that both sides of a picture must be multiples of.

        A UNet halves the latents between its levels, and others read patches of 2 x 2 cells.
        """
        levels = len(denoiser.get("block_out_channels", [0, 0]))
        return int(self.factor(vae) * 2 ** (levels - 1))

    def painter(self, pipeline: str) -> Painter | None:
        """Returns what repaints with the folders of a pipeline of the family; None if diffusers has nothing for it."""
        own = [painter for painter in self.painters if pipeline in painter.folders]
        return next(iter(own + [painter for painter in self.painters if not painter.folders]), None)

    def native_size(self, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
        """Returns the side in pixels of the training pictures by the settings of the denoiser and the VAE."""
        if self.native_side:
            return int(vae.get("sample_size") or self.native_side)
        return int(denoiser.get("sample_size", 0) * self.factor(vae))

    def only_paints(self, pipeline: str) -> bool:
        """Whether the models in the folders of a pipeline can neither find masks nor invert."""
        return any(pipeline in painter.folders for painter in self.painters)


def _pipelines(stem: str, *tasks: str) -> tuple[str, ...]:
    return tuple(f"{stem}{task}Pipeline" for task in ("", "Img2Img", *tasks))


FAMILIES = {
    "sd": Family(
        implementation="sd.StableDiffusion",
        pipelines=_pipelines("StableDiffusion", "DiffEdit", "Inpaint"),
        painters=(Painter(pipeline="StableDiffusionInpaintPipeline", inputs=painters.plain_or_masked),),
        networks=("vae", "unet", "text_encoder"),
        others=("tokenizer", "scheduler"),
    ),
    "sdxl": Family(
        implementation="sdxl.StableDiffusionXL",
        pipelines=_pipelines("StableDiffusionXL", "Inpaint"),
        painters=(Painter(pipeline="StableDiffusionXLInpaintPipeline", inputs=painters.plain_or_masked),),
        networks=("vae", "unet", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
    ),
    "sd3": Family(
        implementation="sd3.StableDiffusion3",
        pipelines=_pipelines("StableDiffusion3", "Inpaint"),
        painters=(Painter(pipeline="StableDiffusion3InpaintPipeline", inputs=painters.plain_or_masked),),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        optional=("text_encoder_3", "tokenizer_3"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
    ),
    "flux2": Family(
        implementation="flux2.Flux2Klein",
        pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
        painters=(
            Painter(
                pipeline="Flux2KleinInpaintPipeline",
                inputs=painters.patches,
                lacks=("negative_prompt",),
                instructed=True,
            ),
        ),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "flux": Family(
        implementation="flux.Flux",
        pipelines=(*_pipelines("Flux", "Inpaint", "Fill"), "FluxKontextPipeline", "FluxKontextInpaintPipeline"),
        painters=(
            Painter(
                pipeline="FluxInpaintPipeline",
                inputs=painters.patches,
                lacks=("negative_prompt",),
            ),
            Painter(
                pipeline="FluxFillPipeline",
                folders=("FluxFillPipeline",),
                inputs=painters.masked_patches,
                lacks=("negative_prompt",),
                defaults={"guidance": 30.0, "strength": 1.0},
            ),
            Painter(
                pipeline="FluxKontextInpaintPipeline",
                folders=("FluxKontextPipeline", "FluxKontextInpaintPipeline"),
                inputs=painters.patches,
                lacks=("negative_prompt",),
                instructed=True,
                defaults={"guidance": 2.5, "strength": 1.0},
                fixed={"_auto_resize": False},
            ),
        ),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "chroma": Family(
        implementation="chroma.Chroma",
        pipelines=_pipelines("Chroma", "Inpaint"),
        painters=(Painter(pipeline="ChromaInpaintPipeline", inputs=painters.patches, repair="chroma.repair_painting"),),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
    ),
    "qwen-image": Family(
        implementation="qwen_image.QwenImage",
        pipelines=_pipelines("QwenImage", "Inpaint", "Edit", "EditInpaint", "EditPlus"),
        painters=(
            Painter(
                pipeline="QwenImageInpaintPipeline",
                inputs=painters.patches,
                guidance="true_cfg_scale",
            ),
            Painter(
                pipeline="QwenImageEditInpaintPipeline",
                folders=("QwenImageEditPipeline", "QwenImageEditInpaintPipeline"),
                inputs=painters.patches,
                readers={"processor": "qwen_image_edit.read_processor"},
                repair="qwen_image_edit.mark_pictures",
                guidance="true_cfg_scale",
                instructed=True,
                takes_pillow=True,
                defaults={"guidance": 4.0, "strength": 1.0},
            ),
            Painter(
                pipeline="QwenImageEditPlusPipeline",
                folders=("QwenImageEditPlusPipeline",),
                inputs=painters.patches,
                readers={"processor": "qwen_image_edit.read_processor"},
                repair="qwen_image_edit.mark_pictures",
                guidance="true_cfg_scale",
                instructed=True,
                lacks=("strength", "mask_image"),
                takes_pillow=True,
                defaults={"guidance": 4.0},
            ),
        ),
        vae_channels="z_dim",
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        optional=("processor",),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        vae_levels="dim_mult",
    ),
    "pixart": Family(
        implementation="pixart.PixArtSigma",
        pipelines=("PixArtSigmaPipeline",),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
    ),
    "z-image": Family(
        implementation="z_image.ZImage",
        pipelines=_pipelines("ZImage", "Inpaint"),
        painters=(Painter(pipeline="ZImageInpaintPipeline", unguided=0.0),),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
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


def refuse_painter(pipeline: str, name: str) -> None:
    """Raises ModelError for a model that can only paint, so that it finds no masks and inverts nothing.

    Args:
        pipeline: Class name from `model_index.json`.
        name: Name of the model, for messages.
    """
    if FAMILIES[family_with(pipeline, name)].only_paints(pipeline):
        raise ModelError(
            f"{name} is a painter ({pipeline}), which finds no masks and inverts nothing; use it with --inpainter, "
            "beside a --model that finds the mask."
        )


SETTINGS_KEY = "lora_adapter_metadata"
"""Header entry with PEFT's settings in LoRA files that diffusers wrote."""


def adapter_settings(lora: Path) -> Path | None:
    """Returns the settings file, which has the alpha, of a LoRA that PEFT wrote; None for any other LoRA."""
    path = lora.with_name("adapter_config.json")
    return path if lora.name == "adapter_model.safetensors" and path.is_file() else None
