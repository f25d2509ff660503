"""DiffEdit (Couairon et al., arXiv:2210.11427), section 3.2: mask, encode, decode.

Symbols are the paper's: x_0 the picture's latents, x_t their inversion at level t, y_t the latents being edited,
M the mask, R the reference ("from") text, Q the query ("to") text. All latents are (B, C, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, Predictor
from diffedit_cli.engine.process import Level, Prediction, add_noise, between, step
from diffedit_cli.engine.solvers import DDIM

MAPS_AT_ONCE = 8
AGREEMENT = 0.8  # intersection over union of two masks from half of the maps each; that of all is nearer still


@dataclass(frozen=True)
class Trajectory:
    """x_0 ... x_r, (T+1, C, h, w), each beside its own level, so that nothing is blended across levels."""

    latents: Tensor
    levels: Sequence[Level]

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.levels):
            raise ValueError(f"{len(self.latents)} latents for {len(self.levels)} levels")


@dataclass(frozen=True)
class Text:
    """A prompt and what to steer away from, one row each; without `negative`, guidance is off."""

    prompt: Embedding
    negative: Embedding | None = None
    guidance: float = 1.0


class GuidedPredictor:
    """Predictions for a text, guided; only each `every`-th, from the first, asks for the negative's too."""

    def __init__(self, model: Predictor, text: Text, every: int = 1) -> None:
        self._model, self._text, self._every = model, text, every
        self._asked = 0
        self._by = torch.zeros(())

    def __call__(self, x_t: Tensor, at: Level) -> Prediction:
        """For x_t (B, C, h, w). In between the clean latents are moved as they were the last time."""
        prompt, negative, guidance = self._text.prompt, self._text.negative, self._text.guidance
        if negative is None or guidance == 1.0:
            return self._model.predict(x_t, at, prompt)
        between = self._asked % self._every
        self._asked += 1
        if between:
            return self._model.predict(x_t, at, prompt).moved(self._by, at)
        unlike, like = _both(self._model, x_t, at, negative, prompt)
        self._by = (guidance - 1) * (like.x_0 - unlike.x_0)
        return unlike.towards(like, guidance)


def contrast_maps(
    model: Predictor, x_0: Tensor, at: Level, R: Text, Q: Text, noise: Tensor, at_once: int = MAPS_AT_ONCE
) -> Iterator[Tensor]:
    """Step 1: |eps(x_t, Q) - eps(x_t, R)|, averaged over channels; one map (h, w) for each noise (n, C, h, w).

    x_0 is (1, C, h, w); `at_once` noises go through the network together. With the same negative on both sides guidance
    only scales the difference, (u + g (q - u)) - (u + g (r - u)) = g (q - r), which `binarise` does not see: leave the
    negatives out then.
    """
    for some in torch.split(noise, at_once):
        x_t = add_noise(x_0, some, at)
        yield from contrast(model, x_t, at, reference_prediction(model, x_t, at, R), Q)


def reference_prediction(model: Predictor, x_t: Tensor, at: Level, R: Text) -> Tensor:
    """eps(x_t, R), (n, C, h, w): the same for every Q, which in one batch with it would change its last bits."""
    return GuidedPredictor(model, R)(x_t, at).eps


def contrast(model: Predictor, x_t: Tensor, at: Level, reference: Tensor, Q: Text) -> Tensor:
    """Contrast maps (n, h, w) of noisy latents x_t and what R predicts for them, (n, C, h, w) each."""
    return (GuidedPredictor(model, Q)(x_t, at).eps - reference).abs().mean(dim=1)


def until_stable(maps: Iterator[Tensor]) -> Iterator[Tensor]:
    """Of the maps (h, w) as many, an even number, as it takes until the odd and the even ones give the same mask.

    More would then change it little. The paper draws 10 whatever they show.
    """
    odd: list[Tensor] = []
    even: list[Tensor] = []
    for one, other in zip(maps, maps, strict=True):
        yield from (one, other)
        odd.append(one)
        even.append(other)
        M, N = (binarise(torch.stack(half).mean(dim=0)) for half in (odd, even))
        if (M & N).sum() >= AGREEMENT * (M | N).sum():
            return


def binarise(
    contrast: Tensor, clamp: float = 3.0, threshold: float = 0.5, size: tuple[int, int] | None = None
) -> Tensor:
    """Step 1, end: a contrast map (h, w) -> boolean mask M (h, w), or of `size` (H, W) with a smooth outline.

    Extremes are cut at `clamp` times the map's own mean, the rest rescaled to [0, 1] and thresholded.
    A map without contrast gives an empty mask.
    """
    return rescale(contrast, clamp, size) > threshold


def rescale(contrast: Tensor, clamp: float = 3.0, size: tuple[int, int] | None = None) -> Tensor:
    """Step 1: a contrast map (h, w), its extremes cut, in [0, 1]; all 0 where there is no contrast."""
    limit = contrast.mean() * clamp
    if not limit > 0:
        return torch.zeros(size or contrast.shape, dtype=contrast.dtype, device=contrast.device)
    scaled = contrast.clamp(max=limit) / limit
    return scaled if size is None else resize(scaled, size)


def resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Values of cells (h, w) at another size (H, W), bilinear."""
    return F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def invert(
    model: Predictor,
    x_0: Tensor,
    levels: Sequence[Level],
    caption: Text,
    solver: DDIM | None = None,
    regularise: Callable[[Prediction, Level], Prediction] | None = None,
    fixed_point: int = 0,
    every: int = 1,
    begun: Sequence[Tensor] = (),
) -> Iterator[Tensor]:
    """Step 2: inversion (Eq. 4), yielding x_1 ... x_r, one for each level after the first.

    The first of them may be `begun` otherwise, as `noised` does. Steps go over `every` levels, counted from the last,
    so that the first may be shorter; between two of them the noise is taken for constant.
    `regularise` may change each prediction for the latents at a level. Each step is repeated `fixed_point` times with
    the noise that its own result holds, of which DDIM's step down takes the latents back (AIDI, arXiv:2309.04907).
    """
    solver = solver or DDIM()
    regularise = regularise or (lambda prediction, _: prediction)
    yield from begun
    guide, x_t = GuidedPredictor(model, caption), begun[-1] if begun else x_0
    walked = [len(begun), *range(len(levels) - 1, len(begun), -every)[::-1]]
    for first, last in pairwise(walked):
        lower, higher = levels[first], levels[last]
        prediction = regularise(guide(x_t, solver.asks_at(lower, higher)), lower)
        x_s = solver.step(prediction, at=lower, to=higher)
        for _ in range(fixed_point):
            eps = guide(x_s, higher).eps
            prediction = regularise(Prediction((x_t - lower.b * eps) / lower.a, eps), lower)
            x_s = solver.step(prediction, at=lower, to=higher)
        yield from (step(between(x_t, lower, x_s, higher), level) for level in levels[first + 1 : last])
        x_t = x_s
        yield x_t


def noise_first_levels(x_0: Tensor, noise: Tensor, levels: Sequence[Level], b: float) -> list[Tensor]:
    """Begins step 2 with x_1 ... of the forward process, up to the first level with so much noise, 0 to 1.

    In what is clean and flat a network finds next to no noise, and all later steps of an inversion keep what was found
    in the first (arXiv:2410.23530).
    """
    last = next((number for number, level in enumerate(levels) if level.b >= b), len(levels) - 1)
    return [add_noise(x_0, noise, level) for level in levels[1 : last + 1]]


def edit(
    model: Predictor,
    trajectory: Trajectory,
    M: Tensor,
    query: Text,
    solver: DDIM | None = None,
    unguided: int = 0,
    guide_every: int = 1,
    under: Tensor | None = None,
) -> Iterator[Tensor]:
    """Step 3: from y_r = x_r down to y_0, each (1, C, h, w), keeping the background: y_t <- M y_t + (1 - M) x_t.

    Clean latents `under` (1, C, h, w) stand in place of x_0 under the noise of y_r where M is not 0: zeros are noise
    alone.

    M is (h, w) in [0, 1]: a cell is repainted in its share M of the steps, the last ones, and kept before (Differential
    Diffusion, arXiv:2306.00950), so that 1 is always and 0 never. Both sides of each blend are at the same
    level, so at the end the background is exactly x_0. The last `unguided` steps are not guided: what the
    picture shows is decided by then (arXiv:2312.12487, arXiv:2404.07724). Of the others each `guide_every`-th asks
    where guidance leads, and those between go the same way (arXiv:2312.12487, section 5; arXiv:2410.19355).
    """
    solver = solver or DDIM()
    guided, plain = GuidedPredictor(model, query, guide_every), GuidedPredictor(model, replace(query, guidance=1.0))
    y_t, noisiest = trajectory.latents[-1:], trajectory.levels[-1]
    if under is not None:
        y_t = torch.where(M > 0, y_t + noisiest.a * (under - trajectory.latents[:1]), y_t)
    levels, latents = reversed(trajectory.levels), trajectory.latents[:-1].flip(0)
    to_come = range(len(latents), 0, -1)  # steps
    for left, (higher, lower), x_t in zip(to_come, pairwise(levels), latents, strict=True):
        guide = guided if left > unguided else plain
        y_t = solver.step(guide(y_t, higher), at=higher, to=lower)
        y_t = torch.where(left / len(latents) <= M, y_t, x_t)
        yield y_t


def _both(model: Predictor, x_t: Tensor, at: Level, one: Embedding, other: Embedding) -> tuple[Prediction, Prediction]:
    """In one batch, unless the prompts differ in length, as embeddings from files may."""
    if one.tokens.shape[1] != other.tokens.shape[1]:
        return model.predict(x_t, at, one), model.predict(x_t, at, other)
    texts = one.rows(len(x_t)).followed_by(other.rows(len(x_t)))
    return model.predict(torch.cat([x_t, x_t]), at, texts).chunk()
