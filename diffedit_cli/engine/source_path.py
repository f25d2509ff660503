"""Predictors for step 3 that hold the edit closer to its source, the trajectory of the inversion, than the paper does.

Both stand in for the model of `diffedit.edit` and go together: `KeepingPredictor` takes the values of the source in
self-attention, `AlignedPredictor` makes the way back of the source exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffedit_cli.engine.diffedit import Trajectory, walked_levels
from diffedit_cli.engine.interfaces import Embedding, Predictor, ValueKeeper, Values
from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.engine.solvers import DDIM


@dataclass(frozen=True)
class Place:
    """Where the inversion evaluated the network for the step that leads to a level.

    Attributes:
        x: (1, C, h, w) latents that it predicted from.
        at: Level that it told the network.
        r: Residual (1, C, h, w) from the latents of the level to `x`.
        turn: (1, C, h, w) change of the velocity predicted there. A solver of second order refines predictions by
            earlier ones, which differ between the two ways; this is the difference on the source path.
    """

    x: Tensor
    at: Level
    r: Tensor
    turn: Tensor


def places(trajectory: Trajectory, inversion: DDIM, edit: DDIM, every: int = 1, begun: int = 0) -> dict[Level, Place]:
    """Returns the place for each level of a trajectory that the network inverted to.

    Args:
        trajectory: Inverted latents of one picture.
        inversion: New solver of the kind that inverted.
        edit: New solver of the kind that leads back.
        every: Levels in one step of the inversion. Default 1.
        begun: Number of levels after the clean one that hold fresh noise; they have no place. Default 0.

    Returns:
        Places by level.
    """
    levels, x = trajectory.levels, torch.split(trajectory.latents, 1)
    way_back = [
        edit.prediction_between(x[number], levels[number], x[number - 1], levels[number - 1])
        for number in range(len(levels) - 1, 0, -1)
    ][::-1]
    found = {}
    for first, last in pairwise(walked_levels(len(levels), every, begun)):
        there = inversion.prediction_between(x[first], levels[first], x[last], levels[last])
        for number in range(first + 1, last + 1):
            turn = _velocity(way_back[number - 1]) - _velocity(there)
            at = inversion.asks_at(levels[first], levels[last])
            found[levels[number]] = Place(x[first], at, x[first] - x[number], turn)
    return found


def sources(trajectory: Trajectory, share: float, found: Mapping[Level, Place]) -> dict[Level, Tensor]:
    """Returns the latents of the source for the first steps of an edit.

    Args:
        trajectory: Inverted latents of one picture.
        share: Share of the steps, 0 to 1; above 0 at least one.
        found: Places of an edit that is aligned; else empty.

    Returns:
        Latents (1, C, h, w) by the level at which the network is evaluated in the step.
    """
    first = len(trajectory.levels) - math.ceil(share * (len(trajectory.levels) - 1) - 1e-6)
    steps = zip(trajectory.levels[first:], torch.split(trajectory.latents, 1)[first:], strict=True)
    return dict((found[level].at, found[level].x) if level in found else (level, x_t) for level, x_t in steps)


class AlignedPredictor:
    """Predicts where the inversion predicted, so that the source path is exact (DirectEdit, arXiv:2605.02417).

    The inversion's step from x_q to x_t, predicted at x_q, passes x_s = a_s x_0 + b_s eps. On the way back the network
    sees y_t + r_t, r_t = x_q - x_t, and its velocity v = eps - x_0 steps from y_t: the x_0 and eps with this v and
    a_t x_0 + b_t eps = y_t are x_0 = (y_t - b_t v) / (a_t + b_t) and eps = x_0 + v. At y_t = x_t they are the
    inversion's own, and give x_s. In a flow this is DirectEdit's y_s = y_t + (s - t) v.
    """

    def __init__(self, model: Predictor, found: Mapping[Level, Place]) -> None:
        """Initialises a predictor.

        Args:
            model: Diffusion model to evaluate.
            found: Places of the trajectory; at levels without one the model predicts at y_t.
        """
        self._model, self._places = model, found

    def predict(self, y_t: Tensor, at: Level, text: Embedding) -> Prediction:
        """Returns the prediction for y_t, as `Predictor.predict` does.

        Args:
            y_t: (B, C, h, w) edited latents at level `at`, float32.
            at: Noise level of all rows.
            text: Prompt embeddings of B prompts, or of one prompt for all rows.

        Returns:
            Clean latents and noise, (B, C, h, w) each.
        """
        if (place := self._places.get(at)) is None:
            return self._model.predict(y_t, at, text)
        v = _velocity(self._model.predict(y_t + place.r, place.at, text)) + place.turn
        x_0 = (y_t - at.b * v) / (at.a + at.b)
        return Prediction(x_0, x_0 + v)


class KeepingPredictor:
    """Predicts with the values of the source in self-attention, which keeps its texture and identity.

    The source is evaluated once for each level that has one, with the text of the inversion: an evaluation more.
    Sources: MasaCtrl (arXiv:2304.08465, section 3.2); DirectEdit (arXiv:2605.02417): in the first steps alone.
    """

    def __init__(self, model: ValueKeeper, sources: Mapping[Level, Tensor], caption: Embedding) -> None:
        """Initialises a predictor.

        Args:
            model: Diffusion model whose values can be kept.
            sources: (1, C, h, w) latents of the source by the levels at which its values are kept.
            caption: Text of the source, one row.
        """
        self._model, self._sources, self._caption = model, sources, caption
        self._values: tuple[Level, Values] | None = None

    def predict(self, y_t: Tensor, at: Level, text: Embedding) -> Prediction:
        """Returns the prediction for y_t, as `Predictor.predict` does.

        Args:
            y_t: (B, C, h, w) edited latents at level `at`, float32.
            at: Noise level of all rows.
            text: Prompt embeddings of B prompts, or of one prompt for all rows.

        Returns:
            Clean latents and noise, (B, C, h, w) each.
        """
        if at not in self._sources:
            return self._model.predict(y_t, at, text)
        if self._values is None or self._values[0] != at:
            self._values = at, self._model.source_values(self._sources[at], at, self._caption)
        with self._model.keeping(self._values[1]):
            return self._model.predict(y_t, at, text)


def _velocity(prediction: Prediction) -> Tensor:
    return prediction.eps - prediction.x_0
