"""Runs diffusers' inpainting pipelines: repaints the masked part of a picture."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging
from PIL import Image
from torch import Tensor

from diffedit_cli.engine.networks import building, components
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.painters import Painter
from diffedit_cli.errors import ModelError, reason

UNUSED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, "image_encoder": None}
"""Parts and settings that pipelines do without: results are checked elsewhere, and no picture is a prompt."""


class Inpainter:
    """Model that repaints under a mask without inversion: an inpainting model, or a plain one that starts from noise.

    Attributes:
        factor: Pixels in a side of a latent cell.
        native_size: Side in pixels of the square pictures that the model was trained on.
        multiple: Both sides of a picture must be multiples of this number of pixels.
        evaluations: Network evaluations so far, one for each row of a batch.
    """

    def __init__(self, pipeline: Any, family: Family, painter: Painter, name: str) -> None:
        """Raises ModelError if the network has another number of input channels than the pipeline gives."""
        self.pipeline, self.painter, self.name = pipeline, painter, name
        self.network = getattr(pipeline, family.denoiser)
        vae, denoiser = pipeline.vae.config, self.network.config
        self.factor = family.factor(vae)
        usable, taken = painter.inputs(family.channels(vae), self.factor), denoiser["in_channels"]
        if usable and taken not in usable:
            raise ModelError(
                f"{name} is not an inpainting model: its network takes {taken} channels, "
                f"not {' or '.join(map(str, usable))}."
            )
        self.native_size = family.native_size(denoiser, vae)
        self.multiple = family.multiple(denoiser, vae)
        self.evaluations = 0
        self.network.register_forward_pre_hook(self._count, with_kwargs=True)

    @classmethod
    def load(
        cls,
        folder: Path,
        family: Family,
        painter: Painter,
        device: str,
        dtype: torch.dtype,
        name: str,
        variant: str | None = None,
        spacing: str | None = None,
    ) -> Inpainter:
        """Returns the model of a diffusers folder, from `.safetensors` weights only.

        Args:
            folder: Diffusers folder of a model of `family`.
            family: Family of the model.
            painter: Pipeline that paints.
            device: Torch device that computes.
            dtype: Number format of the networks.
            name: Name of the model, for messages.
            spacing: Spacing of the timesteps. Default: the scheduler's own.
            variant: Variant of the weight files, such as "fp16". Default: the plain ones.

        Raises:
            ModelError: If the model cannot be used.
        """
        try:
            pipeline = _loaded(folder, family, painter, dtype, variant, spacing)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # readers raise many types
            raise ModelError(
                f"The inpainting model {name} cannot be loaded ({reason(error)}); check that {folder} is a "
                "complete inpainting model with .safetensors weights."
            ) from error
        with components.fit_errors(name):
            return cls(pipeline.to(device), family, painter, name)

    def paint(
        self,
        picture: Tensor,
        M: Tensor,
        prompt: str,
        *,
        negative: str,
        guidance: float,
        strength: float,
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int, int], object],
    ) -> Tensor:
        """Returns a picture (1, 3, H, W) in [-1, 1] repainted where the mask M (h, w) of its latents is 1.

        H and W are multiples of `multiple`; `strength` is the share of the schedule of `steps` steps where repainting
        starts, 0 to 1. A guidance scale of 1 is none. `progress` is called after each step with the numbers of finished
        and of all steps. Raises ModelError if the pipeline rejects these inputs.
        """

        def done(pipeline: Any, step: int, _: Any, kept: dict[str, Any]) -> dict[str, Any]:
            progress(step + 1, pipeline.num_timesteps)
            return kept

        given = self._pictures(picture, M) | {"negative_prompt": negative, "strength": strength}
        given |= {
            "callback_on_step_end": done,
            self.painter.guidance: guidance + (self.painter.unguided - 1),
            **self.painter.fixed,
        }
        with components.fit_errors(self.name):
            try:
                painted: Tensor = self.pipeline(
                    prompt=prompt,
                    num_inference_steps=steps,
                    generator=generator,
                    output_type="pt",
                    **{name: value for name, value in given.items() if name not in self.painter.lacks},
                ).images
            except (ValueError, TypeError) as error:
                raise ModelError(
                    f"The inpainting model {self.name} cannot repaint this picture ({reason(error)}); "
                    "use another --painter."
                ) from error
        return _resized(painted.float() * 2 - 1, picture)

    def _pictures(self, picture: Tensor, M: Tensor) -> dict[str, Any]:
        """Returns the arguments of the pipeline that are a picture (1, 3, H, W) and its mask, with their size."""
        shown = (picture + 1) / 2
        return {
            "image": _pillow(shown) if self.painter.takes_pillow else shown,
            "mask_image": F.interpolate(M[None, None], scale_factor=self.factor),
            "height": picture.shape[-2],
            "width": picture.shape[-1],
        }

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Context in which the networks run in float32, for use after a half-precision overflow."""
        dtype = self.network.dtype
        self.pipeline.to(dtype=torch.float32)
        try:
            yield
        finally:
            self.pipeline.to(dtype=dtype)

    def _count(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.evaluations += len(given[0] if given else named["hidden_states"])


def _loaded(
    folder: Path, family: Family, painter: Painter, dtype: torch.dtype, variant: str | None, spacing: str | None
) -> Any:
    """Returns the pipeline of a diffusers folder. Raises whatever libraries raise for one that they cannot read."""
    index = components.index(folder)
    given: dict[str, Any] = {part: value for part, value in UNUSED.items() if part in index}
    stored = [path for part in family.all_parts for path in (folder / part).glob("*.safetensors")]
    with _no_bar(), warnings.catch_warnings(), building.no_larger_than(stored), components.as_error():
        warnings.simplefilter("ignore", FutureWarning)  # torch_dtype: new versions call it dtype
        given |= {part: _named(reader)(folder / part) for part, reader in painter.readers.items()}
        pipeline = getattr(diffusers, painter.pipeline).from_pretrained(
            folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True, **given
        )
    if painter.repair:
        _named(painter.repair)(pipeline)
    if spacing:
        pipeline.scheduler.register_to_config(timestep_spacing=spacing)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _named(function: str) -> Callable[..., Any]:
    """Returns a function of this package by its module and name, as "chroma.repair_painting"."""
    module, _, name = function.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"diffedit_cli.engine.networks.{module}"), name)
    return found


def _pillow(shown: Tensor) -> Image.Image:
    """Returns a picture (1, 3, H, W) in [0, 1] as Pillow's."""
    picture: Image.Image = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(shown))[0]
    return picture


def _resized(painted: Tensor, like: Tensor) -> Tensor:
    """Returns a picture in the size of another one: some pipelines have sizes of their own."""
    if painted.shape == like.shape:
        return painted
    return F.interpolate(painted, size=like.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)


@contextmanager
def _no_bar() -> Iterator[None]:
    """Context without the progress bars of diffusers."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
