"""Step 2 of the paper: inverts a picture's latents into noise and keeps every level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine import diffedit
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import SOLVERS
from diffedit_cli.images import pictures
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays


@dataclass(frozen=True)
class InversionStage:
    """Inverts pictures or crops of them."""

    context: StageContext

    def invert(self, picture: Picture, params: Params, stats: EditStats) -> Latents:
        """Returns the whole trajectory, x_0 first; `params` must have all values set."""
        context = self.context
        inputs = context.inputs(picture) | cache_keys.inversion(params)
        arrays = context.cache.get_or_compute(
            "invert",
            {"inversion": inputs},
            stats,
            lambda _: {
                "inversion": context.session.run_stage(
                    "invert", stats, lambda: self._trajectory(picture, params, stats)
                )
            },
        )["inversion"]
        made = inputs | cache_keys.zeros(params, context.folder.defaults)
        return Latents(arrays["trajectory"], arrays["timesteps"], made)

    def frames(self, latents: Latents, stats: EditStats) -> list[NDArray[np.uint8]]:
        """Returns every level of an inversion decoded, (h, w, 3), clean level first. Costs no network evaluation."""
        session, trajectory = self.context.session, torch.split(torch.from_numpy(latents.trajectory), 1)

        def decode() -> Arrays:
            model = session.model(stats)
            decoded = (model.decode(x_t.to(session.device))[0].permute(1, 2, 0) for x_t in trajectory)
            frames = list(self.context.with_progress("frames", decoded, len(trajectory)))
            return {"pictures": torch.stack(frames).cpu().numpy()}

        decoded = session.run_stage("frames", stats, decode)["pictures"]
        del stats.evaluations["frames"]
        return list(pictures.pixels(decoded))

    def _trajectory(self, picture: Picture, params: Params, stats: EditStats) -> Arrays:
        """Returns the trajectory x_0 ... x_r (T+1, C, h, w), and the timestep of each level (T+1,)."""
        context = self.context
        model = context.session.model(stats)
        x_0 = context.latents(picture, stats)
        levels = context.session.levels(params, x_0.shape[-2:].numel(), stats)
        caption = model.text(
            context.session.embedding(params.inversion_caption, params, stats),
            model.embed("", params.clip_skip),
            params.invert_guidance,
        )
        begun: list[Tensor] = []
        if params.invert_from:
            noise = torch.randn(x_0.shape, generator=generator(params.seed, picture, "forward")).to(x_0.device)
            begun = diffedit.noise_first_levels(x_0, noise, levels, params.invert_from)
        steps = diffedit.invert(
            model,
            x_0,
            levels,
            caption,
            SOLVERS[params.scheduler](),
            _regularisation(picture, params),
            params.fixed_point,
            params.inversion_stride,
            begun,
        )
        trajectory = torch.cat([x_0, *context.with_progress("invert", steps, len(levels) - 1)])
        return {
            "trajectory": trajectory.cpu().numpy(),
            "timesteps": np.array([level.timestep for level in levels]),
        }


def _regularisation(picture: Picture, params: Params) -> Regularisation | None:
    if not params.reg_steps:
        return None
    weights = (params.reg_steps, params.lambda_auto_corr, params.auto_corr_rolls, params.lambda_kl)
    return Regularisation(*weights, generator(params.seed, picture, "invert"))
