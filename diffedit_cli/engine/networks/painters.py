"""Describes how diffusers' pipelines that repaint under a mask are called. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Inputs = Callable[[int, int], tuple[int, ...]]
"""Returns the input channels that a network may have, for latents of C channels and cells of `factor` pixels."""


def plain(channels: int, factor: int) -> tuple[int, ...]:  # noqa: ARG001
    return (channels,)


def plain_or_masked(channels: int, factor: int) -> tuple[int, ...]:  # noqa: ARG001
    """The second is that of latents, mask and masked picture."""
    return channels, 2 * channels + 1


def patches(channels: int, factor: int) -> tuple[int, ...]:  # noqa: ARG001
    """Patches of 2 x 2 cells."""
    return (4 * channels,)


def masked_patches(channels: int, factor: int) -> tuple[int, ...]:
    """Patches of latents, of the masked picture's latents, and of the mask in pixels."""
    return (4 * (2 * channels + factor**2),)


def unknown(channels: int, factor: int) -> tuple[int, ...]:  # noqa: ARG001
    """Nothing to compare with: the pipeline itself finds out."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Painter:
    """How a pipeline of diffusers repaints with models of a family.

    Attributes:
        pipeline: Name of the pipeline that paints.
        folders: Names of the pipelines whose folders it paints with, and which can do nothing else. Empty, the
            default: all others of the family.
        inputs: Input channels that the network may have.
        readers: Parts of a folder that it needs besides those of the family, with the function of this package that
            reads each, as "vision_language.read_processor".
        repair: Function of this package that corrects the loaded pipeline, named like a reader. Default: none.
        guidance: Argument that is the guidance scale.
        unguided: Guidance scale, in the units of this argument, that switches guidance off. Default 1.
        lacks: Arguments that it lacks, of `negative_prompt`, `strength` (it starts from noise alone), `mask_image`
            (it repaints all, and only the masked pixels are taken), the guidance scale, `height`, `width`, and
            `callback_on_step_end`.
        instructed: Whether the model is made to change a picture by an instruction.
        takes_pillow: Whether it takes pictures of Pillow only.
        defaults: Parameters by name, used unless they are given.
        fixed: Further arguments.
    """

    pipeline: str
    folders: tuple[str, ...] = ()
    inputs: Inputs = plain
    readers: Mapping[str, str] = field(default_factory=dict)
    repair: str = ""
    guidance: str = "guidance_scale"
    unguided: float = 1.0
    lacks: tuple[str, ...] = ()
    instructed: bool = False
    takes_pillow: bool = False
    defaults: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
