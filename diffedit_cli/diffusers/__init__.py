"""A drop-in for diffusers' deprecated DiffEdit pipeline, for notebooks written for it; only the import changes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import (
        DDIMInverseScheduler,
        DDIMScheduler,
        DPMSolverMultistepInverseScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
    )

    from diffedit_cli.diffusers.outputs import DiffEditInversionPipelineOutput, StableDiffusionPipelineOutput
    from diffedit_cli.diffusers.pipeline import StableDiffusionDiffEditPipeline

_PLACES = {
    "DDIMInverseScheduler": "diffusers",
    "DDIMScheduler": "diffusers",
    "DPMSolverMultistepInverseScheduler": "diffusers",
    "DPMSolverMultistepScheduler": "diffusers",
    "DiffEditInversionPipelineOutput": "diffedit_cli.diffusers.outputs",
    "EulerDiscreteScheduler": "diffusers",
    "StableDiffusionDiffEditPipeline": "diffedit_cli.diffusers.pipeline",
    "StableDiffusionPipelineOutput": "diffedit_cli.diffusers.outputs",
}
"""Modules by name; diffusers' own schedulers are there because its examples import them in the same line."""
__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DiffEditInversionPipelineOutput",
    "EulerDiscreteScheduler",
    "StableDiffusionDiffEditPipeline",
    "StableDiffusionPipelineOutput",
]


def __getattr__(name: str) -> Any:
    """All of it needs torch, so that it is imported when it is first used."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
