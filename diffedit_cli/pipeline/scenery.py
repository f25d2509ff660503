"""Finds which of a small-world model's places a picture shows, if the prompts do not say it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffedit_cli.engine import evidence
from diffedit_cli.engine.process import add_noise
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays

AT = 0.5  # noise level at which places are compared, as a share of the levels


def place_of(context: StageContext, picture: Picture, places: Sequence[str], params: Params, stats: EditStats) -> str:
    """Returns the place ("on the grass") among `places` that explains the picture best (engine.evidence).

    Costs one network evaluation per place, and none if the cache has the answer for the picture.
    """
    session = context.session
    inputs = context.inputs(picture) | cache_keys.text(params)
    inputs |= {"places": list(places), "at": AT, "steps": params.step_count}

    def compare() -> Arrays:
        model = session.model(stats)
        x_0 = context.latents(picture, stats)
        at = model.levels(params.step_count, x_0.shape[-2:].numel())[levels_up_to(AT, params.step_count)]
        noise = torch.randn(x_0.shape, generator=generator(0, picture, "place")).to(x_0.device)
        x_t = add_noise(x_0, noise, at)
        prompts = (session.embedding(place, params, stats) for place in places)
        errors = [evidence.unexplained(model.predict(x_t, at, one).eps, noise).mean() for one in prompts]
        return {"errors": torch.stack(errors).cpu().numpy()}

    errors = context.cache.get_or_compute_part(
        "place", inputs, stats, lambda: session.run_stage("place", stats, compare)
    )["errors"]
    return places[int(errors.argmin())]
