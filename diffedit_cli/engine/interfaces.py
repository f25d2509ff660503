"""Protocols and data types between the algorithm and a model, which the families in networks/ implement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.engine.transfer import to_device


@dataclass(frozen=True)
class Embedding:
    """Prompt embeddings of B prompts, and all else that a network reads beside the latents and the timestep.

    Attributes:
        tokens: (B, L, D) embeddings of L tokens.
        pooled: (B, P) embeddings of the whole prompts, None (the default) in families without them (SD 1.x and 2.x).
        mask: (B, L) boolean on the CPU, True for the tokens that count. None, the default: all of them count, and
            prompts of different lengths cannot share a batch.
        guidance: (B,) guidance scale that the network itself reads (embedded guidance). None, the default: none.
        key: (B,) number of each prompt on the CPU, the same for the same tokens. None, the default: not known.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    guidance: Tensor | None = None
    key: Tensor | None = None

    def rows(self, count: int) -> Embedding:
        """Returns the embedding of one prompt repeated for a batch.

        Args:
            count: Rows of the batch. An embedding of `count` rows is returned as it is.

        Returns:
            Prompt embeddings of `count` rows.
        """
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def followed_by(self, other: Embedding) -> Embedding:
        """Returns both embeddings in one batch; with masks, shorter prompts are padded with tokens that do not count.

        Args:
            other: Prompt embeddings of the same family, and of the same length L if they have no mask.

        Returns:
            The rows of this embedding, then those of `other`.
        """
        length = max(self.tokens.shape[1], other.tokens.shape[1])
        one, two = self._padded(length), other._padded(length)
        pairs: dict[str, tuple[Any, Any]] = {name: (getattr(one, name), getattr(two, name)) for name in _FIELDS}
        there = {name: pair for name, pair in pairs.items() if all(part is not None for part in pair)}
        return Embedding(**{name: torch.cat(pair) for name, pair in there.items()})

    def part(self, rows: slice) -> Embedding:
        """Returns some rows of the batch.

        Args:
            rows: Slice of the B rows.

        Returns:
            Prompt embeddings of these rows.
        """
        return self._each(lambda tensor: tensor[rows])

    def to(self, dtype: torch.dtype) -> Embedding:
        """Returns the embedding in another number format; the mask and the guidance scale keep theirs.

        Args:
            dtype: Number format of the tokens and pooled embeddings.

        Returns:
            Prompt embeddings of the same shapes.
        """
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return replace(self, tokens=self.tokens.to(dtype), pooled=pooled)

    def zeros(self) -> Embedding:
        """Returns an embedding of zeros in the same shapes."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, tokens=torch.zeros_like(self.tokens), pooled=pooled)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each of the B prompts, up to the last one that counts."""
        if self.mask is None:
            return [self.tokens.shape[1]] * len(self.tokens)
        numbers: list[int] = (self.mask * torch.arange(1, self.mask.shape[1] + 1)).amax(dim=1).tolist()
        return numbers

    @property
    def padding_mask(self) -> Tensor | None:
        """The mask on the device of the tokens; None if all of them count, so that networks need no mask."""
        if self.mask is None or bool(self.mask.all()):
            return None
        return to_device(self.mask, self.tokens.device)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        found: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        return Embedding(**{name: change(tensor) for name, tensor in found.items() if tensor is not None})

    def _padded(self, length: int) -> Embedding:
        more = length - self.tokens.shape[1]
        if not more:
            return self
        if self.mask is None:
            raise ValueError("prompt embeddings of different lengths need a mask to share a batch")
        return replace(self, tokens=F.pad(self.tokens, (0, 0, 0, more)), mask=F.pad(self.mask, (0, more)))


_FIELDS = tuple(field.name for field in fields(Embedding))


@dataclass(frozen=True)
class Text:
    """A prompt with its negative prompt and guidance scale.

    Attributes:
        prompt: Prompt embeddings, one row.
        negative: Embeddings of the negative prompt, one row. None, the default, switches guidance off.
        guidance: Guidance scale. 1.0, the default, switches guidance off.
        rescale: Changes the guided prediction, given with the prediction for the prompt alone and the noise level, in
            families that do so. None, the default: no change.
    """

    prompt: Embedding
    negative: Embedding | None = None
    guidance: float = 1.0
    rescale: Callable[[Prediction, Prediction, Level], Prediction] | None = None


class Watcher(Protocol):
    """Records the attention of a network to some words of one prompt, in the batch rows assigned to it."""

    def map(self, grid: tuple[int, int]) -> Tensor:
        """Returns how strongly each cell of the latents, (h, w) = `grid`, attends to the words: (h, w), 0 to 1."""
        ...


class Values(Protocol):
    """Values in the self-attention of a network for one picture."""


@dataclass(frozen=True)
class ModelInput:
    """Input of a network evaluation.

    Attributes:
        x_t: (B, C, h, w) noisy latents, float32.
        timesteps: (B,) timestep of each row.
        text: Prompt embeddings of B prompts.
        watches: Attention watcher of each of the B rows, or values that its self-attention takes; None: neither.
    """

    x_t: Tensor
    timesteps: Tensor
    text: Embedding
    watches: Sequence[Watcher | Values | None]

    def __len__(self) -> int:
        return len(self.x_t)

    @property
    def shape(self) -> tuple[object, ...]:
        """Shapes and number format without the batch size: inputs that are equal in this can share a network call.

        The length of the prompts counts only if they have no mask.
        """
        text = self.text
        length = text.tokens.shape[1] if text.mask is None else None
        pooled = None if text.pooled is None else text.pooled.shape[1:]
        return self.x_t.shape[1:], length, text.tokens.shape[2:], text.tokens.dtype, pooled, text.guidance is None

    def halves(self) -> tuple[ModelInput, ModelInput]:
        """Returns the two halves of the batch; the first one is longer by a row if B is odd."""
        middle = math.ceil(len(self) / 2)
        first, second = slice(middle), slice(middle, None)
        return self._part(first), self._part(second)

    def followed_by(self, other: ModelInput) -> ModelInput:
        """Returns both inputs in one batch: the rows of this one, then those of `other`, which has the same `shape`."""
        return ModelInput(
            torch.cat([self.x_t, other.x_t]),
            torch.cat([self.timesteps, other.timesteps]),
            self.text.followed_by(other.text),
            [*self.watches, *other.watches],
        )

    def _part(self, some: slice) -> ModelInput:
        return ModelInput(self.x_t[some], self.timesteps[some], self.text.part(some), self.watches[some])


class Predictor(Protocol):
    """Diffusion model in latent space, as far as `diffedit.py` needs it."""

    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction:
        """Returns the clean latents and the noise that the network predicts in x_t, without guidance.

        Args:
            x_t: (B, C, h, w) latents at level `at`, float32.
            at: Noise level of all rows.
            text: Prompt embeddings of B prompts, or of one prompt for all rows.

        Returns:
            Clean latents and noise, (B, C, h, w) each, float32.
        """
        ...


class ValueKeeper(Predictor, Protocol):
    """Predictor whose self-attention can take the values of another picture."""

    def source_values(self, x_t: Tensor, at: Level, text: Embedding) -> Values:
        """Returns the values in self-attention for a picture, from one evaluation.

        Args:
            x_t: (1, C, h, w) latents at level `at`, float32.
            at: Noise level of `x_t`.
            text: Prompt embeddings, one row.

        Raises:
            UsageError: If the network has no layers whose values make up texture and identity.
        """
        ...

    def keeping(self, values: Values) -> AbstractContextManager[None]:
        """Returns a context manager in which all predictions take `values`, of latents of the same shape."""
        ...


class PromptReader(Protocol):
    """Text encoders of a model, and the ways in which it uses prompts."""

    def embed(self, prompt: str, clip_skip: int = 0) -> Embedding:
        """Returns the embedding of one prompt.

        Args:
            prompt: Prompt; the empty one stands for no prompt.
            clip_skip: Number of layers before the usual layer of CLIP that the embedding is taken from. Default 0.

        Returns:
            Prompt embeddings of one row, in the network's number format.

        Raises:
            ModelError: If a word is not in the model's vocabulary, or the prompt has word weights, as in `(word)1.3`,
                that the model does not support or that need compel, which is not installed.
            UsageError: If CLIP has too few layers for `clip_skip`.
        """
        ...

    def text(self, prompt: Embedding, negative: Embedding, guidance: float) -> Text:
        """Returns a prompt with the guidance scale as this model applies it.

        Args:
            prompt: Prompt embeddings, one row.
            negative: Embeddings of the negative prompt, one row.
            guidance: Guidance scale in the family's own units (docs/models.md).

        Returns:
            Text with classifier-free guidance, with guidance that the network reads, or, for a distilled model, with
            none.
        """
        ...

    def prompt_warning(self, prompt: str) -> str | None:
        """Returns a warning with the end of a prompt that is too long for the model, or None if all of it is read.

        Args:
            prompt: Prompt.
        """
        ...

    def watching(self, prompt: str, words: Sequence[str], clip_skip: int = 0) -> AbstractContextManager[Watcher]:
        """Returns a context manager that records the network's attention to words of a prompt while it is open.

        Args:
            prompt: Prompt whose rows are watched.
            words: Words of the prompt, in lower case.
            clip_skip: As for `embed`. Default 0.

        Returns:
            Context manager of the watcher.

        Raises:
            ModelError: If the model reads none of the words.
        """
        ...


class Model(ValueKeeper, PromptReader, Protocol):
    """Latent diffusion model with VAE and text encoders, as far as the stages of the pipeline need it.

    Attributes:
        native_size: Side in pixels of the square pictures that the model was trained on.
        multiple: Both sides of a picture must be multiples of this number of pixels.
        evaluations: Network evaluations so far, one for each row of a batch.
    """

    native_size: int
    multiple: int
    evaluations: int

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Returns the shape of a picture's latents.

        Args:
            size: (width, height) in pixels, multiples of `multiple`.

        Returns:
            (C, h, w).
        """
        ...

    def levels(self, steps: int, cells: int | None = None) -> Sequence[Level]:
        """Returns the noise levels of the model's schedule.

        Args:
            steps: Number of steps, at least 1.
            cells: h * w of the latents, which some schedules depend on. Default: that of a picture of native size.

        Returns:
            steps + 1 levels from clean to noisiest.

        Raises:
            UsageError: If the model has fewer timesteps than `steps` needs.
        """
        ...

    def encode(self, picture: Tensor) -> Tensor:
        """Returns the latents of pictures: the mean of the VAE's posterior, scaled.

        Args:
            picture: (B, 3, H, W) in [-1, 1]; H and W are multiples of `multiple`.

        Returns:
            Latents x_0 (B, C, h, w), float32.

        Raises:
            ModelError: If a side is longer than the model supports (SD 3).
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the pictures of latents.

        Args:
            latents: (B, C, h, w), float32.

        Returns:
            Pictures (B, 3, H, W), float32, clipped to [-1, 1].
        """
        ...

    def beside(self, ask: Callable[[ModelInput], Tensor]) -> Model:
        """Returns a view of the model for one of several pictures in progress, with its own count of evaluations.

        Args:
            ask: Returns the network output (B, C, h, w) for an input, or raises what the network raised for it. It
                replaces the view's direct network calls, to join those of several views by `ask_together`.
        """
        ...

    def ask_together(self, asked: Sequence[ModelInput], as_one: bool = False) -> Sequence[Tensor | Exception]:
        """Evaluates the network for several inputs, in shared calls where their shapes allow it.

        Args:
            asked: Inputs; each has a batch size B of its own.
            as_one: Whether a call that memory is too short for fails as a whole, in place of smaller ones.

        Returns:
            For each input the network output (B, C, h, w), or the exception raised for it.
        """
        ...

    @property
    def vae_overflowed(self) -> bool:
        """Whether the VAE overflowed in half precision and has been in float32 since."""
        ...

    @property
    def dtype_name(self) -> str:
        """Number format of the network: float32, float16 or bfloat16."""
        ...

    def in_float32(self) -> AbstractContextManager[None]:
        """Returns a context manager in which all networks run in float32, for use after a half-precision overflow."""
        ...
