"""What the pipeline returns, and the picture that inverted latents carry with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.images import pictures

Images = list[Image.Image] | NDArray[Any] | Tensor
FORMS = ("pil", "np", "pt")
"""Forms of pictures and masks."""


@dataclass
class DiffEditInversionPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Result of `invert`.

    Attributes:
        latents: (B, T, C, h, w) inverted latents, float32, the noisiest first, the clean ones not among them.
        images: All B * T of them decoded, as `output_type` says; None without `decode_latents`.
    """

    latents: Tensor
    images: Images | None


@dataclass
class StableDiffusionPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Result of an edit.

    Attributes:
        images: Edited pictures, as `output_type` says.
        nsfw_content_detected: Whether the safety checker flags each picture, which is black then; None if there is no
            checker, or for latents.
    """

    images: Images
    nsfw_content_detected: list[bool] | None


@dataclass(frozen=True)
class Source:
    """What an edit needs of the pictures beside their inverted latents.

    Attributes:
        x_0: (B, C, h, w) clean latents, float32.
        pixels: (B, 3, H, W) pictures in [0, 1], in their own size. None: the latents were given without pictures.
    """

    x_0: Tensor
    pixels: Tensor | None = None

    def attach(self, latents: Tensor) -> None:
        """Makes inverted `latents` carry these pictures, so that the edit can keep their pixels.

        They are attributes of the tensor, which torch saves and loads with it; tensors derived from it lack them.
        """
        vars(latents).update({name: value for name, value in vars(self).items() if value is not None})

    @classmethod
    def of(cls, latents: Sequence[Tensor]) -> Source | None:
        """Returns what several inverted `latents` carry, in one batch; None if any of them lacks it."""
        if not all(hasattr(one, "x_0") for one in latents):
            return None
        pixels = [vars(one).get("pixels") for one in latents]
        joined = None if any(one is None for one in pixels) else torch.cat([one for one in pixels if one is not None])
        return cls(torch.cat([vars(one)["x_0"] for one in latents]), joined)


def compose(pixels: Tensor, painted: Tensor, M: Tensor, feather: float) -> Tensor:
    """Returns a picture with painted pixels in its masked cells; all other pixels are its own, bit for bit.

    Args:
        pixels: (3, H, W) picture in [0, 1].
        painted: (3, height, width) painted picture in [0, 1], stretched over the picture.
        M: (h, w) mask of latent cells, 1 is painted.
        feather: Cells over which the paint fades in, inside the mask.

    Returns:
        Picture (3, H, W) in [0, 1].
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    mask = F.interpolate(M[None, None].float(), size, mode="nearest-exact")[0, 0]
    if painted.shape[-2:] != pixels.shape[-2:]:
        painted = F.interpolate(painted[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    faded = pictures.fade(mask.bool().numpy(), feather * size[1] / M.shape[1])
    weights = torch.from_numpy(np.ascontiguousarray(faded))
    return torch.where(weights > 0, torch.lerp(pixels, painted, weights), pixels)


def convert(images: Tensor, output_type: str) -> Images:
    """Returns pictures in the form that a notebook asks for.

    Args:
        images: (B, 3, H, W) pictures in [0, 1], float32.
        output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W).
    """
    if output_type == "pt":
        return images
    array: NDArray[Any] = VaeImageProcessor.pt_to_numpy(images)
    return array if output_type == "np" else list(VaeImageProcessor.numpy_to_pil(array))


def convert_masks(M: Tensor, output_type: str) -> NDArray[np.int64] | list[Image.Image] | Tensor:
    """Returns masks in the form that a notebook asks for.

    Args:
        M: (B, h, w) boolean masks.
        output_type: "pil" (0 and 255), or "np" or "pt" (B, h, w) of 0 and 1.
    """
    if output_type == "pil":
        return [Image.fromarray(one) for one in M.to(torch.uint8).mul(255).numpy()]
    return M.long() if output_type == "pt" else M.long().numpy()
