"""Where an edit may paint and which of these pixels it keeps: the room around a mask, and the changes in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.engine import region
from diffedit_cli.engine.interfaces import Model
from diffedit_cli.images import pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline.edit_plan import NOISE, PICTURE, Plan
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.zoom import Part


def space(mask: Mask, plan: Plan, picture: Picture, allowed: MaskLimits) -> Mask:
    """Returns the mask enlarged by the room that the kind of edit paints in, within the limits `allowed`.

    A final mask is not enlarged: one that was drawn or cut by the user, or shown as the mask of an edit's changes.
    """
    room = plan.given.room or 0.0
    if not room or mask.is_final:
        return mask
    spread = region.grow if plan.kind == "remove" else region.roomy
    pixels = mask.pixels | (spread(mask.pixels, room) & allowed.open(picture))
    if mask.grey is None:
        return replace(mask, pixels=pixels)
    return replace(mask, pixels=pixels, grey=np.maximum(mask.grey, _slope(mask.pixels, pixels)))


def keep_changes(mask: NDArray[np.bool_], space: NDArray[np.bool_], apart: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the pixels (H, W) to keep: the mask, and pixels of its space that `apart` (h, w) marks as changed."""
    height, width = space.shape
    wide = Image.fromarray(apart).resize((width, height), Image.Resampling.NEAREST)
    found: NDArray[np.bool_] = mask | (space & np.asarray(wide))
    return found


def starting_latents(part: Part, plan: Plan, model: Model, x_0: Tensor, factor: int) -> Tensor | None:
    """Returns the clean latents that the edit starts from under its noise; None for x_0, the picture's own."""
    if plan.start == PICTURE:
        return None
    if plan.start == NOISE:
        return torch.zeros_like(x_0)
    size = x_0.shape[-1] * factor, x_0.shape[-2] * factor
    return model.encode(torch.from_numpy(fill_room(part.picture, part.mask.pixels, size))[None]).to(x_0.device)


def fill_room(picture: Picture, M: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Returns the model's input (3, height, width) in [-1, 1], with the masked region (H, W) filled from around it."""
    shown = pictures.pixels(picture.model_input(size)).transpose(1, 2, 0)
    wide = np.asarray(Image.fromarray(M.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
    return region.fill_region(shown, wide).transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1


def _slope(mask: NDArray[np.bool_], pixels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns grey values uint8 (H, W) that fall from the mask to the end of its room: a soft mask fades out."""
    from scipy import ndimage

    away, left = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(pixels)
    share = left / np.maximum(away + left, 1)
    return np.where(pixels & ~mask, np.maximum(1, share * 255), 0).astype(np.uint8)
