"""The three steps of DiffEdit (Couairon et al., arXiv:2210.11427, section 3.2): mask, inversion, masked denoising.

Symbols follow the paper: x_0 are the latents of the picture, x_t their inversion at noise level t, y_t the edited
latents, M the mask, R the reference ("from") text, Q the query ("to") text. All latents are (B, C, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, Predictor, Text
from diffedit_cli.engine.process import Level, Prediction, add_noise, between, step
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import DDIM

MAPS_AT_ONCE = 8  # noise draws in one network batch
AGREEMENT = 0.8  # least IoU of the masks from the two halves of the maps


@dataclass(frozen=True)
class Trajectory:
    """Inverted latents x_0 ... x_r, each with its own noise level, so that no blend mixes two levels.

    Attributes:
        latents: (T+1, C, h, w) latents of one picture, float32, from clean (x_0) to noisiest (x_r).
        levels: The T+1 noise levels of the latents.

    Raises:
        ValueError: If the numbers of latents and levels differ.
    """

    latents: Tensor
    levels: Sequence[Level]

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.levels):
            raise ValueError(f"{len(self.latents)} latents for {len(self.levels)} levels")


class GuidedPredictor:
    """Predicts clean latents and noise for a prompt with classifier-free guidance (arXiv:2207.12598 Eq. 6).

    The negative prompt is evaluated in the first call and every `every`-th after it. The calls in between shift the
    clean latents by the guidance offset of the last evaluation (arXiv:2312.12487, section 5; arXiv:2410.19355).
    """

    def __init__(self, model: Predictor, text: Text, every: int = 1) -> None:
        """Initialises a predictor for one pass along the noise levels.

        Args:
            model: Diffusion model to evaluate.
            text: Prompt, negative prompt and guidance scale.
            every: Calls from one evaluation of the negative prompt to the next, at least 1. Default 1: every call.
        """
        self._model, self._text, self._every = model, text, every
        self._asked = 0
        self._by = torch.zeros(())

    def __call__(self, x_t: Tensor, at: Level) -> Prediction:
        """Returns the guided prediction for x_t.

        Args:
            x_t: (B, C, h, w) latents at level `at`, float32.
            at: Noise level of `x_t`.

        Returns:
            Clean latents and noise, (B, C, h, w) each.
        """
        prompt, negative, guidance = self._text.prompt, self._text.negative, self._text.guidance
        if negative is None or guidance == 1.0:
            return self._model.predict(x_t, at, prompt)
        between = self._asked % self._every
        self._asked += 1
        if between:
            like = self._model.predict(x_t, at, prompt)
            guided = like.shift(self._by, at)
        else:
            unlike, like = _both(self._model, x_t, at, negative, prompt)
            self._by = (guidance - 1) * (like.x_0 - unlike.x_0)
            guided = unlike.towards(like, guidance)
        return guided if self._text.rescale is None else self._text.rescale(guided, like, at)


def noise_batches(x_0: Tensor, at: Level, noise: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    """Yields noisy latents x_t for batches of noise draws, each with the number of its first draw.

    Args:
        x_0: (1, C, h, w) latents of the picture, float32.
        at: Noise level of the x_t.
        noise: (n, C, h, w) independent standard normal noise, float32.
        at_once: Noise draws in one batch, at least 1.

    Yields:
        Number of the first draw, from 0, and x_t (at most `at_once`, C, h, w).
    """
    for number, some in enumerate(torch.split(noise, at_once)):
        yield number * at_once, add_noise(x_0, some, at)


def contrast_maps(
    model: Predictor,
    x_0: Tensor,
    at: Level,
    R: Text,
    Q: Text,
    noise: Tensor,
    at_once: int = MAPS_AT_ONCE,
    reference: Callable[[Tensor, int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Step 1 (section 3.2): yields contrast maps |eps(x_t, Q) - eps(x_t, R)|, averaged over channels.

    With the same negative prompt for R and Q, guidance only scales the difference,
    (u + g (q - u)) - (u + g (r - u)) = g (q - r), and `binarise` does not depend on the scale. Omit the negative
    prompts in that case.

    Args:
        model: Diffusion model to evaluate.
        x_0: (1, C, h, w) latents of the picture, float32.
        at: Noise level at which the predictions are compared.
        R: Reference text: what the picture shows.
        Q: Query text: what it should show.
        noise: (n, C, h, w) independent standard normal noise, float32.
        at_once: Noise draws in one network batch. Default 8.
        reference: Returns eps(x_t, R) for a batch x_t and the number of its first draw, for example from a cache.
            Default: the model predicts it (`reference_prediction`).

    Yields:
        One map (h, w), at least 0, for each of the n noise draws.
    """
    for first, x_t in noise_batches(x_0, at, noise, at_once):
        eps = reference(x_t, first) if reference else reference_prediction(model, x_t, at, R)
        yield from contrast(model, x_t, at, eps, Q)


def reference_prediction(model: Predictor, x_t: Tensor, at: Level, R: Text) -> Tensor:
    """Returns the noise eps(x_t, R) that the model predicts for the reference text.

    R is evaluated separately from Q, so that the result is the same for every Q: in one batch with Q its last bits
    would change.

    Args:
        model: Diffusion model to evaluate.
        x_t: (n, C, h, w) noisy latents at level `at`, float32.
        at: Noise level of `x_t`.
        R: Reference text.

    Returns:
        Predicted noise (n, C, h, w).
    """
    return GuidedPredictor(model, R)(x_t, at).eps


def contrast(model: Predictor, x_t: Tensor, at: Level, reference: Tensor, Q: Text) -> Tensor:
    """Returns the contrast maps |eps(x_t, Q) - eps(x_t, R)|, averaged over channels.

    Args:
        model: Diffusion model to evaluate.
        x_t: (n, C, h, w) noisy latents at level `at`, float32.
        at: Noise level of `x_t`.
        reference: (n, C, h, w) noise eps(x_t, R), from `reference_prediction`.
        Q: Query text.

    Returns:
        Maps (n, h, w), at least 0.
    """
    return (GuidedPredictor(model, Q)(x_t, at).eps - reference).abs().mean(dim=1)


def until_stable(maps: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yields contrast maps until the odd and the even maps give nearly the same mask.

    Two masks agree if their intersection over union is at least AGREEMENT: more maps would then change the mask
    little. The paper always draws 10 maps.

    Args:
        maps: Contrast maps (h, w), an even number of them.

    Yields:
        The maps (h, w) up to the first agreement, an even number; all of them if there is no agreement.

    Raises:
        ValueError: If the maps end after an odd number.
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
    """Step 1 (section 3.2): returns the boolean mask M of a contrast map, clamped, rescaled and thresholded.

    Args:
        contrast: (h, w) contrast map, at least 0.
        clamp: Values are cut at this multiple of the map's mean. Default 3.0.
        threshold: Cells above this value of the map rescaled to [0, 1] are masked. Default 0.5.
        size: (H, W) of the mask, interpolated bilinearly for a smooth outline. Default: (h, w).

    Returns:
        Boolean mask of `size`; empty for a map without contrast.
    """
    return rescale(contrast, clamp, size) > threshold


def rescale(contrast: Tensor, clamp: float = 3.0, size: tuple[int, int] | None = None) -> Tensor:
    """Step 1 (section 3.2): returns a contrast map with its extremes cut, rescaled to [0, 1].

    Args:
        contrast: (h, w) contrast map, at least 0.
        clamp: Values are cut at this multiple of the map's mean, which becomes 1. Default 3.0.
        size: (H, W) of the result, interpolated bilinearly. Default: (h, w).

    Returns:
        Map of `size` in [0, 1]; all 0 for a map without contrast.
    """
    limit = contrast.mean() * clamp
    scaled = torch.where(limit > 0, contrast.clamp(max=limit) / limit, 0.0)
    return scaled if size is None else resize(scaled, size)


def resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a grid of cells resized by bilinear interpolation.

    Args:
        grid: (h, w) values, floating point.
        size: (H, W) of the result.

    Returns:
        Grid (H, W).
    """
    return F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def invert(
    model: Predictor,
    x_0: Tensor,
    levels: Sequence[Level],
    caption: Text,
    solver: DDIM | None = None,
    regularise: Regularisation | None = None,
    fixed_point: int = 0,
    every: int = 1,
    first_latents: Sequence[Tensor] = (),
) -> Iterator[Tensor]:
    """Step 2: inverts the latents (Eq. 4) and yields x_1 ... x_r, one for each level after the first.

    Args:
        model: Diffusion model to evaluate.
        x_0: (B, C, h, w) latents of the picture, float32.
        levels: Noise levels from clean to noisiest.
        caption: Text that describes the picture, with its guidance scale.
        solver: New solver of this inversion. Default: DDIM.
        regularise: Changes each prediction, and is checked at the end. Default: no change.
        fixed_point: How often each step is repeated with the noise predicted at its own result, so that DDIM's step
            down leads back to the latents it started from (AIDI, arXiv:2309.04907). Default 0.
        every: Levels in one step. Steps are counted from the noisiest level, so the first one may be shorter. The
            levels between are interpolated with constant noise. Default 1.
        first_latents: x_1, x_2, ... (B, C, h, w) in place of the first steps, from `noise_first_levels`. Default: none.

    Yields:
        Latents (B, C, h, w) at each level after the first, beginning with `first_latents`.

    Raises:
        UsageError: After the last level, if `regularise` diverged.
    """
    solver = solver or DDIM()
    change = regularise or (lambda prediction, _: prediction)
    yield from first_latents
    guide, x_t = GuidedPredictor(model, caption), first_latents[-1] if first_latents else x_0
    for first, last in pairwise(walked_levels(len(levels), every, len(first_latents))):
        lower, higher = levels[first], levels[last]
        prediction = change(guide(x_t, solver.asks_at(lower, higher)), lower)
        x_s = solver.step(prediction, at=lower, to=higher)
        for _ in range(fixed_point):
            eps = guide(x_s, higher).eps
            prediction = change(Prediction((x_t - lower.b * eps) / lower.a, eps), lower)
            x_s = solver.step(prediction, at=lower, to=higher)
        yield from (step(between(x_t, lower, x_s, higher), level) for level in levels[first + 1 : last])
        x_t = x_s
        yield x_t
    if regularise is not None:
        regularise.check()


def walked_levels(count: int, every: int, begun: int) -> list[int]:
    """Returns the numbers of the levels at which the steps of an inversion begin and end.

    Args:
        count: Number of levels.
        every: Levels in one step; the first step may be shorter.
        begun: Number of the level that the inversion begins at.

    Returns:
        Numbers from `begun` to `count` - 1.
    """
    return [begun, *range(count - 1, begun, -every)[::-1]]


def noise_first_levels(x_0: Tensor, noise: Tensor, levels: Sequence[Level], b: float) -> list[Tensor]:
    """Returns the first latents x_1, x_2, ... of step 2 from the forward process in place of inversion.

    In clean and flat areas a network predicts next to no noise, and all later steps of an inversion keep the noise of
    the first one (arXiv:2410.23530).

    Args:
        x_0: (B, C, h, w) latents of the picture, float32.
        noise: Standard normal noise shaped like `x_0`.
        levels: Noise levels from clean to noisiest.
        b: Noise level to reach, 0 to 1: the first level with at least this `Level.b` is the last that is returned.

    Returns:
        Latents (B, C, h, w) of the levels after the first, up to that level; empty if the first one reaches it.
    """
    return [add_noise(x_0, noise, level) for level in levels[1 : count_first_levels(levels, b) + 1]]


def count_first_levels(levels: Sequence[Level], b: float) -> int:
    """Returns how many latents `noise_first_levels` returns for these levels and this noise level b."""
    return next((number for number, level in enumerate(levels) if level.b >= b), len(levels) - 1)


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
    """Step 3: denoises y_r = x_r down to y_0 and keeps the background: y_t <- M y_t + (1 - M) x_t.

    Both sides of each blend are at the same noise level, so at the end the background is exactly x_0.

    Args:
        model: Diffusion model to evaluate.
        trajectory: Inverted latents x_0 ... x_r of one picture.
        M: (h, w) mask in [0, 1]. A cell is repainted in the share M of the steps, the last ones, and kept in the steps
            before (Differential Diffusion, arXiv:2306.00950): 1 is repainted in every step, 0 in none.
        query: Text Q with its negative prompt and guidance scale.
        solver: New solver of this edit. Default: DDIM.
        unguided: Last steps without guidance, as the content of the picture is decided by then (arXiv:2312.12487,
            arXiv:2404.07724). Default 0.
        guide_every: Guided steps from one evaluation of the negative prompt to the next. The steps between reuse its
            guidance offset (arXiv:2312.12487, section 5; arXiv:2410.19355). Default 1.
        under: (1, C, h, w) clean latents that replace x_0 under the noise of y_r where M is not 0. Zeros leave noise
            alone. Default: x_0.

    Yields:
        Edited latents y_t (1, C, h, w) at each level below the noisiest; the last are y_0.
    """
    solver = solver or DDIM()
    guided, plain = GuidedPredictor(model, query, guide_every), GuidedPredictor(model, replace(query, guidance=1.0))
    y_t, noisiest = trajectory.latents[-1:], trajectory.levels[-1]
    if under is not None:
        y_t = torch.where(M > 0, y_t + noisiest.a * (under - trajectory.latents[:1]), y_t)
    levels, latents = reversed(trajectory.levels), trajectory.latents[:-1].flip(0)
    to_come = range(len(latents), 0, -1)  # number of steps left, this one included
    for left, (higher, lower), x_t in zip(to_come, pairwise(levels), latents, strict=True):
        guide = guided if left > unguided else plain
        y_t = solver.step(guide(y_t, higher), at=higher, to=lower)
        y_t = torch.where(left / len(latents) <= M, y_t, x_t)
        yield y_t


def _both(model: Predictor, x_t: Tensor, at: Level, one: Embedding, other: Embedding) -> tuple[Prediction, Prediction]:
    """Returns the predictions for two prompts, from one batch unless their lengths differ and they have no mask."""
    if one.mask is None and one.tokens.shape[1] != other.tokens.shape[1]:
        return model.predict(x_t, at, one), model.predict(x_t, at, other)
    texts = one.rows(len(x_t)).followed_by(other.rows(len(x_t)))
    return model.predict(torch.cat([x_t, x_t]), at, texts).chunk()
