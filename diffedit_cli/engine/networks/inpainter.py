"""Runs diffusers' inpainting pipelines: repaints the masked part of a picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForInpainting
from diffusers.utils import logging
from torch import Tensor

from diffedit_cli.engine.networks import components
from diffedit_cli.errors import ModelError, reason


class Inpainter:
    """Model that repaints under a mask without inversion: an inpainting model, or a plain one that starts from noise.

    Attributes:
        factor: Pixels in a side of a latent cell.
        native_size: Side in pixels of the square pictures that the model was trained on.
        multiple: Both sides of a picture must be multiples of this number of pixels.
        evaluations: Network evaluations so far, one for each row of a batch.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        """Raises ModelError if the network has another number of input channels than an inpainting pipeline gives."""
        self.pipeline, self.name = pipeline, name
        self.network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
        latents, taken = pipeline.vae.config["latent_channels"], self.network.config["in_channels"]
        if taken not in (latents, 2 * latents + 1):  # the latter: with mask and masked picture
            raise ModelError(
                f"{name} is not an inpainting model: its network takes {taken} channels, "
                f"not {latents} or {2 * latents + 1}."
            )
        self.factor = 2 ** (len(pipeline.vae.config["block_out_channels"]) - 1)
        self.native_size = int(self.network.config["sample_size"]) * self.factor
        levels = len(self.network.config.get("block_out_channels", [0, 0]))
        self.multiple = self.factor * 2 ** (levels - 1)
        self.evaluations = 0
        self.network.register_forward_pre_hook(self._count, with_kwargs=True)

    @classmethod
    def load(cls, folder: Path, device: str, dtype: torch.dtype, name: str, variant: str | None = None) -> Inpainter:
        """Returns the model of a diffusers folder, from `.safetensors` weights only. Raises ModelError if unusable."""
        safety = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        index = components.index(folder)
        without = {part: value for part, value in safety.items() if part in index}  # results are checked elsewhere
        try:
            with _no_bar(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch_dtype: new versions call it dtype
                pipeline = AutoPipelineForInpainting.from_pretrained(
                    folder,
                    torch_dtype=dtype,
                    variant=variant,
                    use_safetensors=True,
                    local_files_only=True,
                    **without,
                )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # readers raise many types
            raise ModelError(
                f"The inpainting model {name} cannot be loaded ({reason(error)}); check that {folder} is a "
                "complete inpainting model with .safetensors weights."
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        with components.fit_errors(name):
            return cls(pipeline.to(device), name)

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
        starts, 0 to 1. `progress` is called after each step with the numbers of finished and of all steps.
        Raises ModelError if the pipeline rejects these inputs.
        """

        def done(pipeline: Any, step: int, _: Any, kept: dict[str, Any]) -> dict[str, Any]:
            progress(step + 1, pipeline.num_timesteps)
            return kept

        try:
            painted: Tensor = self.pipeline(
                prompt=prompt,
                negative_prompt=negative,
                image=(picture + 1) / 2,
                mask_image=F.interpolate(M[None, None], scale_factor=self.factor),
                height=picture.shape[-2],
                width=picture.shape[-1],
                guidance_scale=guidance,
                strength=strength,
                num_inference_steps=steps,
                generator=generator,
                output_type="pt",
                callback_on_step_end=done,
            ).images
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"The inpainting model {self.name} cannot repaint this picture ({reason(error)}); "
                "use another --inpainter."
            ) from error
        return painted.float() * 2 - 1

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
