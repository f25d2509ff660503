"""Runs DiffEdit on one picture: mask, inversion and edit, each read from the cache or computed."""

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
    batch_size,
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
from diffedit_cli.pipeline.parameter import AUTO
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
    """DiffEdit with one model and one cache, for any number of pictures. The model is loaded once, on first use."""

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
        """Sets up the stages without loading the model. Raises DeviceError if the device is not available.

        `progress` is called with stage, steps done and steps in total. With `any_picture` a failed domain check of a
        picture is a warning, not a ModelError. An `inpainter` replaces inversion and edit.
        """
        self.folder, self.cache = folder, cache
        session = ModelSession(folder, device, dtype, memory, any_picture)
        self.device, self.dtype = session.device, session.dtype
        self.inpainting = InpaintingStage(inpainter, self.device, dtype) if inpainter else None
        self.safety_filter = SafetyFilter(inpainter or folder, self.device, safety)
        self.context = StageContext(session, StageCache(cache), progress, (inpainter or folder).native_size)
        self._at_once: int | None = None

    @property
    def session(self) -> ModelSession:
        return self.context.session

    @property
    def at_once(self) -> int:
        """The best number of pictures to edit together, measured once the model is loaded; 1 before."""
        if self._at_once is None and self.session.is_loaded:
            self._at_once = batch_size.pictures_at_once(self.session, self.context.cache)
        return self._at_once or 1

    def beside(self, ask: Callable[[ModelInput], Tensor], wait: Callable[[], None]) -> EditPipeline:
        """Returns a view for concurrent edits: `ask` runs the network, `wait` is called while an entry is locked."""
        own = copy.copy(self)
        own.context = replace(self.context, session=self.session.beside(ask), cache=self.context.cache.beside(wait))
        return own

    def mask(
        self, picture: Picture, params: Params, stats: EditStats, allowed: MaskLimits = mask_limits.NONE,
        drawn: Mask | None = None,
    ) -> Mask:  # fmt: skip
        """Returns the mask (step 1 of the paper), restricted to the limits `allowed`; `drawn` is one of its operands.

        Raises NothingToEdit if the mask is empty or the picture does not show what --from names.
        """
        vocabulary.check(params, self.folder, ["mask"])
        with stats.clock("mask"):
            plan = self._plan(self._prompt_models(stats).with_sentences(params))
        stats.region = None if params.region == AUTO and params.from_ == "" else plan.kind  # no prompts say it
        return self._mask(picture, plan, stats, allowed, drawn)

    def invert(self, picture: Picture, params: Params, stats: EditStats) -> Latents:
        """Returns the whole inversion trajectory (step 2 of the paper), x_0 first."""
        with stats.clock("invert"):
            self.context.check_fits(picture, stats)
            params = self._plan(self._prompt_models(stats).with_caption(params, picture)).given
            return InversionStage(self.context).invert(picture, params, stats)

    def edit(
        self, picture: Picture, params: Params, stats: EditStats, mask: Mask | None, latents: Latents | None,
        allowed: MaskLimits = mask_limits.NONE,
    ) -> list[EditVariant]:  # fmt: skip
        """Returns one result per variant (step 3 of the paper); a mask or latents that are None are computed first.

        The variants are evaluated one after the other: in a batch the last bits of each would depend on the batch size,
        and a variant that is repeated alone must come out the same. With --best only the best one is returned.

        Raises NothingToEdit for an empty mask, InputError for a mask or latents of another edit, and Withheld.
        """
        stats.warn_all(() if self.inpainting else input_checks.unused_guidance(params, self.folder))
        stats.evaluations |= {"mask": 0, "invert": 0}  # a provided mask or latents cost no evaluation
        mask, drawn = input_checks.whole_or_operand(mask, params)
        params = self._requested(params, stats, mask, latents)
        place = self._place(params, picture, stats)
        plan = self._plan(params, place)
        stats.region = plan.kind
        stats.warn_all(input_checks.unused_source(plan))
        input_checks.check_given(picture, plan, mask, latents, self.context.inputs(picture), bool(self.inpainting))
        if latents is not None:
            self.session.check_given(latents, picture, plan.given, stats)
        mask = self._mask(picture, plan, stats, allowed, drawn) if mask is None else allowed.apply(mask, picture)
        space = rooms.space(mask, plan, picture, allowed)
        boxes = [] if latents else self.context.boxes(space.pixels, params)
        parts = [Part.cut(picture, space, box) for box in boxes] or [Part.whole(picture, space)]
        if (boxes or (params.keep and latents is None)) and not self.inpainting:  # which paints any picture
            self.context.check_fits(picture, stats)
            plan = self._plan(self._prompt_models(stats).with_caption(params, picture), place)
        results = []
        own_noise = plan.given.invert_from == 1 and latents is None
        for number in range(params.variants):
            one = plan.variant(number, own_noise=own_noise)
            inverted = (one if own_noise or plan.start != PICTURE else plan).given
            inversions = [
                None if self.inpainting else latents or self.invert(part.picture, inverted, stats) for part in parts
            ]
            with stats.clock("edit"):
                repaint = RepaintStage(self.context, self.inpainting, self.safety_filter.record).repaint
                painted = [repaint(*both, one, stats) for both in zip(parts, inversions, strict=True)]
            whole = None if boxes else inversions[0]
            inputs = self.context.inputs(picture)
            results.append(composition.compose_variant(picture, mask, space, plan, whole, painted, inputs))
        results = [verdicts.best(results)] if params.best else results
        if warning := verdicts.warning(results[0], picture, plan, self.folder.unexplained):
            stats.warn(warning)
        self.safety_filter.check_all([result.picture for result in results], stats)
        return results

    def frames(self, latents: Latents, stats: EditStats) -> list[NDArray[np.uint8]]:
        """Returns every level of the inversion decoded, (h, w, 3), clean level first. Costs no network evaluation."""
        with stats.clock("frames"):
            return InversionStage(self.context).frames(latents, stats)

    def embeds_file(
        self, name: str, picture: Picture, params: Params, stats: EditStats, with_record: bool = True
    ) -> bytes:
        """Returns the embeddings file of a prompt for --NAME-embeds; `with_record` adds the words to its metadata."""
        models = self._prompt_models(stats)
        params = self._plan(models.with_sentences(params)).given
        params = models.with_caption(params, picture) if name == "caption" else params
        return self.session.pack_embedding(params.prompts_of()[name], params, stats, with_record)

    def _plan(self, params: Params, place: str = "") -> Plan:
        plan = plan_of(params, self.folder.defaults, place, attends=self.folder.attends)
        if self.inpainting:  # only the mask follows the model's own defaults
            told = self.inpainting.with_defaults(params)
            painter = plan_of(told, self.inpainting.defaults, place, attends=self.folder.attends)
            plan = replace(painter, compared=plan.compared, there=plan.there)
        return replace(plan, judged=params.best or (plan.judged and self.folder.unexplained is not None))

    def _place(self, params: Params, picture: Picture, stats: EditStats) -> str:
        """Returns the picture's place if the edit needs one, the prompts name none, and the model knows places."""
        if self.inpainting or not (self.folder.places and self._plan(params).lacks_place):
            return ""
        return scenery.place_of(self.context, picture, self.folder.places, self._plan(params).given, stats)

    def _mask(self, picture: Picture, plan: Plan, stats: EditStats, allowed: MaskLimits, drawn: Mask | None) -> Mask:
        with stats.clock("mask"):
            return MaskStage(self.context).find(picture, plan, stats, allowed, drawn)

    def _requested(self, params: Params, stats: EditStats, mask: Mask | None, latents: Latents | None) -> Params:
        """Returns the parameters, adapted to a provided mask or provided latents. Raises ModelError or UsageError."""
        asked = {"mask": mask is None, "invert": not (latents or self.inpainting), "edit": not self.inpainting}
        vocabulary.check(params, self.folder, [stage for stage, is_asked in asked.items() if is_asked])
        (self.inpainting.check if self.inpainting else input_checks.refuse_instruction)(params)
        params = self._prompt_models(stats).with_sentences(input_checks.params_for_mask(mask, params))
        return params if latents is None else input_checks.follow_latents(latents, params)

    def _prompt_models(self, stats: EditStats) -> PromptModels:
        return PromptModels(self.cache, self.folder.memo, stats.warn)


def with_cache(pipeline: EditPipeline, cache: Cache | None) -> EditPipeline:
    """Returns a copy of the pipeline with the same model and another cache."""
    own = copy.copy(pipeline)
    own.cache, own.context = cache, replace(pipeline.context, cache=StageCache(cache))
    return own
