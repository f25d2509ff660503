"""Composes the finished picture from the repainted crops, and the record of how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.engine import region, seam
from diffedit_cli.images import masks, pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture
from diffedit_cli.pipeline import rooms, zoom
from diffedit_cli.pipeline.edit_plan import Plan
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.param_fields import FEATHER, MATCH
from diffedit_cli.storage import records

RING = 0.5  # latent cells: so far around a mask a model repaints surely, as it repaints whole cells


@dataclass(frozen=True)
class Repainting:
    """A crop as a model painted it, float32 (h, w, 3) in [-1, 1], with its box in the picture and its record.

    `cells` is the longer side of the crop's latents.
    """

    picture: NDArray[np.float32]
    cells: int
    box: Box
    record: Mapping[str, Any]
    latents: Mapping[str, Any] | None = None  # record of its inversion; None for an inpainting model
    before: NDArray[np.float32] | None = None  # the unedited crop as the model reproduces it
    unexplained: float | None = None  # error that --to leaves unexplained (engine.evidence)


@dataclass(frozen=True)
class EditVariant:
    """A finished picture with the repainted crops that it was composed of, the mask of its changes, and its record.

    `latents` are those of the whole picture; None if it was painted in crops or by an inpainting model.
    """

    picture: Picture
    painted: Sequence[Repainting]
    mask: Mask
    latents: Latents | None
    record: Mapping[str, Any]

    @property
    def unexplained(self) -> float | None:
        """The largest error that --to leaves unexplained among the crops (engine.evidence); None if none was judged."""
        found = [part.unexplained for part in self.painted if part.unexplained is not None]
        return max(found, default=None)

    @property
    def seed(self) -> int | None:
        """The seed of the noise that was drawn for this result; None if none was drawn."""
        drawn = [self.record.get(part, {}).get("seed") for part in ("edit", "latents")]
        found: int | None = next((seed for seed in drawn if seed is not None), None)
        return found

    @property
    def image(self) -> Image.Image:
        """The finished picture as an image of 8 bits, in its own mode."""
        return self.picture.image


def compose_variant(
    picture: Picture,
    mask: Mask,
    space: Mask,
    plan: Plan,
    latents: Latents | None,
    painted: Sequence[Repainting],
    about: Mapping[str, Any],
) -> EditVariant:
    """Returns the picture with the repainted crops pasted in where they truly changed.

    `space` is the mask with its room, the region that was painted. The edit fades in over `feather` latent cells.
    `about` are the inputs that all results for the picture share, such as the model.
    """
    params = plan.given
    is_drawn = mask.made is None or "drawn" in mask.made
    core = np.zeros_like(mask.pixels) if plan.kind == "add" and not is_drawn else mask.pixels
    changed, composed = _changed(mask, core, space, painted, plan), picture
    for part in painted:
        left, top, right, bottom = part.box
        width = params.feather * max(right - left, bottom - top) / part.cells
        shown = settled(part, picture, changed.pixels, plan.seam)
        composed = pictures.compose(composed, pictures.pixels(shown), changed.pixels, width, part.box)
    first = painted[0]
    made = {"mask": mask.record(), "edit": first.record} | ({"latents": first.latents} if first.latents else {})
    inner = {stage: {k: v for k, v in part.items() if k not in about} for stage, part in made.items()}
    if mask.made is not None:  # a flat record, like that of a mask from `diffedit mask`
        by = {stage: part for stage, part in inner.items() if stage != "mask"}
        changed = replace(changed, made={**about, **mask.made, **by, masks.CHANGED: True})
    return EditVariant(composed, painted, changed, latents, records.record("edit", {**about, **inner}))


def settled(part: Repainting, picture: Picture, changed: NDArray[np.bool_], how: str) -> NDArray[np.float32]:
    """Returns a repainted crop that meets the picture at the rim of the changed region in one of `param_fields.SEAMS`.

    `changed` (H, W) has the picture's size.
    """
    if how == FEATHER:
        return part.picture
    height, width = part.picture.shape[:2]
    M = Image.fromarray(zoom.inside(changed, part.box).astype(np.uint8) * 255)
    inside = np.asarray(M.resize((width, height), Image.Resampling.BOX)) > 0
    before = picture.crop(part.box).model_input((width, height)).transpose(1, 2, 0)
    if how == MATCH:
        return seam.match_colours(part.picture, before, inside, RING * max(height, width) / part.cells)
    return seam.blend_gradients(part.picture, before, inside)


def _changed(mask: Mask, core: NDArray[np.bool_], space: Mask, painted: Sequence[Repainting], plan: Plan) -> Mask:
    """Returns the mask of the changes: its core, and pixels of its space that differ from the unedited crop.

    If nothing changed, the mask is the whole painted region.
    """
    limit, exchanged = plan.given.paste_above or 0.0, plan.kind in ("object", "add")
    keep = np.zeros_like(space.pixels)
    for part in painted:
        ours, room = (zoom.inside(pixels, part.box) for pixels in (core, space.pixels))
        if part.before is None:
            apart = np.ones((1, 1), dtype=bool)
        else:
            after, before = pictures.pixels(part.picture), pictures.pixels(part.before)
            old = np.asarray(Image.fromarray(ours).resize(after.shape[1::-1], Image.Resampling.NEAREST))
            apart = region.find_changes(after, before, limit, old if exchanged else None)
        zoom.inside(keep, part.box)[:] = rooms.keep_changes(ours, room, apart)
    if not keep.any():
        keep = space.pixels
    return space.cut(keep, space.made or {}) if mask.made is not None else replace(space, pixels=keep)
