"""Prompts of a model: their embeddings, kept for the next time, guidance, and the words that are watched."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, Text, Values, Watcher
from diffedit_cli.engine.networks import components, prompt_weighting
from diffedit_cli.engine.networks.cross_attention import Watch
from diffedit_cli.engine.networks.text_encoders import TextEncoder

MOST_EMBEDDINGS = 64  # in the cache: those of SD 3 have 3 MB each, and a server or a run sees any number of prompts


class PromptEncoding(ABC):
    """Text encoders of a model, and the embeddings of the last prompts."""

    WEIGHS_WORDS: ClassVar[bool] = False  # whether prompts may have word weights, as in "a (cat)1.3"
    WATCH: ClassVar[type[Watch]] = Watch  # what records the network's attention to words

    name: str

    def __init__(self, network: Any, encoders: Sequence[TextEncoder]) -> None:
        """Initialises the prompts of a model whose denoising `network` reads the embeddings of the `encoders`."""
        self.network, self.encoders = network, encoders
        self._watch: Watcher | Values | None = None
        self._embeddings: dict[tuple[str, int], Embedding] = {}

    @abstractmethod
    def _embedded(self, prompt: str, clip_skip: int) -> Embedding: ...

    def embed(self, prompt: str, clip_skip: int = 0) -> Embedding:
        key = prompt, clip_skip
        if not self.WEIGHS_WORDS:
            prompt_weighting.refuse(prompt, self.name)
        if key not in self._embeddings:
            if len(self._embeddings) == MOST_EMBEDDINGS:
                self._embeddings.clear()
            with components.fit_errors(self.name):
                embedding = self._embedded(prompt, clip_skip).to(self.network.dtype)
            self._embeddings[key] = replace(embedding, key=_number(embedding.tokens))
        return self._embeddings[key]

    def text(self, prompt: Embedding, negative: Embedding, guidance: float) -> Text:
        """Returns a prompt with classifier-free guidance, which most families have."""
        return Text(prompt, negative, guidance)

    def prompt_warning(self, prompt: str) -> str | None:
        with components.fit_errors(self.name):
            return max(self.encoders, key=lambda encoder: encoder.limit).warning(prompt)

    @contextmanager
    def watching(self, prompt: str, words: Sequence[str], clip_skip: int = 0) -> Iterator[Watcher]:
        with components.fit_errors(self.name):
            places = self._places(prompt, words)
        self._watch = watch = self.WATCH(self.embed(prompt, clip_skip), places)
        try:
            yield watch
        finally:
            self._watch = None

    def _places(self, prompt: str, words: Sequence[str]) -> list[int]:
        """Returns the positions of the tokens of words in the prompt embeddings of a prompt."""
        return self.encoders[0].places(prompt, words)


def _number(tokens: Tensor) -> Tensor:
    """Returns a number (1,) on the CPU for the tokens (1, L, D) of a prompt: the same for the same tokens."""
    held = tokens.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return torch.tensor([int.from_bytes(hashlib.blake2b(held, digest_size=8).digest(), "big", signed=True)])
