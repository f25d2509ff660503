"""Word weights in prompts, as in `(word)1.3`: syntax and arithmetic of compel, which is imported if needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from diffedit_cli.errors import ModelError

Read = Callable[[Tensor, Tensor | None], Tensor]  # token ids (1, L) and their mask -> hidden states (1, L, D)

_GROUP = re.compile(r"(\(|\)(?:\d+(?:\.\d+)?)?)")


def fragments(prompt: str) -> list[tuple[str, float]]:
    """Returns the fragments of a prompt with their weights.

    Weights of nested parentheses are multiplied. Parentheses without a weight, or never closed, are text.
    """
    groups: list[list[tuple[str, float]]] = [[]]
    for piece in _GROUP.split(prompt):
        if piece == "(":
            groups.append([])
        elif piece.startswith(")") and len(groups) > 1:
            inner, weight = groups.pop(), piece[1:]
            whole = [(text, float(weight) * own) for text, own in inner] if weight else [("(", 1.0), *inner, (")", 1.0)]
            groups[-1] += whole
        elif piece:
            groups[-1].append((piece, 1.0))
    flat = groups[0] + [piece for group in groups[1:] for piece in (("(", 1.0), *group)]  # groups never closed
    return [("".join(text for text, _ in same), weight) for weight, same in groupby(flat, key=lambda piece: piece[1])]


def is_weighted(prompt: str) -> bool:
    """Returns whether any weight in a prompt differs from 1."""
    return ")" in prompt and any(weight != 1.0 for _, weight in fragments(prompt))


def refuse(prompt: str, model: str) -> None:
    """Raises ModelError if a prompt has weights, which the model does not support."""
    if is_weighted(prompt):
        raise ModelError(
            f'The model {model} does not support word weights, as in "{prompt}"; leave out the numbers, or use a '
            "Stable Diffusion 1.x, 2.x or XL model."
        )


def plain(prompt: str) -> str:
    """Returns a prompt without its weights and their parentheses."""
    return "".join(text for text, _ in fragments(prompt)) if ")" in prompt else prompt


def apply_weights(prompt: str, tokenizer: Any, write: Callable[[str], str], read: Read, like: Tensor) -> Tensor:
    """Returns the hidden states (1, L, D) of a prompt with word weights.

    The states of a word are moved to its weight times their distance from those of the empty prompt. With a weight
    below 1 all states move towards those of the prompt without the word.

    Args:
        prompt: Prompt with weights.
        tokenizer: Tokenizer of the text encoder.
        write: Spells a text as the tokenizer expects it.
        read: Text encoder: token ids (1, L) and their mask to hidden states (1, L, D).
        like: Hidden states (1, L, D) without weights; the result has their device and number format.

    Raises:
        ModelError: If compel is not installed.
    """
    try:
        from compel.embeddings_provider import EmbeddingsProvider
    except ImportError:
        raise ModelError(
            f'The weights in "{prompt}" need compel, which is not installed; get it with: '
            "pip install 'diffedit-cli[weighting]'."
        ) from None

    class Encoder:
        """The interface of a text encoder that compel uses."""

        device, dtype = like.device, like.dtype

        def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: Any) -> Any:
            return SimpleNamespace(last_hidden_state=read(ids, mask))

    pieces = [(write(text), weight) for text, weight in fragments(prompt)]
    pieces = [(text, weight) for text, weight in pieces if text.strip()]  # compel accepts no fragment without words
    texts, weights = [text for text, _ in pieces], [weight for _, weight in pieces]
    provider = EmbeddingsProvider(tokenizer, Encoder(), device=like.device)
    states: Tensor = provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=like.device)
    return states
