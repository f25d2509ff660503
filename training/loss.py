"""The training loss of the UNet, and its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.latents import Batch
from training.settings import UnetTraining
from training.workspace import autocast

VelocityOf = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Predicts the velocity from noisy latents, timesteps and tokens."""
MIXED_FROM = 600
"""First of 1,000 noise levels at which a part of another scene may contradict the caption."""
EDITS_FROM = 450
"""First of 1,000 noise levels at which an edit may begin; masks are computed there, too."""
CHANGED = 0.15
"""Mean absolute difference of a cell's latents above which an edit counts as changing it."""


def loss_weight(signal: Tensor, settings: UnetTraining) -> Tensor:
    """Returns the weight of the velocity's error at alpha_bar ``signal``.

    It is 1, except at almost clean levels, where only texture is left to learn: there it is that of min-SNR-gamma
    (arXiv:2303.09556), which on noisy levels would be close to 0.
    """
    ratio = signal / (1 - signal)
    return (settings.gamma / (ratio + 1)).clamp(max=1)


def mixed(x_0: Tensor) -> Tensor:
    """Pastes a rectangle of the previous scene in the batch into each scene, 1/4 to 3/4 of its width and height.

    The prompt of an edit contradicts the noisy latents: at the levels where an edit begins, the old object can still be
    made out. A model trained only on captions that agree with the latents follows the latents, the more so the better
    it denoises.
    """

    def span(size: int) -> Tensor:
        length, start = torch.rand((2, len(x_0), 1), device=x_0.device)
        length = size * (0.25 + 0.5 * length)
        start = start * (size - length)
        at = torch.arange(size, device=x_0.device)
        return (at >= start) & (at < start + length)

    rows, columns = x_0.shape[-2:]
    rectangle = span(rows)[:, None, :, None] & span(columns)[:, None, None, :]
    return torch.where(rectangle, x_0.roll(1, 0), x_0)


def half_edited(x_0: Tensor, before: Tensor, t: Tensor, levels: Tensor) -> Tensor:
    """Returns the noise-free part of the latents of an edit from ``before`` to ``x_0`` at timestep ``t``.

    The edit begins at a random noisier timestep t_0 with the old scene alone. If the new scene is predicted from there
    on, DDIM (arXiv:2010.02502, eq. 12) leaves a share of the difference: signal / noise at t_0, over that at t.
    """
    t_0 = t.clamp(min=EDITS_FROM)
    t_0 = t_0 + ((len(levels) - 1 - t_0) * torch.rand(len(t), device=t.device).square()).long()
    ratio = (levels / (1 - levels)).sqrt()
    return x_0 + (ratio[t_0] / ratio[t]).view(-1, 1, 1, 1) * (before - x_0)


def drawn_levels(count: int, levels: Tensor, settings: UnetTraining) -> Tensor:
    """Returns (count,) random timesteps: logit-normal (arXiv:2403.03206, 3.1), a share of them uniform."""
    logits = settings.centre + settings.spread * torch.randn(count, device=levels.device)
    uniform = torch.rand(count, device=levels.device)
    chosen = torch.rand(count, device=levels.device) < settings.uniform_share
    return (torch.where(chosen, uniform, torch.sigmoid(logits)) * len(levels)).long()


def attention_to(x_0: Tensor, before: Tensor, settings: UnetTraining) -> Tensor:
    """Returns weights (N, 1, h, w) of each cell's error: 1, or ``changed_weight`` where an edit changes the cell."""
    changed = (x_0 - before).abs().mean(1, keepdim=True) > CHANGED
    return 1 + (settings.changed_weight - 1) * changed.float()


def loss_of(velocity_of: VelocityOf, batch: Batch, levels: Tensor, settings: UnetTraining) -> tuple[Tensor, Tensor]:
    """Returns the weighted loss, and the unweighted squared error of the velocity."""
    x_0, before, tokens = batch
    t = drawn_levels(len(x_0), levels, settings)
    signal = levels[t].view(-1, 1, 1, 1)
    seen = x_0
    if settings.mixed_share:
        chosen = (t >= MIXED_FROM) & (torch.rand(len(x_0), device=x_0.device) < settings.mixed_share)
        seen = torch.where(chosen.view(-1, 1, 1, 1), mixed(x_0), x_0)
    if settings.edit_share:
        chosen = torch.rand((len(x_0), 1, 1, 1), device=x_0.device) < settings.edit_share
        seen = torch.where(chosen, half_edited(x_0, before, t, levels), seen)
    x_t = signal.sqrt() * seen + (1 - signal).sqrt() * torch.randn_like(x_0)
    # The target velocity leads to x_0, whatever scene is seen under the noise.
    velocity = (signal.sqrt() * x_t - x_0) / (1 - signal).sqrt()
    with autocast():
        predicted = velocity_of(x_t.contiguous(memory_format=torch.channels_last), t, tokens)
    error = (predicted.float() - velocity).square()
    heeded = (error * attention_to(x_0, before, settings)).mean((1, 2, 3))
    return (heeded * loss_weight(signal.flatten(), settings)).mean(), error.detach().mean()


class Gradients:
    """Computes the gradients of the loss of one batch, clipped to norm 1 and left in the parameters.

    On a GPU this is one CUDA graph of the first batch's shape: its thousands of kernels take far longer to launch one
    by one than to run.
    """

    def __init__(self, model: nn.Module, levels: Tensor, settings: UnetTraining) -> None:
        self.model, self.levels, self.settings = model, levels, settings
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Returns (2,): the loss, and the unweighted squared error of the velocity."""
        if batch[0].device.type == "cpu":
            return self._compute(batch)
        if self.graph is None:
            self._capture(batch)
            assert self.graph is not None
        for there, given in zip(self.batch, batch, strict=True):
            there.copy_(given)
        self.graph.replay()
        return self.result.clone()

    def _compute(self, batch: Batch) -> Tensor:
        self.model.zero_grad()
        loss, error = loss_of(self.model, batch, self.levels, self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        return torch.stack([loss.detach(), error])

    def _capture(self, batch: Batch) -> None:
        x_0, before, tokens = batch
        self.batch = x_0.clone(), before.clone(), tokens.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # warm-up: libraries choose their kernels, which is not allowed during capture
                self._compute(self.batch)
        torch.cuda.current_stream().wait_stream(aside)
        self.model.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.result = self._compute(self.batch)
        self.graph = graph
