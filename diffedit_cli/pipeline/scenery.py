"""In which of the places that a model of a small world knows a picture is, where nobody says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffedit_cli.engine import evidence
from diffedit_cli.engine.process import add_noise
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import stage_cache
from diffedit_cli.pipeline.model_session import ModelSession, Remember, generator
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays
from diffedit_cli.storage.cache import Cache

AT = 0.5  # the noise in which places are told apart, as a share of the levels


@dataclass(frozen=True)
class Scenery:
    """Tells places apart by one network evaluation each, kept in the cache for a picture."""

    runtime: ModelSession
    cache: Cache | None
    about: Callable[[Picture], dict[str, Any]]
    encoded: Remember

    def place_of(self, picture: Picture, places: Sequence[str], params: Params, stats: EditStats) -> str:
        """That of the prompts for places ("on the grass") which explains the picture best (engine.evidence)."""
        about = self.about(picture) | params.text_record() | {"places": list(places), "at": AT, "steps": params.steps}

        def compared() -> Arrays:
            model = self.runtime.model(stats)
            x_0 = self.runtime.latents(picture, stats, self.encoded)
            at = model.levels(params.steps, x_0.shape[-2:].numel())[levels_up_to(AT, params.steps)]
            noise = torch.randn(x_0.shape, generator=generator(0, picture, "place")).to(x_0.device)
            x_t = add_noise(x_0, noise, at)
            told = (self.runtime.embedding(place, params, stats) for place in places)
            errors = [evidence.unexplained(model.predict(x_t, at, one).eps, noise).mean() for one in told]
            return {"errors": torch.stack(errors).cpu().numpy()}

        ask = lambda: self.runtime.computed("place", stats, compared)  # noqa: E731
        errors = stage_cache.aside(self.cache, "place", about, stats, ask)["errors"]
        return places[int(errors.argmin())]
