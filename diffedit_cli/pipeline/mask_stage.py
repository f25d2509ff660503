"""Step 1 of the paper: computes the maps of a picture and derives the mask from them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.engine import mask_refinement, region
from diffedit_cli.errors import NothingToEdit
from diffedit_cli.images import pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.images.previews import LEAST, MOST
from diffedit_cli.pipeline import cache_keys, input_checks, mask_limits
from diffedit_cli.pipeline.edit_plan import Plan
from diffedit_cli.pipeline.mask_expression import DRAWN, MASK_METHODS, SEGMENT, Operand, Operation
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.mask_maps import MapComputation, noises_at_once
from diffedit_cli.pipeline.mask_proposal import MaskProposal, as_grey, look_closer
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.segment_stage import SegmentStage
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays

USUAL = float(Params.threshold)  # default threshold; the mask at a higher one is a subset
RIM = 0.25  # latent cells by which a background overlaps the thing in it, so that none of the old one is left
LOOKED_AT = 512  # pixels of the longer side at which ground inside the mask is searched for
MOST_GROUND = (
    0.5  # share of the mask: if more looks like the surroundings, the object itself does, and nothing is removed
)


@dataclass(frozen=True)
class MaskStage:
    """Finds the mask of an edit."""

    context: StageContext

    def find(
        self, picture: Picture, plan: Plan, stats: EditStats, allowed: MaskLimits, drawn: Mask | None = None
    ) -> Mask:
        """Returns the mask of a picture, restricted to the limits `allowed`; `drawn` is the operand of that name.

        In a large picture each region is searched again in a crop, at a closer zoom. Raises NothingToEdit if the mask
        is empty or the picture does not show what --from names.
        """
        params, contrast = plan.given, None
        input_checks.check_operand(drawn, params)
        stats.spent("mask", 0)
        if params.compares:
            self.context.check_fits(picture, stats)
        of_maps = all(operand.name in MASK_METHODS for operand in params.mask_expression.operands())
        if plan.kind == "everything" and of_maps:
            shown = np.full(picture.size[::-1], 255, np.uint8)
        elif plan.kind == "add" and of_maps and (chosen := allowed.region(picture)) is not None:
            shown = chosen
        else:
            shown, contrast = self._joined(picture, plan, stats, drawn)
            if plan.kind == "background":
                cells = self.context.cells(picture) if contrast is None or not of_maps else max(contrast.shape)
                shown = surroundings(picture, shown, cells)
        if not shown.any():
            raise NothingToEdit(f"The mask of {picture.name} is empty: {_reason(plan)}.")
        mask = allowed.apply(
            replace(Mask.soft(shown, self._record(picture, params, drawn)), contrast=contrast), picture
        )
        if plan.kind not in ("background", "everything") and (advice := hint(mask, picture, params)):
            stats.warn(advice)
        return mask

    def _record(self, picture: Picture, params: Params, drawn: Mask | None) -> dict[str, Any]:
        """Returns the record of a mask; one that no prompts were compared for fits any model."""
        said = self.context.inputs(picture) if params.compares else self.context.inputs_of_any_model(picture)
        said |= cache_keys.mask(params) | ({} if drawn is None else {"drawn": drawn.digest})
        if any(operand.name == SEGMENT for operand in params.mask_expression.operands()):
            said["segmenter"] = SegmentStage(self.context, params).segmenter.name
        return said

    def _joined(
        self, picture: Picture, plan: Plan, stats: EditStats, drawn: Mask | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Returns the mask (H, W) that --mask-method says, and the first map (h, w) that a part of it was found in.

        Raises NothingToEdit if the mask is empty because a segmenter does not see what it looks for.
        """
        expression, segments = plan.given.mask_expression, SegmentStage(self.context, plan.given)
        proposals = {
            one: segments.find(picture, one.words or plan.given.segment, stats)
            if one.name == SEGMENT
            else self._propose(picture, plan, one.name, stats)
            for one in dict.fromkeys(expression.operands())
            if one.name != DRAWN
        }
        masks = {one: proposal.shown for one, proposal in proposals.items()}
        if drawn is not None:
            mask_limits.check_size(drawn, picture)
            masks[Operand(DRAWN)] = drawn.shown
        shown = expression.evaluate(masks.__getitem__)
        missed = [one for one, mask in masks.items() if one.name == SEGMENT and not mask.any()]
        if missed and not shown.any():
            words = " and no ".join(f'"{one.words or plan.given.segment}"' for one in missed)
            raise NothingToEdit(
                f"The segmenter {segments.segmenter.name} sees no {words} in {picture.name}; say it in other words, or "
                "name another one with --segmenter."
            )
        return shown, next((proposal.contrast for proposal in proposals.values()), None)

    def _propose(self, picture: Picture, plan: Plan, method: str, stats: EditStats) -> MaskProposal:
        """Returns the mask that the model proposes. Raises NothingToEdit if it does not see what --from names."""
        folder, compared = self.context.folder, plan.compared.with_one_method(method)
        if plan.kind == "add":
            there = (
                plan.there if plan.there is None or compared is plan.compared else plan.there.with_one_method(method)
            )
            return self._free_place(picture, compared, there, stats)
        explain = plan.claims and folder.evidence is not None and stats.gain is None
        proposal = self._seek(picture, compared, stats, explain)
        if explain:
            stats.gain = proposal.gain()
            limit = folder.evidence_of_looks if plan.kind == "attribute" else folder.evidence
            input_checks.check_seen(stats.gain, limit, picture, plan)
        return proposal

    def _seek(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> MaskProposal:
        """Returns the mask of a picture; with `explain` with the evidence for --from in the whole picture."""

        def look(part: Picture) -> MaskProposal:
            return self._seek_at_once(part, params, stats, explain and part is picture)

        return look_closer(look, picture, params.zoom_factor, self.context.native_size)

    def _free_place(self, picture: Picture, params: Params, there: Params | None, stats: EditStats) -> MaskProposal:
        """Returns the window where the words of --to are seen most, beside the things already there."""
        found = self._seek_at_once(picture, params, stats, False)
        taken = None if there is None else self._seek_at_once(picture, there, stats, False).shown > 0
        shown = region.best_window(found.contrast, found.shown.shape, avoid=taken)
        return replace(found, shown=shown.astype(np.uint8) * 255)

    def _seek_at_once(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> MaskProposal:
        """Returns the mask of a picture or crop without looking closer at its regions."""
        maps = self._maps(picture, params, stats, explain)
        explained = maps.pop("evidence").numpy() if explain else None
        contrast = used = functools.reduce(torch.mul, maps.values())
        raised = not isinstance(params.threshold, str) and params.threshold > USUAL
        usual = replace(params, threshold=USUAL) if raised else params
        wide = self._shape(used, picture, usual)
        if len(maps) > 1 and not wide.any():
            stats.warn("No region stands out in both maps of --mask-method both; the mask is that of noise alone.")
            used = maps["contrast"]
            wide = self._shape(used, picture, usual)
        shown = self._shape(used, picture, params) if raised else wide
        return MaskProposal(shown, wide, contrast.numpy(), explained)

    def _maps(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> dict[str, Tensor]:
        """Returns the maps (h, w) of the mask, each with its own cache entry; missing maps are computed together."""
        records = cache_keys.maps(params)
        if explain:
            records["evidence"] = cache_keys.reference(params) | {
                "noises": min(noises_at_once(params), params.most_maps)
            }
        inputs = {name: self.context.inputs(picture) | record for name, record in records.items()}

        def compute(missing: Collection[str]) -> Mapping[str, Arrays]:
            maps = MapComputation(self.context, picture, params, stats)
            made = self.context.session.run_stage("mask", stats, lambda: maps.compute(missing))
            return {name: {name: array} for name, array in made.items()}

        found = self.context.cache.get_or_compute("mask", inputs, stats, compute)
        return {name: torch.from_numpy(found[name][name]) for name in inputs}

    def _shape(self, contrast: Tensor, picture: Picture, params: Params) -> NDArray[np.uint8]:
        """Returns the mask uint8 (H, W) that is derived from a map (h, w)."""
        (width, height), (h, w) = picture.size, contrast.shape
        guide = None
        if params.edges or params.reach_down:
            factor = self.context.folder.factor
            guide = torch.from_numpy(picture.model_input((w * factor, h * factor)))
        return as_grey(mask_refinement.mask(contrast, (height, width), guide=guide, **params.binarisation))


def surroundings(picture: Picture, shown: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Returns the mask uint8 (H, W) of a background: all but a thing, plus the thing's rim and ground in its mask.

    Ground is what runs into the mask from the surroundings without an edge. `shown` (H, W) is the mask of the thing,
    and `cells` the longer side of the latents. Returns an empty mask if `shown` is empty or covers everything.
    """
    from scipy import ndimage

    thing = ndimage.binary_fill_holes(shown > 0)
    if thing.all() or not thing.any():
        return np.zeros_like(shown)
    outside = ndimage.distance_transform_edt(thing) <= RIM * max(shown.shape) / cells
    ground = _run_into(picture, thing)
    if np.count_nonzero(ground & thing) <= MOST_GROUND * np.count_nonzero(thing):
        outside |= ground
    return np.where(outside, np.uint8(255), np.uint8(0))


def _run_into(picture: Picture, thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the surroundings of a thing that run into its mask (H, W), computed at no more than LOOKED_AT pixels."""
    height, width = thing.shape
    scale = min(1.0, LOOKED_AT / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(thing).resize(size, Image.Resampling.NEAREST))
    ground = region.grow_into(pictures.pixels(picture.model_input(size)).transpose(1, 2, 0), small)
    return np.asarray(Image.fromarray(ground).resize((width, height), Image.Resampling.NEAREST))


def _reason(plan: Plan) -> str:
    """Returns why a mask is empty, and what to do."""
    if plan.kind == "background":
        return "what stays covers the whole picture; name it in other words, or draw the mask for --mask"
    if isinstance(plan.given.mask_expression, Operation):
        return f"nothing is left of {plan.given.mask_method}; find each of its parts alone to see what they are"
    if plan.given.draws:
        return "nothing in the file of --mask is white; paint what is to change"
    if plan.kind == "add":
        return "no place is left for what is added; say where it goes with --box, --point or --within"
    source, target = plan.given.from_, plan.given.to
    unlike = f'the model sees no difference between "{source}" and "{target}" there'
    return f"{unlike}; choose other words, or lower --threshold"


def hint(mask: Mask, picture: Picture, params: Params) -> str | None:
    """Returns advice for a mask that covers very little of the picture, or most of it; else None."""
    if LEAST <= mask.share <= MOST:
        return None
    threshold, words = f"--threshold ({params.threshold} now)", "name the region in other words"
    if mask.share < LEAST:
        covers = f"{100 * mask.share:.2g} %"
        remedy = f"too little, {f'lower {threshold}' if params.compares else f'{words}, or widen it with --grow'}"
    else:
        covers = f"{100 * mask.share:.0f} %"
        remedy = f"too much, {f'raise {threshold}' if params.compares else words}, or limit it with --within"
    return f"The mask covers {covers} of {picture.name}; if that is {remedy}."
