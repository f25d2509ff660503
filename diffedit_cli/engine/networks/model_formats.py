"""Table of the model families in diffusers' format: their pipelines and parts. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from diffedit_cli.engine.networks import painters
from diffedit_cli.engine.networks.family import Family, NetworkFile
from diffedit_cli.engine.networks.painters import Painter
from diffedit_cli.errors import ModelError


def _pipelines(stem: str, *tasks: str) -> tuple[str, ...]:
    return tuple(f"{stem}{task}Pipeline" for task in ("", "Img2Img", *tasks))


KLEIN, Z_IMAGE, CHROMA = "flux2-klein", "z-image-turbo", "chroma"
DEV, SCHNELL = "flux-dev", "flux-schnell"
SMALL_NETWORK = 2**27
"""Bytes of weights up to which copies of a network, in a layout or for a number of rows, cost little."""
EMBEDDERS, SINGLE = "time_text_embed", "single_transformer_blocks.0.proj_mlp.weight"  # of FLUX.1 in diffusers' names

FAMILIES = {
    "sd": Family(
        title="Stable Diffusion 1.x and 2.x",
        implementation="sd.StableDiffusion",
        pipelines=_pipelines("StableDiffusion", "DiffEdit", "Inpaint"),
        networks=("vae", "unet", "text_encoder"),
        others=("tokenizer", "scheduler"),
        adapted_encoders=("text_encoder",),
        learns_words=True,
        rowwise=True,
        painters=(Painter(pipeline="StableDiffusionInpaintPipeline", inputs=painters.plain_or_masked),),
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
        title="Stable Diffusion XL",
        implementation="sdxl.StableDiffusionXL",
        pipelines=_pipelines("StableDiffusionXL", "Inpaint"),
        upcasts_vae=True,
        settings={"force_zeros_for_empty_prompt": True},
        networks=("vae", "unet", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        adapted_encoders=("text_encoder", "text_encoder_2"),
        learns_words=True,
        rowwise=True,
        painters=(Painter(pipeline="StableDiffusionXLInpaintPipeline", inputs=painters.plain_or_masked),),
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
        title="Stable Diffusion 3 and 3.5",
        implementation="sd3.StableDiffusion3",
        pipelines=_pipelines("StableDiffusion3", "Inpaint"),
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        optional=("text_encoder_3", "tokenizer_3"),
        adapted_encoders=("text_encoder", "text_encoder_2"),
        learns_words=True,
        rowwise=True,
        denoiser="transformer",
        language_models=("text_encoder_3",),
        attends=False,
        follows_flow=True,
        painters=(Painter(pipeline="StableDiffusion3InpaintPipeline", inputs=painters.plain_or_masked),),
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
        title="FLUX.2-klein",
        implementation="flux2.Flux2Klein",
        pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
        settings={"is_distilled": False},
        half="bfloat16",
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        guidance=4.0,
        painters=(
            Painter(
                pipeline="Flux2KleinInpaintPipeline",
                inputs=painters.patches,
                lacks=("negative_prompt",),
                instructed=True,
            ),
        ),
        network_files=(
            NetworkFile(KLEIN, ("img_in.weight", "double_stream_modulation_img.lin.weight")),
            NetworkFile(KLEIN, ("x_embedder.weight", "double_stream_modulation_img.linear.weight")),
        ),
    ),
    "flux": Family(
        title="FLUX.1",
        implementation="flux.Flux",
        pipelines=(*_pipelines("Flux", "Inpaint", "Fill"), "FluxKontextPipeline", "FluxKontextInpaintPipeline"),
        half="bfloat16",
        networks=("vae", "transformer", "text_encoder", "text_encoder_2"),
        others=("tokenizer", "tokenizer_2", "scheduler"),
        adapted_encoders=("text_encoder", "text_encoder_2"),
        denoiser="transformer",
        language_models=("text_encoder_2",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        guidance=2.5,
        embeds_guidance=True,
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
        title="Chroma",
        implementation="chroma.Chroma",
        pipelines=_pipelines("Chroma", "Inpaint"),
        half="bfloat16",
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        guidance=5.0,
        painters=(Painter(pipeline="ChromaInpaintPipeline", inputs=painters.patches, repair="chroma.repair_painting"),),
        network_files=(
            NetworkFile(CHROMA, ("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight")),
            NetworkFile(CHROMA, ("distilled_guidance_layer.in_proj.weight", SINGLE)),
        ),
    ),
    "qwen-image": Family(
        title="Qwen-Image",
        implementation="qwen_image.QwenImage",
        pipelines=_pipelines("QwenImage", "Inpaint", "Edit", "EditInpaint", "EditPlus"),
        half="bfloat16",
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        optional=("processor",),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        vae_levels="dim_mult",
        vae_maps=18,
        guidance=4.0,
        vae_channels="z_dim",
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
                readers={"processor": "vision_language.read_processor"},
                repair="vision_language.mark_pictures",
                guidance="true_cfg_scale",
                instructed=True,
                takes_pillow=True,
                defaults={"guidance": 4.0, "strength": 1.0},
            ),
            Painter(
                pipeline="QwenImageEditPlusPipeline",
                folders=("QwenImageEditPlusPipeline",),
                inputs=painters.patches,
                readers={"processor": "vision_language.read_processor"},
                repair="vision_language.mark_pictures",
                guidance="true_cfg_scale",
                instructed=True,
                lacks=("strength", "mask_image"),
                takes_pillow=True,
                defaults={"guidance": 4.0},
            ),
        ),
        network_files=(NetworkFile("qwen-image", ("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight")),),
    ),
    "pixart": Family(
        title="PixArt-Sigma",
        implementation="pixart.PixArtSigma",
        pipelines=("PixArtSigmaPipeline",),
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        guidance=4.5,
    ),
    "z-image": Family(
        title="Z-Image",
        implementation="z_image.ZImage",
        pipelines=_pipelines("ZImage", "Inpaint"),
        half="bfloat16",
        networks=("vae", "transformer", "text_encoder"),
        others=("tokenizer", "scheduler"),
        denoiser="transformer",
        language_models=("text_encoder",),
        attends=False,
        follows_flow=True,
        native_side=1024,
        guidance=5.0,
        few_steps=8,
        painters=(Painter(pipeline="ZImageInpaintPipeline", unguided=0.0),),
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
    titles = ", ".join(known.title for known in FAMILIES.values())
    raise ModelError(
        f"{name} is a {str(pipeline)[:80]}, which diffedit cannot use; use a model of one of these families: {titles}."
    )


def refuse_painter(pipeline: str, name: str) -> None:
    """Raises ModelError for a model that can only paint, so that it finds no masks and inverts nothing.

    Args:
        pipeline: Class name from `model_index.json`.
        name: Name of the model, for messages.
    """
    if FAMILIES[family_with(pipeline, name)].only_paints(pipeline):
        raise only_paints(pipeline, name)


def only_paints(pipeline: str, name: str) -> ModelError:
    return ModelError(
        f"{name} is a painter ({pipeline}), which finds no masks and inverts nothing; use it with --painter, "
        "beside a --model that finds the mask."
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


LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
"""Library that a kind of quantisation needs."""
INSTALL = "install it with: pip install 'diffedit-cli[quantize]'"
_IN_BLOCK = re.compile(r"(.*\.)?\d+\.(\w+\.)+weight")
_IN_FULL = (".wo.weight",)  # T5's layers that transformers keeps in float32 beside float16
_NF4_INPUTS, _NF4_OUTPUTS = 64, 32  # bitsandbytes' kernels for CPUs need multiples of these


def is_quantised_weight(name: str) -> bool:
    """Whether --quantize changes the weight of this name, if it is one of a linear layer: those of repeated blocks."""
    return _IN_BLOCK.fullmatch(name) is not None and not is_kept_in_full(name)


def is_kept_in_full(name: str) -> bool:
    """Whether a weight of this name stays in float32 beside others in float16."""
    return name.endswith(_IN_FULL)


def fits_nf4(outputs: int, inputs: int) -> bool:
    """Whether a linear layer of this size can be quantised to 4 bits."""
    return outputs % _NF4_OUTPUTS == 0 and inputs % _NF4_INPUTS == 0
