"""What the algorithm asks of a diffusion model. A family (sd.py) fulfils it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction


class Predictor(Protocol):
    """A diffusion model in latent space: all that `diffedit.py` needs."""

    def predict(self, x_t: Tensor, at: Level, text: Tensor) -> Prediction:
        """For x_t (B, C, h, w) float32 at one level and prompt embeddings (B or 1, L, D)."""
        ...


class Model(Predictor, Protocol):
    """A whole latent diffusion model: all that the stages need."""

    native_size: int  # pixels: pictures of native_size ** 2 are what it was trained on
    multiple: int  # pixels: both sides of a picture must be multiples of this
    evaluations: int  # network evaluations so far, one for each picture in a batch

    def levels(self, steps: int) -> Sequence[Level]:
        """steps + 1 levels from clean to noisiest. Raises UsageError for more steps than the model has."""
        ...

    def embed(self, prompt: str) -> Tensor:
        """Prompt embeddings (1, L, D). Raises ModelError for words the model does not know."""
        ...

    def prompt_warning(self, prompt: str) -> str | None:
        """What of the prompt the model cannot see (it is too long), if anything."""
        ...

    def encode(self, picture: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> latents x_0 (B, C, h, w) float32, the posterior's mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) float32, clipped to [-1, 1]."""
        ...

    @property
    def dtype_name(self) -> str:
        """The network's number format: float32, float16 or bfloat16."""
        ...

    def in_float32(self) -> AbstractContextManager[None]:
        """For a while in float32: the way out when half precision overflows."""
        ...
