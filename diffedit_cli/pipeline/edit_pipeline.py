"""Mask, invert, edit: each taken from the cache or computed and kept."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine import diffedit, evidence
from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.engine.process import add_noise
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import SOLVERS
from diffedit_cli.errors import NothingToEdit, UsageError
from diffedit_cli.images import pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture
from diffedit_cli.models.devices import device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.pipeline import (
    composition,
    embedding_files,
    input_checks,
    mask_limits,
    mask_stage,
    prompts,
    rooms,
    stage_cache,
    verdicts,
    vocabulary,
    zoom,
)
from diffedit_cli.pipeline.composition import EditVariant, Repainting
from diffedit_cli.pipeline.edit_plan import PICTURE, Plan, plan_of
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.mask_stage import MaskProposal, MaskStage, surroundings
from diffedit_cli.pipeline.model_session import ModelSession, generator
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.prompt_models import PromptModels
from diffedit_cli.pipeline.safety import SafetyFilter
from diffedit_cli.pipeline.scenery import Scenery
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.pipeline.zoom import Part
from diffedit_cli.storage import artifacts
from diffedit_cli.storage.artifacts import Arrays
from diffedit_cli.storage.cache import Cache

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all


JUDGED_AT = 0.75  # the noise in which a result is judged, as a share of the levels


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
        """With `any_picture` one that is unlike all that the model knows is only warned of.

        An `inpainter` paints in place of inversion and edit. Raises DeviceError for a device that is not here.
        """
        self.folder, self.cache, self.progress = folder, cache, progress
        self.runtime = ModelSession(folder, device, dtype, memory, any_picture)
        self.device, self.dtype = self.runtime.device, self.runtime.dtype
        self.inpainting = InpaintingStage(inpainter, self.device, self.dtype) if inpainter else None
        self.guard = SafetyFilter(inpainter or folder, self.device, safety)

    def beside(self, ask: Callable[[ModelInput], Tensor], wait: Callable[[], None]) -> EditPipeline:
        """For one of several pictures at a time: it asks by `ask`, and calls `wait` while another makes the same."""
        own = copy.copy(self)
        own.runtime = self.runtime.beside(ask)
        own.cache = Cache(self.cache.root, wait) if self.cache else None
        return own

    @property
    def _masks(self) -> MaskStage:
        return MaskStage(self.runtime, self.cache, self._about, self._encoded, self.progress, self._boxes)

    def _planned(self, params: Params, place: str = "") -> Plan:
        found = plan_of(params, self.folder.defaults, place)
        return replace(found, judged=params.best or (found.judged and self.folder.unexplained is not None))

    def _place(self, params: Params, picture: Picture, stats: EditStats) -> str:
        """Where a picture is, if an edit needs to know that, its prompts do not say it, and the model can."""
        if self.inpainting or not (self.folder.places and self._planned(params).lacks_place):
            return ""
        scenery = Scenery(self.runtime, self.cache, self._about, self._encoded)
        return scenery.place_of(picture, self.folder.places, params, stats)

    def open_stats(self) -> EditStats:
        """For the costs of one picture."""
        return EditStats()

    def mask(self, picture: Picture, params: Params, stats: EditStats, allowed: MaskLimits = mask_limits.NONE) -> Mask:
        """Step 1 of the paper, cut down to what is allowed. Raises NothingToEdit for an empty mask.

        What it finds in a large picture is sought again in each part of it, closer. Raises NothingToEdit, too, where
        what --from names is not seen.
        """
        vocabulary.check(params, self.folder, ["mask"])
        with stats.clock("mask"):
            plan = self._planned(self._writers(stats).expanded(params))
        stats.region = plan.kind
        return self._masked(picture, plan, stats, allowed)

    def _masked(self, picture: Picture, plan: Plan, stats: EditStats, allowed: MaskLimits) -> Mask:
        with stats.clock("mask"):
            self.runtime.check(picture, stats, self._encoded)
            return self._found(picture, plan, stats, allowed)

    def _found(self, picture: Picture, plan: Plan, stats: EditStats, allowed: MaskLimits) -> Mask:
        params, contrast = plan.given, None
        shown = np.full(picture.size[::-1], 255, np.uint8) if plan.kind == "everything" else None
        if plan.kind == "add":
            shown = allowed.region(picture)
        if shown is not None:
            stats.spent("mask", 0)
        else:
            found = self._sought(picture, plan, stats)
            stats.gain = found.gain()
            looks = plan.kind == "attribute"
            limit = self.folder.evidence_of_looks if looks else self.folder.evidence
            input_checks.check_seen(stats.gain, limit, picture, plan)
            shown, contrast = found.shown, found.contrast
            if plan.kind == "background":
                shown = surroundings(picture, shown, max(contrast.shape))
        if not shown.any():
            raise NothingToEdit(
                f'The mask of {picture.name} is empty: the model sees no difference between "{params.from_}" and '
                f'"{params.to}" there; choose other words, or lower --threshold.'
            )
        made = Mask.soft(shown, self._about(picture) | params.masked_by(self.folder.attends).mask_record())
        mask = allowed.applied(replace(made, contrast=contrast), picture)
        if plan.kind not in ("background", "everything") and (hint := mask_stage.hint(mask, picture, params)):
            stats.warn(hint)
        return mask

    def _sought(self, picture: Picture, plan: Plan, stats: EditStats) -> MaskProposal:
        attends, masks = self.folder.attends, self._masks
        compared = plan.compared.masked_by(attends)
        if plan.kind == "add":
            there = plan.there and plan.there.masked_by(attends)
            return masks.free_place(picture, compared, there, stats)
        return masks.sought(picture, compared, stats, plan.claims and self.folder.evidence is not None)

    def invert(self, picture: Picture, params: Params, stats: EditStats) -> Latents:
        """Step 2 of the paper: the whole trajectory, x_0 first."""
        with stats.clock("invert"):
            self.runtime.check(picture, stats, self._encoded)
            params = self._planned(self._writers(stats).captioned(params, picture)).given
            about = self._about(picture) | params.inversion_record()
            trajectory = functools.partial(self._trajectory, picture, params, stats)
            arrays = stage_cache.remembered(
                self.cache, "invert", {"inversion": about}, stats,
                lambda _: {"inversion": self.runtime.computed("invert", stats, trajectory)},
            )["inversion"]  # fmt: skip
        return Latents(arrays["trajectory"], arrays["timesteps"], about | params.zeros(self.folder.defaults))

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
        params = self._asked(params, stats, mask, latents)
        place = self._place(params, picture, stats)
        about, plan = self._about(picture), self._planned(params, place)
        stats.region = plan.kind
        if mask is not None:
            input_checks.check_mask(mask, picture, None if self.inpainting else plan.given, about)
        if latents is not None:
            input_checks.check_latents(latents, plan.given, about)
            self.runtime.check_given(latents, picture, plan.given, stats)
        mask = self._masked(picture, plan, stats, allowed) if mask is None else allowed.applied(mask, picture)
        space = rooms.space(mask, plan, picture, allowed)
        boxes = [] if latents else self._boxes(space.pixels, params)
        parts = [Part.cut(picture, space, box) for box in boxes] or [Part.whole(picture, space)]
        if boxes:
            self.runtime.check(picture, stats, self._encoded)
            plan = self._planned(self._writers(stats).captioned(params, picture), place)
        results = []
        for number in range(params.variants):
            one = plan.variant(number)
            inverted = (one if plan.start != PICTURE else plan).given
            inversions = [
                None if self.inpainting else latents or self.invert(part.picture, inverted, stats) for part in parts
            ]
            with stats.clock("edit"):
                painted = [self._painted(*both, one, stats) for both in zip(parts, inversions, strict=True)]
            whole = None if boxes else inversions[0]
            results.append(composition.compose_variant(picture, mask, space, plan, whole, painted, about))
        if params.best:
            results = [min(results, key=lambda result: result.unexplained or 0.0)]
        if warning := verdicts.warning(results[0], picture, plan, self.folder.unexplained):
            stats.warn(warning)
        if self.guard.on:
            with stats.clock("safety"):
                for result in results:
                    self.guard.check(result.picture)
        return results

    def _asked(self, params: Params, stats: EditStats, mask: Mask | None, latents: Latents | None) -> Params:
        """What an edit is asked for with what is given to it. Raises ModelError, and UsageError."""
        asked = {"mask": mask is None, "invert": not (latents or self.inpainting), "edit": not self.inpainting}
        vocabulary.check(params, self.folder, [stage for stage, is_asked in asked.items() if is_asked])
        if params.soft and self.inpainting:
            raise UsageError("An inpainting model repaints all of a cell or nothing; leave out --soft.")
        if params.best and self.inpainting:
            raise UsageError("What an inpainting model paints is not judged; leave out --best.")
        params = self._writers(stats).expanded(input_checks.params_for_mask(mask, params))
        return params if latents is None else input_checks.follow_latents(latents, params)

    def frames(self, latents: Latents, stats: EditStats) -> list[NDArray[np.uint8]]:
        """Every level of the inversion decoded, (h, w, 3), the clean one first. Costs no network evaluation."""
        trajectory = torch.split(torch.from_numpy(latents.trajectory), 1)

        def decoded() -> Arrays:
            model = self.runtime.model(stats)
            decoded_levels = (model.decode(x_t.to(self.device))[0].permute(1, 2, 0) for x_t in trajectory)
            return {
                "pictures": torch.stack(list(self._watched("frames", decoded_levels, len(trajectory)))).cpu().numpy()
            }

        with stats.clock("frames"):
            decoded_frames = self.runtime.computed("frames", stats, decoded)["pictures"]
        del stats.evaluations["frames"]
        return list(pictures.pixels(decoded_frames))

    def _boxes(self, M: NDArray[np.bool_], params: Params, specks: bool = True) -> list[Box]:
        """Where to look closer."""
        model = self.inpainting.folder if self.inpainting else self.folder
        return zoom.boxes(M, params.zoom_factor, model.native_size, specks)

    # What each stage computes: tensors in and out of the engine.

    def _trajectory(self, picture: Picture, params: Params, stats: EditStats) -> Arrays:
        model = self.runtime.model(stats)
        x_0 = self.runtime.latents(picture, stats, self._encoded)
        levels = self.runtime.levels(params, x_0.shape[-2:].numel(), stats)
        caption = diffedit.Text(
            self.runtime.embedding(params.inversion_caption, params, stats),
            model.embed("", params.clip_skip),
            params.invert_guidance,
        )
        solver = SOLVERS[params.scheduler]()
        begun: list[Tensor] = []
        if params.invert_from:
            noise = torch.randn(x_0.shape, generator=generator(params.seed, picture, "forward")).to(x_0.device)
            begun = diffedit.noise_first_levels(x_0, noise, levels, params.invert_from)
        regularise = None
        if params.reg_steps:
            weights = (params.reg_steps, params.lambda_auto_corr, params.auto_corr_rolls, params.lambda_kl)
            regularise = Regularisation(*weights, generator(params.seed, picture, "invert"))
        inversion = diffedit.invert(
            model, x_0, levels, caption, solver, regularise, params.fixed_point, params.inversion_stride, begun
        )
        steps = self._watched("invert", inversion, len(levels) - 1)
        trajectory = torch.cat([x_0, *steps])
        return {
            "trajectory": trajectory.cpu().numpy(),
            "timesteps": np.array([level.timestep for level in levels]),
        }

    def _painted(self, part: Part, latents: Latents | None, plan: Plan, stats: EditStats) -> Repainting:
        if latents is None:
            return self._inpainted(part, plan, stats)
        h, w = latents.trajectory.shape[-2:]
        # a cell is repainted when any pixel of it is: what the mask shows is then never half old
        M = F.adaptive_max_pool2d(torch.from_numpy(part.mask.shown.astype(np.float32))[None] / 255, (h, w))[0]
        said = plan.given.edit_record() | plan.record() | self.guard.record
        arrays = {"trajectory": latents.trajectory, "timesteps": latents.timesteps, "mask": M.numpy()}
        about = self._about(part.picture) | plan.painted.repainting_record() | {"start": plan.start}
        about |= {"given": artifacts.checksum(arrays, {})} | ({"judged": True} if plan.judged else {})
        edited = functools.partial(self._edited, part, M, plan, latents, stats)
        decoded = stage_cache.remembered(
            self.cache, "edit", {"edited": about}, stats,
            lambda _: {"edited": self.runtime.computed("edit", stats, edited)},
        )["edited"]  # fmt: skip
        before = self._decoded(part.picture, latents, stats) if plan.tightens else None
        error = float(decoded["unexplained"][0]) if "unexplained" in decoded else None
        return Repainting(decoded["picture"], max(h, w), part.box, said, latents.made, before, error)

    def _decoded(self, picture: Picture, latents: Latents, stats: EditStats) -> NDArray[np.float32]:
        """What the model shows of a picture that it does nothing to."""

        def decode() -> Arrays:
            with device_errors(self.device), torch.inference_mode():
                x_0 = torch.from_numpy(latents.trajectory[:1]).to(self.device)
                return {"picture": self.runtime.model(stats).decode(x_0)[0].permute(1, 2, 0).cpu().numpy()}

        x_0 = artifacts.checksum({"x_0": latents.trajectory[:1]}, {})
        return stage_cache.aside(self.cache, "decoded", self._about(picture) | {"x_0": x_0}, stats, decode)["picture"]

    def _inpainted(self, part: Part, plan: Plan, stats: EditStats) -> Repainting:
        assert self.inpainting is not None
        stats.cache["edit"] = "miss"
        noise = generator(plan.given.seed, part.picture, "inpaint")
        progress = functools.partial(self.progress, "edit")
        made = self.inpainting.paint(part.picture, part.mask, plan.painted, noise, progress)
        stats.spent("edit", made.evaluations)
        if made.overflowed:
            stats.warn(f"The inpainting model overflowed in {self.dtype}; the stage was repeated in float32.")
        said = self.inpainting.record(plan.given) | plan.record() | self.guard.record
        before = None
        if plan.tightens:
            before = part.picture.fitted(made.picture.shape[1::-1]).transpose(1, 2, 0)
        return Repainting(made.picture, max(made.grid), part.box, said, before=before)

    def _edited(self, part: Part, M: Tensor, plan: Plan, latents: Latents, stats: EditStats) -> Arrays:
        model, params = self.runtime.model(stats), plan.painted
        every = model.levels(params.steps, M.numel())
        levels = [level for level in every if level.timestep in latents.timesteps]
        trajectory = diffedit.Trajectory(torch.from_numpy(latents.trajectory).to(self.device), levels)
        negative = self.runtime.embedding(params.negative or "", params, stats)
        query = diffedit.Text(self.runtime.embedding(params.to, params, stats), negative, params.guidance or 1.0)
        solver = SOLVERS[params.scheduler](params.edit_eta, generator(params.seed, part.picture, "edit"))
        unguided = levels_up_to(1 - params.guidance_end, len(levels) - 1)
        under = rooms.starting_latents(part, plan, model, trajectory.latents[:1], self.folder.factor)
        steps = diffedit.edit(
            model, trajectory, M.to(self.device), query, solver, unguided, params.guidance_every, under
        )
        *_, y_0 = self._watched("edit", steps, len(levels) - 1)
        made = {"picture": model.decode(y_0)[0].permute(1, 2, 0).cpu().numpy()}
        if plan.judged:
            at = every[levels_up_to(JUDGED_AT, params.steps)]
            noise = torch.randn(y_0.shape, generator=generator(0, part.picture, "judge")).to(y_0.device)
            eps = model.predict(add_noise(y_0, noise, at), at, query.prompt).eps
            error = evidence.unexplained(eps, noise)
            made["unexplained"] = (error * M.to(error)).sum().div(M.sum()).reshape(1).cpu().numpy()
        return made

    # How: the model, the cache, the clock, and what can fail.

    def embeds_file(self, name: str, picture: Picture, params: Params, stats: EditStats, telling: bool = True) -> bytes:
        """What the model is told for the prompt of this name, for --NAME-embeds; `telling` the words or not."""
        params = self._planned(self._writers(stats).expanded(params)).given
        if name == "caption":
            params = self._writers(stats).captioned(params, picture)
        prompt = params.prompts_of()[name]
        with device_errors(self.device), torch.inference_mode():
            embedding = self.runtime.embedding(prompt, params, stats)
        about = prompts.record("prompt", prompt) | params.text_record() if telling else {}
        return embedding_files.pack(embedding, about, self.folder)

    def _encoded(self, picture: Picture, stats: EditStats, encode: Callable[[], Arrays]) -> Arrays:
        """A picture's latents, the same for whatever is done with it."""
        about = self._about(picture) | {"dtype": self.runtime.model(stats).dtype_name}
        if limited := self.folder.fitness:
            about["noised"] = limited[0]
        return stage_cache.aside(self.cache, "encoded", about, stats, encode)

    def _writers(self, stats: EditStats) -> PromptModels:
        return PromptModels(self.cache, self.folder.memo, stats.warn)

    def _watched(self, stage: str, steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        for done, latents in enumerate(steps, start=1):
            self.progress(stage, done, total)
            yield latents

    def _about(self, picture: Picture) -> dict[str, Any]:
        said = {"picture": picture.digest, "size": list(picture.size), **self.folder.record()}
        return {**said, "dtype": self.dtype, **self.runtime.memory.record()}
