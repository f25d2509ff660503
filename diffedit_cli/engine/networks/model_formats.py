"""Table of the model families in diffusers' format: their pipelines and parts. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError


@dataclass(frozen=True)
class NetworkFile:
    """Names of the tensors in files that hold the denoiser alone.

    Attributes:
        usual: Hub id or short name of the model whose other parts such a file takes unless another is named.
        marks: Tensors that every such file holds. A file that holds the marks of several layouts has that with most.
    """

    usual: str
    marks: tuple[str, ...]


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
        attends: Whether the mask reads attention to the words unless asked otherwise: measured for UNets only.
        follows_flow: Whether the family uses flow matching in place of a noise schedule.
        native_side: Side in pixels of the training pictures, if the denoiser's settings do not state it (0: they do).
        vae_levels: Entry of the VAE's settings that lists its resolutions.
        checkpoints: By the name of a model: prefixes of the text encoders in checkpoints with its authors' layout.
        optional_encoders: Prefixes of text encoders that such checkpoints may lack.
        input_layer: Layer of the denoiser that reads the latents, in such checkpoints.
        network_files: Files that hold the denoiser alone, in the authors' layouts and in diffusers' names.
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
    native_side: int = 0
    vae_levels: str = "block_out_channels"
    checkpoints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    optional_encoders: Mapping[str, str] = field(default_factory=dict)
    input_layer: str = "input_blocks.0.0"
    network_files: tuple[NetworkFile, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return self.networks + self.others

    @property
    def all_parts(self) -> tuple[str, ...]:
        return (*self.parts, *self.optional, *self.beside)

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


KLEIN, Z_IMAGE, CHROMA = "black-forest-labs/FLUX.2-klein-4B", "Tongyi-MAI/Z-Image-Turbo", "lodestones/Chroma1-HD"
DEV, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
EMBEDDERS, SINGLE = "time_text_embed", "single_transformer_blocks.0.proj_mlp.weight"  # of FLUX.1 in diffusers' names

FAMILIES = {
    "sd": Family(
        implementation="sd.StableDiffusion",
        pipelines=_pipelines("StableDiffusion", "DiffEdit", "Inpaint"),
        networks=("vae", "unet", "text_encoder"),
        others=("tokenizer", "scheduler"),
        checkpoints={
            "sd15": {"text_encoder": "cond_stage_model.transformer."},
            "sd21": {"text_encoder": "cond_stage_model.model."},
        },
        network_files=(
            NetworkFile("sd15", ("input_blocks.0.0.weight", "middle_block.1.transformer_blocks.0.attn2.to_k.weight")),
            NetworkFile("sd15", ("conv_in.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")),
        ),
    ),
    "sdxl": Family(
        implementation="sdxl.StableDiffusionXL",
        pipelines=_pipelines("StableDiffusionXL", "Inpaint"),
        networks=("vae", "unet", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        checkpoints={
            "sdxl": {
                "text_encoder": "conditioner.embedders.0.transformer.",
                "text_encoder_2": "conditioner.embedders.1.model.",
            }
        },
        network_files=tuple(
            NetworkFile("sdxl", (*marks, f"{middle}.transformer_blocks.0.attn2.to_k.weight"))
            for *marks, middle in (
                ("input_blocks.0.0.weight", "label_emb.0.0.weight", "middle_block.1"),
                ("conv_in.weight", "add_embedding.linear_1.weight", "mid_block.attentions.0"),
            )
        ),
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
        checkpoints={
            "sd3": {
                "text_encoder": "text_encoders.clip_l.transformer.",
                "text_encoder_2": "text_encoders.clip_g.transformer.",
            }
        },
        optional_encoders={"text_encoder_3": "text_encoders.t5xxl.transformer."},
        input_layer="x_embedder.proj",
        network_files=(
            NetworkFile("sd3", ("x_embedder.proj.weight", "joint_blocks.0.context_block.attn.qkv.weight")),
            NetworkFile("sd3", ("pos_embed.proj.weight", "transformer_blocks.0.norm1_context.linear.weight")),
        ),
    ),
    "flux2": Family(
        implementation="flux2.Flux2Klein",
        pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        network_files=(
            NetworkFile(KLEIN, ("img_in.weight", "double_stream_modulation_img.lin.weight")),
            NetworkFile(KLEIN, ("x_embedder.weight", "double_stream_modulation_img.linear.weight")),
        ),
    ),
    "flux": Family(
        implementation="flux.Flux",
        pipelines=_pipelines("Flux", "Inpaint"),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        network_files=(
            NetworkFile(SCHNELL, ("vector_in.in_layer.weight", "double_blocks.0.img_attn.qkv.weight")),
            NetworkFile(
                DEV, ("vector_in.in_layer.weight", "double_blocks.0.img_attn.qkv.weight", "guidance_in.in_layer.weight")
            ),
            NetworkFile(SCHNELL, (f"{EMBEDDERS}.text_embedder.linear_1.weight", SINGLE)),
            NetworkFile(
                DEV,
                (
                    f"{EMBEDDERS}.text_embedder.linear_1.weight",
                    SINGLE,
                    f"{EMBEDDERS}.guidance_embedder.linear_1.weight",
                ),
            ),
        ),
    ),
    "chroma": Family(
        implementation="chroma.Chroma",
        pipelines=_pipelines("Chroma", "Inpaint"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        network_files=(
            NetworkFile(CHROMA, ("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight")),
            NetworkFile(CHROMA, ("distilled_guidance_layer.in_proj.weight", SINGLE)),
        ),
    ),
    "qwen-image": Family(
        implementation="qwen_image.QwenImage",
        pipelines=_pipelines("QwenImage", "Inpaint"),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        vae_levels="dim_mult",
        network_files=(NetworkFile("Qwen/Qwen-Image", ("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight")),),
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
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        attends=False,
        follows_flow=True,
        native_side=1024,
        network_files=(
            NetworkFile(Z_IMAGE, ("x_embedder.weight", "cap_pad_token", "layers.0.attention.qkv.weight")),
            NetworkFile(Z_IMAGE, ("all_x_embedder.2-1.weight", "cap_pad_token", "layers.0.attention.to_q.weight")),
        ),
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


PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
"""Prefixes of the names of all tensors in files that hold the denoiser alone: ComfyUI's, trainers', and none."""


def without_prefix(names: Collection[str]) -> dict[str, str]:
    """Returns the names of a file's tensors without the prefix that all of them have -> as they are."""
    prefix = next(one for one in PREFIXES if all(name.startswith(one) or "." not in name for name in names))
    return {name.removeprefix(prefix): name for name in names}


def network_file(names: Collection[str]) -> tuple[str, NetworkFile] | None:
    """Returns the family and the layout of a file that holds the denoiser alone, by its tensors; None for any other."""
    bare = without_prefix(names)
    found = [
        (family, layout)
        for family, row in FAMILIES.items()
        for layout in row.network_files
        if all(mark in bare for mark in layout.marks)
    ]
    return max(found, key=lambda one: len(one[1].marks), default=None)


SETTINGS_KEY = "lora_adapter_metadata"
"""Header entry with PEFT's settings in LoRA files that diffusers wrote."""


def adapter_settings(lora: Path) -> Path | None:
    """Returns the settings file, which has the alpha, of a LoRA that PEFT wrote; None for any other LoRA."""
    path = lora.with_name("adapter_config.json")
    return path if lora.name == "adapter_model.safetensors" and path.is_file() else None
