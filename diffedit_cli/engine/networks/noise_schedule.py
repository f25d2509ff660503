"""Base class of the families with a noise schedule, whose levels are a scheduler's timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.text_encoders import TextEncoder
from diffedit_cli.engine.process import Level
from diffedit_cli.errors import ModelError, UsageError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class ScheduledDiffusion(LatentDiffusion):
    """Diffusion model with the noise levels of a scheduler's timesteps, and any of PREDICTION_TYPES."""

    def __init__(self, *, vae: Any, network: Any, encoders: Sequence[TextEncoder], scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.prediction_type = scheduler.config["prediction_type"]
        super().__init__(vae=vae, network=network, encoders=encoders, name=name)

    def _levels(self, steps: int, cells: int | None) -> Sequence[Level]:  # noqa: ARG002
        """Returns the scheduler's timesteps in reverse, after the clean level where its last step ends."""
        limit = self.scheduler.config["num_train_timesteps"]
        if steps <= limit:
            self.scheduler.set_timesteps(steps)
        if steps > limit or max(self.scheduler.timesteps) >= limit:
            raise UsageError(f"--steps {steps} is more than the model {self.name} has; use at most {limit - 1}.")
        cumulative = self.scheduler.alphas_cumprod
        clean = [(0, float(getattr(self.scheduler, "final_alpha_cumprod", 1.0)))]  # solvers end at the clean picture
        noisy = [(int(t), float(cumulative[t])) for t in reversed(self.scheduler.timesteps)]
        return [Level(t, alpha**0.5, (1 - alpha) ** 0.5) for t, alpha in clean + noisy]

    def _check_fit(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"The model {self.name} predicts {self.prediction_type}; diffedit knows {', '.join(PREDICTION_TYPES)}."
            )
