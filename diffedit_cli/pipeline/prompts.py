"""Prompts: words, or a file of prompt embeddings in their place. No tensor is read here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.errors import InputError, ModelError, UsageError
from diffedit_cli.models import weights
from diffedit_cli.storage import files

TOKENS, POOLED = "tokens", "pooled"
SENTENCES = "-sentences"  # suffix of the record's key for the texts of `Sentences`
_LITTLE = ("a", "an", "the", "and", "or", "of", "in", "on", "at", "by", "to", "for", "from", "with", "is", "are")
_AROUND = ".,;:!?\"'…()"  # characters stripped from the ends of a word
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Embeds:
    """A `.safetensors` file of prompt embeddings, identified by its content, not by its name.

    `tokens` and `pooled` are the names of its tensors (B, L, D) or (L, D), and (B, P) or (P).
    """

    digest: str  # sha256 of the file
    path: Path = field(compare=False)
    tokens: str = field(default=TOKENS, compare=False)
    pooled: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def at(cls, path: str | Path) -> Embeds:
        """Returns the embeddings file at a path, by its header. Raises InputError, or ModelError for a pickled file."""
        path = Path(path)
        files.check_readable(path, "embeddings file")
        weights.refuse_pickle(path)
        try:
            header = weights.header(path)
        except ModelError:
            raise InputError(
                f"The embeddings file {path} is not a complete .safetensors file; make one with --save-embeds."
            ) from None
        tokens, pooled = _names(path, {name: len(tensor["shape"]) for name, tensor in header.items()})
        for name in (tokens, pooled):
            if name and header[name]["dtype"] not in _FLOATS:
                raise InputError(
                    f"The embeddings file {path} holds {header[name]['dtype']} in {name}; store it as float32."
                )
        return cls(hashlib.sha256(files.read(path, "embeddings file")).hexdigest(), path, tokens, pooled)


@dataclass(frozen=True)
class Sentences:
    """Sentences that a model wrote about a concept; the mean of their embeddings replaces the concept's own."""

    concept: str
    texts: tuple[str, ...]
    model: str = field(compare=False)

    def __str__(self) -> str:
        return self.concept


Prompt = str | Embeds | Sentences


def _names(path: Path, ranks: Mapping[str, int]) -> tuple[str, str | None]:
    """Returns the names of the tokens and pooled tensors: diffedit's own, or the only candidates. Raises InputError."""
    pooled = [name for name in ranks if POOLED in name]
    others = [name for name in ranks if name not in pooled]
    tokens = [TOKENS] if TOKENS in others else others
    pooled = [POOLED] if POOLED in pooled else pooled
    if len(tokens) != 1 or len(pooled) > 1:
        raise InputError(
            f"The embeddings file {path} holds {', '.join(sorted(ranks)) or 'nothing'}, and it is not clear which is "
            f"the prompt; name that tensor {TOKENS}, and the pooled one {POOLED}."
        )
    if ranks[tokens[0]] not in (2, 3) or (pooled and ranks[pooled[0]] not in (1, 2)):
        raise InputError(
            f"The embeddings file {path} holds other shapes than {TOKENS} (B, L, D) and {POOLED} (B, P); use these."
        )
    return tokens[0], pooled[0] if pooled else None


def choose_prompts(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Prompt]:
    """Returns the embeddings files that the command line names in place of words, by the parameter of the words.

    Raises UsageError if both words and a file are set, and the errors of `Embeds.at`.
    """
    found: dict[str, Prompt] = {}
    for name in names:
        option = name.rstrip("_")
        path = given.get(f"{option}_embeds")
        if path is None:
            continue
        if given.get(name):
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} and {flag}-embeds both say what the prompt is; leave one out.")
        found[name] = Embeds.at(path)
    return found


def telling_words(source: Prompt, target: Prompt) -> list[str]:
    """Returns the words by which the source differs from the target, lower case, without articles and the like.

    Returns all content words of the source if none differs, or if the target is an embeddings file. Raises UsageError
    unless the source is words.
    """
    if not isinstance(source, str):
        given = "--expand" if isinstance(source, Sentences) else "--from-embeds"
        raise UsageError(
            f"The attention mask looks for words of --from, and {given} leaves none; give --from alone, or use "
            "--mask-method noise."
        )
    return replaced_words(source, target) or _telling(source)


def replaced_words(source: Prompt, target: Prompt) -> list[str]:
    """Returns the content words of the source that the target lacks; none if the source is not words."""
    if not isinstance(source, str):
        return []
    staying = set() if isinstance(target, Embeds) else set(_words(str(target)))
    return [word for word in _telling(source) if word not in staying]


def _telling(source: str) -> list[str]:
    words = _words(source)
    return [word for word in words if word not in _LITTLE] or words


def _words(prompt: str) -> list[str]:
    """Returns the words of a prompt, each once, in order, without weights and punctuation."""
    from diffedit_cli.engine.networks import (
        prompt_weighting,  # deferred: it imports torch
    )

    parts = prompt_weighting.plain(prompt).lower().split()
    return list(dict.fromkeys(word for part in parts if (word := part.strip(_AROUND))))


def record(key: str, prompt: Prompt) -> dict[str, Any]:
    """Returns the record entries of a prompt: words under the option's name, a file's digest under NAME-embeds."""
    if isinstance(prompt, Embeds):
        return {f"{key}-embeds": prompt.digest}
    if isinstance(prompt, Sentences):
        made = {"expand": len(prompt.texts), "expand-model": prompt.model}
        return {key: prompt.concept, f"{key}{SENTENCES}": list(prompt.texts), **made}
    return {key: prompt}


def counterpart(key: str) -> str:
    """Returns the other key of a prompt, `to` -> `to-embeds` and back; a record holds one of the two."""
    return key.removesuffix("-embeds") if key.endswith("-embeds") else f"{key}-embeds"
