"""Step 3 of the paper: repaints the masked region, with the model itself or an inpainting model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine import diffedit, evidence, source_path
from diffedit_cli.engine.diffedit import Trajectory
from diffedit_cli.engine.interfaces import Model, Predictor
from diffedit_cli.engine.process import Level, add_noise
from diffedit_cli.engine.solvers import SOLVERS
from diffedit_cli.engine.source_path import AlignedPredictor, KeepingPredictor, Place
from diffedit_cli.models.devices import device_errors
from diffedit_cli.pipeline import cache_keys, rooms
from diffedit_cli.pipeline.composition import Repainting
from diffedit_cli.pipeline.edit_plan import PICTURE, Plan
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import levels_up_to
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.pipeline.zoom import Part
from diffedit_cli.storage import artifacts
from diffedit_cli.storage.artifacts import Arrays

JUDGED_AT = 0.75  # noise level at which a result is judged, as a share of the levels


@dataclass(frozen=True)
class RepaintStage:
    """Repaints masked crops of pictures. `safety_record` joins the record of every result."""

    context: StageContext
    inpainting: InpaintingStage | None
    safety_record: dict[str, Any]

    def repaint(self, part: Part, latents: Latents | None, plan: Plan, stats: EditStats) -> Repainting:
        """Returns a crop as the model repaints it; without latents the inpainting model repaints it."""
        if latents is None:
            return self._inpainted(part, plan, stats)
        context, (h, w) = self.context, latents.trajectory.shape[-2:]
        # a cell with any masked pixel is repainted, so that no masked pixel keeps half of the old picture
        M = F.adaptive_max_pool2d(torch.from_numpy(part.mask.shown.astype(np.float32))[None] / 255, (h, w))[0]
        arrays = {"trajectory": latents.trajectory, "timesteps": latents.timesteps, "mask": M.numpy()}
        inputs = context.inputs(part.picture) | cache_keys.repainting(plan.painted) | {"start": plan.start}
        inputs |= {"given": artifacts.checksum(arrays, {})} | ({"judged": True} if plan.judged else {})
        inputs |= {"walked": [latents.invert_every, latents.invert_from]} if plan.painted.align else {}
        decoded = context.cache.get_or_compute(
            "edit",
            {"edited": inputs},
            stats,
            lambda _: {
                "edited": context.session.run_stage("edit", stats, lambda: self._edited(part, M, plan, latents, stats))
            },
        )["edited"]
        record = cache_keys.edit(plan.given) | plan.record() | self.safety_record
        before = self._round_trip(part, latents, stats) if plan.tightens else None
        error = float(decoded["unexplained"][0]) if "unexplained" in decoded else None
        return Repainting(decoded["picture"], max(h, w), part.box, record, latents.made, before, error)

    def _edited(self, part: Part, M: Tensor, plan: Plan, latents: Latents, stats: EditStats) -> Arrays:
        """Returns the decoded crop (h, w, 3) in [-1, 1] and, if judged, the error (1,) that --to leaves unexplained."""
        session, params = self.context.session, plan.painted
        model = session.model(stats)
        every = model.levels(params.step_count, M.numel())
        levels = [level for level in every if level.timestep in latents.timesteps]
        trajectory = diffedit.Trajectory(torch.from_numpy(latents.trajectory).to(session.device), levels)
        negative = session.embedding(params.negative or "", params, stats)
        query = model.text(session.embedding(params.to, params, stats), negative, params.guidance or 1.0)
        steps = diffedit.edit(
            self._predictor(model, trajectory, plan, latents, stats),
            trajectory,
            M.to(session.device),
            query,
            SOLVERS[params.scheduler](params.edit_eta, generator(params.seed, part.picture, "edit")),
            levels_up_to(1 - params.guidance_end, len(levels) - 1),
            params.guidance_every,
            rooms.starting_latents(part, plan, model, trajectory.latents[:1], self.context.folder.factor),
        )
        *_, y_0 = self.context.with_progress("edit", steps, len(levels) - 1)
        made = {"picture": model.decode(y_0)[0].permute(1, 2, 0).cpu().numpy()}
        if plan.judged:
            at = every[levels_up_to(JUDGED_AT, params.step_count)]
            noise = torch.randn(y_0.shape, generator=generator(0, part.picture, "judge")).to(y_0.device)
            eps = model.predict(add_noise(y_0, noise, at), at, query.prompt).eps
            error = evidence.unexplained(eps, noise)
            made["unexplained"] = (error * M.to(error)).sum().div(M.sum()).reshape(1).cpu().numpy()
        return made

    def _predictor(
        self, model: Model, trajectory: Trajectory, plan: Plan, latents: Latents, stats: EditStats
    ) -> Predictor:
        """Returns the model, or with --keep or --align what holds its predictions closer to the picture."""
        if plan.start != PICTURE:
            return model
        params = plan.painted
        predictor: Predictor = model
        found: dict[Level, Place] = {}
        if params.align:
            inversion, edit = (SOLVERS[params.scheduler]() for _ in range(2))
            begun = diffedit.count_first_levels(trajectory.levels, latents.invert_from)
            found = source_path.places(trajectory, inversion, edit, latents.invert_every, begun)
        if params.keep:
            caption = self.context.session.embedding(params.inversion_caption, params, stats)
            predictor = KeepingPredictor(model, source_path.sources(trajectory, params.keep, found), caption)
        return AlignedPredictor(predictor, found) if found else predictor

    def _round_trip(self, part: Part, latents: Latents, stats: EditStats) -> NDArray[np.float32]:
        """Returns the crop (h, w, 3) in [-1, 1] as the VAE reproduces it without any edit."""
        session = self.context.session

        def decode() -> Arrays:
            with device_errors(session.device), torch.inference_mode():
                x_0 = torch.from_numpy(latents.trajectory[:1]).to(session.device)
                return {"picture": session.model(stats).decode(x_0)[0].permute(1, 2, 0).cpu().numpy()}

        x_0 = artifacts.checksum({"x_0": latents.trajectory[:1]}, {})
        inputs = self.context.inputs(part.picture) | {"x_0": x_0}
        return self.context.cache.get_or_compute_part("decoded", inputs, stats, decode)["picture"]

    def _inpainted(self, part: Part, plan: Plan, stats: EditStats) -> Repainting:
        assert self.inpainting is not None
        stats.cache["edit"] = "miss"
        noise = generator(plan.given.seed, part.picture, "inpaint")
        progress = functools.partial(self.context.progress, "edit")
        made = self.inpainting.paint(part.picture, part.mask, plan.painted, noise, progress)
        stats.spent("edit", made.evaluations)
        if made.overflowed:
            stats.warn(
                f"The inpainting model overflowed in {self.inpainting.dtype}; the stage was repeated in float32."
            )
        record = self.inpainting.record(plan.given) | plan.record() | self.safety_record
        if (moved := made.motion) is not None:
            record |= {"registered": [round(moved.dx, 2), round(moved.dy, 2), round(moved.scale, 4)]}
            stats.warn(
                f"{self.inpainting.folder.name} moved the picture by {moved.dx:+.1f}, {moved.dy:+.1f} px and scaled it "
                f"by {moved.scale:.4f}; this was undone."
            )
        before = part.picture.model_input(made.picture.shape[1::-1]).transpose(1, 2, 0) if plan.tightens else None
        return Repainting(made.picture, max(made.grid), part.box, record, before=before)
