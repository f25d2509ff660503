"""Base class of the flow matching families (arXiv:2209.03003), and the patches that are their networks' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.engine.networks.cross_attention import of_blocks
from diffedit_cli.engine.networks.joint_attention import OutputWatch, watch_outputs
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.source_values import ValueLayer
from diffedit_cli.engine.networks.text_encoders import TextEncoder
from diffedit_cli.engine.process import Level

TIMESTEPS = 1000  # of a schedule; the newer networks read the time from 0 to 1
SEQUENCE_SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""Noise for small and for large pictures, where a scheduler's settings do not state it."""


class FlowDiffusion(LatentDiffusion):
    """Flow matching model: x_t = (1 - t) x_0 + t eps, and the network predicts the velocity eps - x_0."""

    WATCH = OutputWatch
    WATCHED: ClassVar[Sequence[int]]  # blocks whose attention shows where the network places the words

    prediction_type = "flow_prediction"
    patch = 2  # side in cells of the patches that are one token of the network

    def __init__(
        self,
        *,
        vae: Any,
        transformer: Any,
        encoders: Sequence[TextEncoder],
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str,
    ) -> None:
        self.transformer, self.scheduler = transformer, scheduler
        super().__init__(vae=vae, network=transformer, encoders=encoders, name=name)

    def _levels(self, steps: int, cells: int | None) -> Sequence[Level]:
        """Returns levels at the scheduler's sigmas in reverse, t = 0 clean. A flow has any number of levels."""
        tokens = (cells or (self.native_size // self.factor) ** 2) // self.patch**2
        mu = {"mu": self._mu(tokens, steps)} if self.scheduler.config["use_dynamic_shifting"] else {}
        self.scheduler.set_timesteps(steps, sigmas=self._sigmas(steps), **mu)
        labels = [0.0, *reversed(self.scheduler.timesteps.tolist())]
        if any(lower >= higher for lower, higher in pairwise(labels)):
            raise ValueError("its scheduler gives noise levels that do not rise")
        times = reversed(self.scheduler.sigmas.tolist())
        return [Level(label, 1 - t, t) for label, t in zip(labels, times, strict=True)]

    def _watched(self, rows: ModelInput) -> AbstractContextManager[None]:
        """Returns a context for a network call that records the attention of its blocks."""
        return watch_outputs(self._attention_layers, rows)

    def _attention_layers(self) -> list[Any]:
        """Returns the joint attention layers of the blocks WATCHED."""
        return of_blocks(self.transformer.transformer_blocks, self.WATCHED, "attn")

    def _value_layers(self, rows: ModelInput) -> list[ValueLayer]:
        """Returns the blocks with one stream, as DirectEdit in FLUX.1, or else all, as there in SD 3.5."""
        blocks = getattr(self.transformer, "single_transformer_blocks", self.transformer.transformer_blocks)
        last = slice(-self._cells(rows), None)  # the picture's tokens come last; in two streams they are all
        return [ValueLayer(block.attn.to_v, last) for block in blocks]

    def _cells(self, rows: ModelInput) -> int:
        """Returns the number of the picture's tokens."""
        return rows.x_t.shape[-2] * rows.x_t.shape[-1] // self.patch**2

    def _sigmas(self, steps: int) -> list[float] | None:
        """Returns the times before they are shifted, the noisiest first; None for the scheduler's own."""
        return torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()

    def _mu(self, tokens: int, steps: int) -> float:  # noqa: ARG002
        """Returns the shift of the times: larger pictures need more noise (arXiv:2403.03206, section 5.3.2)."""
        said = {name: self.scheduler.config.get(name, usual) for name, usual in SEQUENCE_SHIFT.items()}
        slope = (said["max_shift"] - said["base_shift"]) / (said["max_image_seq_len"] - said["base_image_seq_len"])
        mu: float = said["base_shift"] + slope * (tokens - said["base_image_seq_len"])
        return mu


def pack(latents: Tensor) -> Tensor:
    """Returns latents (B, C, h, w) as tokens (B, h/2 * w/2, 4 C): patches of 2 x 2 cells, row by row."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, height // 2 * (width // 2), channels * 4)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns the latents (B, C, h, w) of tokens (B, h/2 * w/2, 4 C), with (h, w) = `grid`: inverse of `pack`."""
    height, width = grid
    patches = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, height, width)


def positions(grid: tuple[int, int], axes: int, device: torch.device) -> Tensor:
    """Returns the positions (h/2 * w/2, axes) of the tokens of a picture: row and column on axes 1 and 2, else 0."""
    height, width = grid[0] // 2, grid[1] // 2
    ids = torch.zeros(height, width, axes, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)[None, :]
    return ids.reshape(height * width, axes)
