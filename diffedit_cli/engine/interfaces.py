"""What the algorithm asks of a diffusion model. The families (sd.py, sdxl.py, sd3.py) fulfil it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction


@dataclass(frozen=True)
class Embedding:
    """What the network is told of B prompts: tokens (B, L, D) and, in some families, the whole prompt pooled (B, P)."""

    tokens: Tensor
    pooled: Tensor | None = None

    def rows(self, count: int) -> Embedding:
        """One prompt for each of `count` pictures."""
        return Embedding(
            self.tokens.expand(count, -1, -1), None if self.pooled is None else self.pooled.expand(count, -1)
        )

    def followed_by(self, other: Embedding) -> Embedding:
        """Both in one batch, of the same family."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        return Embedding(torch.cat([self.tokens, other.tokens]), pooled)

    def part(self, rows: slice) -> Embedding:
        """Some of the prompts."""
        return Embedding(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, dtype: torch.dtype) -> Embedding:
        return Embedding(self.tokens.to(dtype), None if self.pooled is None else self.pooled.to(dtype))

    def zeros(self) -> Embedding:
        """Nothing, in the same shapes."""
        return Embedding(torch.zeros_like(self.tokens), None if self.pooled is None else torch.zeros_like(self.pooled))


class Watcher(Protocol):
    """Sees a network's attention to some words, in the rows that it is told of."""

    def look(self, layer: Any, hidden: Tensor, told: Tensor) -> Tensor | None:
        """What is to be seen of a call of a cross-attention layer, hidden (B, cells, D) told (B, L, D), if anything."""
        ...

    def add(self, looks: Tensor) -> None:
        """Counts what `look` gave, once the network's call is done."""
        ...

    def map(self, grid: tuple[int, int]) -> Tensor:
        """How strongly each cell (h, w) of the latents' grid attends to the words that are watched."""
        ...


@dataclass(frozen=True)
class ModelInput:
    """What the network is asked: latents x_t (B, C, h, w), the labels of their levels (B,), B prompts, B watches."""

    x_t: Tensor
    timesteps: Tensor
    text: Embedding
    watches: Sequence[Watcher | None]

    def __len__(self) -> int:
        return len(self.x_t)

    @property
    def shape(self) -> tuple[object, ...]:
        """Rows of the same can be in one call."""
        tokens, pooled = self.text.tokens, self.text.pooled
        return self.x_t.shape[1:], tokens.shape[1:], tokens.dtype, None if pooled is None else pooled.shape[1:]

    def halves(self) -> tuple[ModelInput, ModelInput]:
        """The first half is the longer one."""
        middle = math.ceil(len(self) / 2)
        first, second = slice(middle), slice(middle, None)
        return self._part(first), self._part(second)

    def followed_by(self, other: ModelInput) -> ModelInput:
        """Both, of the same shape."""
        return ModelInput(
            torch.cat([self.x_t, other.x_t]),
            torch.cat([self.timesteps, other.timesteps]),
            self.text.followed_by(other.text),
            [*self.watches, *other.watches],
        )

    def _part(self, some: slice) -> ModelInput:
        return ModelInput(self.x_t[some], self.timesteps[some], self.text.part(some), self.watches[some])


class Predictor(Protocol):
    """A diffusion model in latent space: all that `diffedit.py` needs."""

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        """For x_t (B, C, h, w) float32 at one level and the embedding of B prompts or of one."""
        ...


class Model(Predictor, Protocol):
    """A whole latent diffusion model: all that the stages need."""

    native_size: int  # pixels: pictures of native_size ** 2 are what it was trained on
    multiple: int  # pixels: both sides of a picture must be multiples of this
    evaluations: int  # network evaluations so far, one for each picture in a batch

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) for width and height in pixels, multiples of `multiple`."""
        ...

    def levels(self, steps: int, cells: int | None = None) -> Sequence[Level]:
        """steps + 1 levels from clean to noisiest. Raises UsageError for more steps than the model has.

        Some schedules depend on how many `cells`, h * w, the latents have; None: those of a picture of native size.
        """
        ...

    def embed(self, prompt: str, clip_skip: int = 0) -> Embedding:
        """The embedding of one prompt, from so many layers of CLIP before the usual one.

        Raises ModelError for words the model does not know, UsageError for more layers than there are.
        """
        ...

    def prompt_warning(self, prompt: str) -> str | None:
        """What of the prompt the model cannot see (it is too long), if anything."""
        ...

    def watching(self, prompt: str, words: Sequence[str], clip_skip: int = 0) -> AbstractContextManager[Watcher]:
        """Sees meanwhile where the network looks for these words, in lower case, of a prompt that it is told.

        Raises ModelError for a model without cross-attention, and for words that it does not see.
        """
        ...

    def encode(self, picture: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> latents x_0 (B, C, h, w) float32, the posterior's mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) float32, clipped to [-1, 1]."""
        ...

    def beside(self, ask: Callable[[ModelInput], Tensor]) -> Model:
        """The same networks for one of several pictures at a time, with its own count of evaluations.

        It asks the network through `ask`, which answers as `ask_together` does.
        """
        ...

    def ask_together(self, asked: Sequence[ModelInput]) -> Sequence[Tensor | Exception]:
        """The network's output (B, C, h, w) for each of several who ask B rows, or what it raised for that one."""
        ...

    @property
    def vae_overflowed(self) -> bool:
        """Whether its VAE overflowed in half precision, and is float32 from then on."""
        ...

    @property
    def dtype_name(self) -> str:
        """The network's number format: float32, float16 or bfloat16."""
        ...

    def in_float32(self) -> AbstractContextManager[None]:
        """For a while in float32: the way out when half precision overflows."""
        ...
