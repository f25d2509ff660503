"""Which family reads a diffusers folder: the one table of them."""

from __future__ import annotations

from pathlib import Path

import torch

from diffedit_cli.engine import parts
from diffedit_cli.engine.latent import LatentDiffusion
from diffedit_cli.engine.model import Model
from diffedit_cli.engine.sd import StableDiffusion
from diffedit_cli.engine.sd3 import StableDiffusion3
from diffedit_cli.engine.sdxl import StableDiffusionXL
from diffedit_cli.errors import ModelError

FAMILIES: dict[str, type[LatentDiffusion]] = {  # by the start of the pipeline's name: the longer ones first
    "StableDiffusion3": StableDiffusion3,
    "StableDiffusionXL": StableDiffusionXL,
    "StableDiffusion": StableDiffusion,
}


def load(folder: Path, device: str, dtype: torch.dtype, name: str | None = None, variant: str | None = None) -> Model:
    """Reads a diffusers folder with the family that its `model_index.json` names. Raises ModelError."""
    name = name or str(folder)
    try:
        pipeline = str(parts.index(folder)["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{name} is no diffusers model: {folder / 'model_index.json'} names no pipeline.") from error
    for start, family in FAMILIES.items():
        if pipeline.startswith(start):
            return family.load(folder, device, dtype, name, variant)
    raise ModelError(
        f"{name} is a {pipeline}, which diffedit cannot use; use a Stable Diffusion 1.x, 2.x, XL or 3 model."
    )
