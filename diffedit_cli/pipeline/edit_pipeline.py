"""DiffEdit on one picture: mask, invert, edit, each stage read from the cache or computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline import (
    composition,
    input_checks,
    mask_limits,
    rooms,
    scenery,
    verdicts,
    vocabulary,
)
from diffedit_cli.pipeline.composition import EditVariant
from diffedit_cli.pipeline.edit_plan import PICTURE, Plan, plan_of
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.inversion_stage import InversionStage
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.mask_stage import MaskStage
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompt_models import PromptModels
from diffedit_cli.pipeline.repaint_stage import RepaintStage
from diffedit_cli.pipeline.safety import SafetyFilter
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stage_context import Progress, StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.pipeline.zoom import Part
from diffedit_cli.storage.cache import Cache


class EditPipeline:
    """One model and one cache, for any number of pictures; the model is loaded when first needed, and once."""

    def __init__(
        self,
        folder: ModelFolder,
        cache: Cache | None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: OffloadOptions = OffloadOptions(),
        progress: Progress = lambda *_: None,
        any_picture: bool = False,
        safety: bool = True,
        inpainter: ModelFolder | None = None,
    ) -> None:
        """`progress` is told stage, steps done, steps in all. With `any_picture` one that is unlike all that the model
        knows is only warned of.

        An `inpainter` paints in place of inversion and edit. Raises DeviceError for a device that is not here.
        """
        self.folder, self.cache = folder, cache
        session = ModelSession(folder, device, dtype, memory, any_picture)
        self.device, self.dtype = session.device, session.dtype
        self.inpainting = InpaintingStage(inpainter, self.device, self.dtype) if inpainter else None
        self.safety_filter = SafetyFilter(inpainter or folder, self.device, safety)
        self.context = StageContext(session, StageCache(cache), progress, (inpainter or folder).native_size)

    @property
    def session(self) -> ModelSession:
        return self.context.session

    def beside(self, ask: Callable[[ModelInput], Tensor], wait: Callable[[], None]) -> EditPipeline:
        """For one of several pictures at a time: it asks by `ask`, and calls `wait` while another makes the same."""
        own = copy.copy(self)
        own.context = replace(self.context, session=self.session.beside(ask), cache=self.context.cache.beside(wait))
        return own

    def mask(self, picture: Picture, params: Params, stats: EditStats, allowed: MaskLimits = mask_limits.NONE) -> Mask:
        """Step 1 of the paper, cut down to what is allowed.

        Raises NothingToEdit for an empty mask, and where what --from names is not seen.
        """
        vocabulary.check(params, self.folder, ["mask"])
        with stats.clock("mask"):
            plan = self._plan(self._prompt_models(stats).expanded(params))
        stats.region = plan.kind
        return self._mask(picture, plan, stats, allowed)

    def invert(self, picture: Picture, params: Params, stats: EditStats) -> Latents:
        """Step 2 of the paper: the whole trajectory, x_0 first."""
        with stats.clock("invert"):
            self.context.check_fits(picture, stats)
            params = self._plan(self._prompt_models(stats).captioned(params, picture)).given
            return InversionStage(self.context).invert(picture, params, stats)

    def edit(
        self,
        picture: Picture,
        params: Params,
        stats: EditStats,
        mask: Mask | None,
        latents: Latents | None,
        allowed: MaskLimits = mask_limits.NONE,
    ) -> list[EditVariant]:
        """Step 3 of the paper, once for each variant, after whatever of mask and latents is not given.

        The variants go through the network one after the other: in a batch the last bits of each would depend on
        how many there are, and one that is repeated alone must come out the same.

        Raises NothingToEdit for an empty mask, InputError for a mask or latents of something else, and Withheld.
        """
        stats.evaluations |= {"mask": 0, "invert": 0}  # what is given costs nothing
        params = self._requested(params, stats, mask, latents)
        place = self._place(params, picture, stats)
        plan = self._plan(params, place)
        stats.region = plan.kind
        input_checks.check_given(picture, plan, mask, latents, self.context.inputs(picture), bool(self.inpainting))
        if latents is not None:
            self.session.check_given(latents, picture, plan.given, stats)
        mask = self._mask(picture, plan, stats, allowed) if mask is None else allowed.applied(mask, picture)
        space = rooms.space(mask, plan, picture, allowed)
        boxes = [] if latents else self.context.boxes(space.pixels, params)
        parts = [Part.cut(picture, space, box) for box in boxes] or [Part.whole(picture, space)]
        if boxes:
            self.context.check_fits(picture, stats)
            plan = self._plan(self._prompt_models(stats).captioned(params, picture), place)
        results = []
        for number in range(params.variants):
            one = plan.variant(number)
            inverted = (one if plan.start != PICTURE else plan).given
            inversions = [
                None if self.inpainting else latents or self.invert(part.picture, inverted, stats) for part in parts
            ]
            with stats.clock("edit"):
                repaint = RepaintStage(self.context, self.inpainting, self.safety_filter.record).repaint
                painted = [repaint(*both, one, stats) for both in zip(parts, inversions, strict=True)]
            whole = None if boxes else inversions[0]
            inputs = self.context.inputs(picture)
            results.append(composition.compose_variant(picture, mask, space, plan, whole, painted, inputs))
        return self._checked(results, picture, params, plan, stats)

    def frames(self, latents: Latents, stats: EditStats) -> list[NDArray[np.uint8]]:
        """Every level of the inversion decoded, (h, w, 3), the clean one first. Costs no network evaluation."""
        with stats.clock("frames"):
            return InversionStage(self.context).frames(latents, stats)

    def embeds_file(self, name: str, picture: Picture, params: Params, stats: EditStats, telling: bool = True) -> bytes:
        """What the model is told for the prompt of this name, for --NAME-embeds; `telling` the words or not."""
        models = self._prompt_models(stats)
        params = self._plan(models.expanded(params)).given
        params = models.captioned(params, picture) if name == "caption" else params
        return self.session.pack_embedding(params.prompts_of()[name], params, stats, telling)

    def _plan(self, params: Params, place: str = "") -> Plan:
        plan = plan_of(params, self.folder.defaults, place, attends=self.folder.attends)
        return replace(plan, judged=params.best or (plan.judged and self.folder.unexplained is not None))

    def _place(self, params: Params, picture: Picture, stats: EditStats) -> str:
        """Where a picture is, if an edit needs to know that, its prompts do not say it, and the model can."""
        if self.inpainting or not (self.folder.places and self._plan(params).lacks_place):
            return ""
        return scenery.place_of(self.context, picture, self.folder.places, params, stats)

    def _mask(self, picture: Picture, plan: Plan, stats: EditStats, allowed: MaskLimits) -> Mask:
        with stats.clock("mask"):
            self.context.check_fits(picture, stats)
            return MaskStage(self.context).find(picture, plan, stats, allowed)

    def _requested(self, params: Params, stats: EditStats, mask: Mask | None, latents: Latents | None) -> Params:
        """What an edit is asked for with what is given to it. Raises ModelError, and UsageError."""
        asked = {"mask": mask is None, "invert": not (latents or self.inpainting), "edit": not self.inpainting}
        vocabulary.check(params, self.folder, [stage for stage, is_asked in asked.items() if is_asked])
        if self.inpainting:
            self.inpainting.check(params)
        params = self._prompt_models(stats).expanded(input_checks.params_for_mask(mask, params))
        return params if latents is None else input_checks.follow_latents(latents, params)

    def _checked(
        self, results: list[EditVariant], picture: Picture, params: Params, plan: Plan, stats: EditStats
    ) -> list[EditVariant]:
        """With --best only the one that --to explains best. Warns of what went wrong; raises Withheld."""
        results = [verdicts.best(results)] if params.best else results
        if warning := verdicts.warning(results[0], picture, plan, self.folder.unexplained):
            stats.warn(warning)
        self.safety_filter.check_all([result.picture for result in results], stats)
        return results

    def _prompt_models(self, stats: EditStats) -> PromptModels:
        return PromptModels(self.cache, self.folder.memo, stats.warn)


def with_cache(pipeline: EditPipeline, cache: Cache | None) -> EditPipeline:
    """The same model beside another cache."""
    own = copy.copy(pipeline)
    own.cache, own.context = cache, replace(pipeline.context, cache=StageCache(cache))
    return own
