"""Painters without a row in the table of families: pipelines of diffusers that are called by their signature."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from diffedit_cli.engine.networks import painters
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.painters import Painter

EDITS = re.compile(r"\w*(Inpaint|Fill|Edit|InstructPix2Pix)\w*Pipeline")
"""Names of the pipelines that paint in a given picture."""
UNLIKE = re.compile(r"Control|SuperResolution|Combined|DiffEdit")
"""Those of them that need more than a picture, a mask and words, or that load further models."""
OPTIONAL = ("negative_prompt", "strength", "mask_image", "height", "width", "callback_on_step_end")
"""Arguments of `Painter.lacks`."""
DENOISERS, LEVELS = ("transformer", "unet"), {"block_out_channels": "latent_channels", "dim_mult": "z_dim"}
"""Parts that may be the denoiser; setting of a VAE that lists its resolutions -> the one with its channels."""
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
VISION = {"Qwen2VLProcessor": "vision_language.read_processor"}
"""Classes of parts that are read in a way of their own."""


def family(index: Mapping[str, Any], denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Family | None:
    """Returns the format of a folder whose pipeline can be called with a picture and words, and for a mask.

    Args:
        index: `model_index.json` of the folder.
        denoiser: Settings of its denoiser, `denoiser_of(index)`; empty if it has none.
        vae: Settings of its VAE; empty if it has none.

    Returns:
        A family of one pipeline, which can only paint; None if diffusers has no such pipeline, or if the folder names
        parts that are no models, tokenizers, processors or schedulers of diffusers and transformers.
    """
    told = json.dumps([index, denoiser, vae], sort_keys=True)
    return _family(told) if may_paint(index.get("_class_name")) and denoiser and vae else None


def may_paint(pipeline: object) -> bool:
    """Whether a pipeline of this name may be one, without importing diffusers."""
    return isinstance(pipeline, str) and bool(EDITS.fullmatch(pipeline)) and not UNLIKE.search(pipeline)


def denoiser_of(index: Mapping[str, Any]) -> str | None:
    """Returns the part of a folder that is its denoiser."""
    return next((part for part in DENOISERS if isinstance(index.get(part), list)), None)


@functools.lru_cache(maxsize=8)
def _family(told: str) -> Family | None:
    index, denoiser, vae = json.loads(told)
    name, part = str(index["_class_name"]), denoiser_of(index)
    given, levels = arguments(name), next((one for one in LEVELS if one in vae), None)
    parts = _parts(index)
    if given is None or levels is None or parts is None or not {part, "vae"} <= parts["networks"].keys():
        return None
    guidance = next((one for one in ("guidance_scale", "true_cfg_scale") if one in given), "guidance_scale")
    usual = given[guidance].default if guidance in given else None
    painter = Painter(
        pipeline=name,
        folders=(name,),
        inputs=painters.unknown,
        readers={one: VISION[kind] for one, kind in parts["others"].items() if kind in VISION},
        repair="vision_language.mark_pictures" if VISION.keys() & parts["others"].values() else "",
        guidance=guidance,
        lacks=tuple(one for one in (*OPTIONAL, guidance) if one not in given),
        instructed="mask_image" not in given,
        takes_pillow=True,
        defaults={} if not isinstance(usual, int | float) else {"guidance": float(usual)},
    )
    return Family(
        title=name.removesuffix("Pipeline"),
        implementation="",
        pipelines=(name,),
        networks=tuple(parts["networks"]),
        others=tuple(parts["others"]),
        denoiser=str(part),
        attends=False,
        native_side=0 if isinstance(denoiser.get("sample_size"), int) else 1024,
        vae_levels=levels,
        vae_channels=LEVELS[levels],
        half="float16" if part == "unet" else "bfloat16",
        painters=(painter,),
    )


def arguments(name: str) -> Mapping[str, inspect.Parameter] | None:
    """Returns the arguments of a pipeline of diffusers.

    None if it cannot be called with a picture and words alone, or paints without a VAE.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        return None
    if "vae" not in inspect.signature(kind).parameters:
        return None
    given = inspect.signature(kind.__call__).parameters
    needed = {one.name for one in given.values() if one.default is one.empty and one.kind not in VARIADIC}
    fits = {"image", "prompt", "num_inference_steps", "generator", "output_type"} <= given.keys()
    alone = needed <= {"self", "image", "prompt", "mask_image"} and not {"num_frames", "control_image"} & given.keys()
    return given if fits and alone else None


def _parts(index: Mapping[str, Any]) -> dict[str, dict[str, str]] | None:
    """Returns the classes of a folder's networks and of its other parts; None if one is of no kind that is read."""
    import diffusers
    import transformers

    found: dict[str, dict[str, str]] = {"networks": {}, "others": {}}
    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks = (diffusers.ModelMixin, transformers.PreTrainedModel)
    others = (
        diffusers.SchedulerMixin, transformers.PreTrainedTokenizerBase, transformers.ProcessorMixin,
        transformers.ImageProcessingMixin,
    )  # fmt: skip
    for part, said in index.items():
        if part in ("safety_checker", "feature_extractor", "image_encoder") or not isinstance(said, list):
            continue
        if said == [None, None]:
            continue
        library, name = said if len(said) == 2 else (None, None)
        kind = getattr(libraries.get(str(library)), str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, (*networks, *others))):
            return None
        found["networks" if issubclass(kind, networks) else "others"][part] = str(name)
    return found
