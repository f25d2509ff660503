"""A network whose predicted noise is a known formula, so that every expected value can be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, invert
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.process import Level, Prediction, PredictionType, interpret

SHAPE = (1, 3, 8, 6)
SOURCE, TARGET, EMPTY = (Embedding(torch.full((1, 1, 1), value, dtype=torch.float64)) for value in (0.3, -0.9, 0.1))


def draw(seed: int, n: int = 1) -> Tensor:
    return torch.randn((n, *SHAPE[1:]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine_levels(steps: int) -> list[Level]:
    """Returns levels from clean to nearly pure noise, with timesteps 0, 10, 20, ..."""
    angles = torch.linspace(0, 1.5, steps + 1, dtype=torch.float64)
    return [Level(10 * i, float(angle.cos()), float(angle.sin())) for i, angle in enumerate(angles)]


LEVELS = cosine_levels(10)
ONES, ZEROS = torch.ones(SHAPE[2:], dtype=torch.float64), torch.zeros(SHAPE[2:], dtype=torch.float64)
HALF = (torch.arange(SHAPE[3]) < 3).expand(SHAPE[2:]).double()


class Known:
    """A predictor of the noise eps(x_t, timestep, text), `text` of shape (B, 1, 1, 1); records every call."""

    def __init__(
        self,
        eps: Callable[[Tensor, float, Tensor], Tensor],
        prediction_type: PredictionType = "epsilon",
    ) -> None:
        self.eps, self.prediction_type = eps, prediction_type
        self.timesteps: list[float] = []
        self.evaluations = 0

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        self.timesteps.append(at.timestep)
        self.evaluations += len(x_t)
        eps = self.eps(x_t, at.timestep, text.rows(len(x_t)).tokens[..., None]).expand_as(x_t)
        x_0 = (x_t - at.b * eps) / at.a
        outputs = {"epsilon": eps, "sample": x_0, "v_prediction": at.a * eps - at.b * x_0}
        return interpret(outputs[self.prediction_type], x_t, at, self.prediction_type)


def constant() -> Known:
    """Returns a predictor whose noise depends on text and timestep, not on the latents: inversion is exact."""
    pattern = draw(7)
    return Known(lambda _, timestep, text: text * pattern + timestep / 100)


def trajectory(model: Known, caption: Text, levels: Sequence[Level] = LEVELS) -> Trajectory:
    x_0 = draw(0)
    return Trajectory(torch.cat([x_0, *invert(model, x_0, levels, caption)]), levels)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
