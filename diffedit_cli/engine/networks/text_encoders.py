"""Text encoders: a tokenizer and a network of transformers that turn a prompt into embeddings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import prompt_weighting
from diffedit_cli.errors import ModelError, UsageError

_PUNCTUATION = re.compile(r"[.,;:!?\"'…()]+")


class TextEncoder:
    """Text encoder that reads at most `limit` tokens of a prompt, special tokens included."""

    def __init__(self, tokenizer: Any, network: Any, name: str, limit: int) -> None:
        self.tokenizer, self.network, self.name, self.limit = tokenizer, network, name, limit
        self.device = network.device
        self._added: tuple[int, dict[str, int]] = 0, {}

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return int(self.network.config.hidden_size)

    def last(self, prompt: str) -> Embedding:
        """Returns the last hidden state (1, L, D) for a prompt."""
        return Embedding(self._run(prompt)[0])

    def masked(self, prompt: str, padding: int = 0) -> Embedding:
        """Returns the last hidden state (1, L, D) of a prompt alone, without the padding that it is read with.

        Args:
            prompt: Prompt.
            padding: Tokens of padding that are kept, as far as there are any. Default 0.

        Returns:
            Prompt embeddings with a mask of L True.
        """
        batch = self._batch(prompt)
        mask = batch["attention_mask"].to(self.device)
        length = min(int(mask.sum()) + padding, self.limit)
        tokens = self.network(batch["input_ids"].to(self.device), attention_mask=mask)[0][:, :length]
        return Embedding(tokens.clone(), mask=torch.ones(tokens.shape[:2], dtype=torch.bool))  # not a view of all rows

    def warning(self, prompt: str) -> str | None:
        """Returns a warning with the part of a prompt beyond the limit, or None if there is none."""
        text, _, _ = self._framed(prompt)
        places = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        if len(places) <= self.limit:
            return None
        unseen = text[places[self.limit - 1][0] :].strip()
        room = self.limit - self.tokenizer.num_special_tokens_to_add()
        return f'The prompt is longer than the {room} tokens that the model reads; it does not see "{unseen}".'

    def places(self, prompt: str, words: Sequence[str]) -> list[int]:
        """Returns the positions of the tokens of words in the token sequence of a prompt.

        Args:
            prompt: Prompt.
            words: Words of the prompt, in lower case.

        Raises:
            ModelError: If none of the words is among the tokens that the network reads.
        """
        text, begin, end = self._framed(prompt)
        whole = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
        spans = [match.span() for match in whole.finditer(text, begin, end)]
        tokens = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"][: self.limit - 1]
        found = [
            place
            for place, (start, end) in enumerate(tokens)
            if any(start < last and end > first for first, last in spans)
        ]
        if not found:
            raise ModelError(
                f'The model {self.name} sees none of the words "{" ".join(words)}", which the attention mask looks '
                "for; choose other words, or use --mask-method noise."
            )
        return found

    def _framed(self, prompt: str) -> tuple[str, int, int]:
        """Returns the text that is read for a prompt, and where the prompt begins and ends in it."""
        text = self._written_out(prompt_weighting.plain(prompt))
        return text, 0, len(text)

    def _check(self, prompt: str, ids: Sequence[int]) -> None:
        """Raises ModelError for unknown words. Here none are: a large vocabulary encodes any text."""

    def _written_out(self, prompt: str) -> str:
        """Returns a prompt with each textual inversion's token expanded to one token for each of its vectors.

        A textual inversion of several vectors has the tokens TOKEN, TOKEN_1, ...; prompts name the first.
        """
        if self._added[0] != len(self.tokenizer):  # the library collects them anew in each call, in 9 ms
            self._added = len(self.tokenizer), self.tokenizer.added_tokens_encoder
        _, added = self._added
        for token in added:
            if f"{token}_1" in added:
                rest = itertools.takewhile(added.__contains__, (f"{token}_{i}" for i in itertools.count(1)))
                whole = " ".join([token, *rest])
                prompt = re.sub(rf"{re.escape(token)}(?!_\d)", whole.replace("\\", r"\\"), prompt, flags=re.IGNORECASE)
        return prompt

    def _batch(self, prompt: str) -> Any:
        """Returns the token ids (1, limit) of a prompt, padded, and their mask. Raises ModelError for unknown words."""
        prompt = self._written_out(prompt)
        batch = self.tokenizer(
            prompt, padding="max_length", max_length=self.limit, truncation=True, return_tensors="pt"
        )
        self._check(prompt, batch["input_ids"][0].tolist())
        return batch

    def _run(self, prompt: str, **options: Any) -> Any:
        batch = self._batch(prompt)
        masked = getattr(self.network.config, "use_attention_mask", False)
        attention_mask = batch["attention_mask"].to(self.device) if masked else None
        return self.network(batch["input_ids"].to(self.device), attention_mask=attention_mask, **options)


class Clip(TextEncoder):
    """CLIP's text encoder, whose limit is that of its tokenizer or of its position embeddings."""

    def __init__(self, tokenizer: Any, network: Any, name: str) -> None:
        super().__init__(
            tokenizer, network, name, min(tokenizer.model_max_length, network.config.max_position_embeddings)
        )

    @property
    def closed(self) -> bool:
        """Whether the vocabulary is a closed list of words with an unknown token; CLIP's own encodes any text."""
        return bool(self.tokenizer.unk_token_id != self.tokenizer.eos_token_id)

    def last(self, prompt: str, clip_skip: int = 0) -> Embedding:
        """Returns the last hidden state (1, L, D), or with `clip_skip` an earlier one, normalised as the last one is.

        Raises UsageError if the network has too few layers.
        """
        body = getattr(self.network, "text_model", self.network)

        def choose(output: Any) -> Any:
            return body.final_layer_norm(self._hidden(output, clip_skip, 1)) if clip_skip else output[0]

        return Embedding(self._chosen(prompt, choose)[0])

    def penultimate(self, prompt: str, clip_skip: int = 0) -> Embedding:
        """Returns the penultimate hidden state (1, L, D), or an earlier one, and the projection (1, P) if there is one.

        The projection does not depend on word weights. Raises UsageError if the network has too few layers.
        """
        tokens, output = self._chosen(prompt, lambda output: self._hidden(output, clip_skip, 2))
        return Embedding(tokens, getattr(output, "text_embeds", None))

    def pooled(self, prompt: str) -> Tensor:
        """Returns the embedding (1, D) of the whole prompt: the last hidden state of its end token."""
        pooled: Tensor = self._run(prompt).pooler_output
        return pooled

    def _chosen(self, prompt: str, choose: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Returns the chosen hidden state with the prompt's word weights, and the network output without weights."""
        output = self._run(prompt_weighting.plain(prompt), output_hidden_states=True)
        if not prompt_weighting.is_weighted(prompt):
            return choose(output), output

        def read(ids: Any, mask: Any) -> Any:
            return choose(self.network(ids, attention_mask=mask, output_hidden_states=True))

        return prompt_weighting.apply_weights(prompt, self.tokenizer, self._written_out, read, choose(output)), output

    def _hidden(self, output: Any, clip_skip: int, usual: int) -> Any:
        """Returns the hidden state `clip_skip` layers before the `usual` one, counted from the end."""
        states = output.hidden_states
        if clip_skip + usual > len(states):
            raise UsageError(
                f"--clip-skip {clip_skip} is more than the text encoder of the model {self.name} has layers for; "
                f"use at most {len(states) - usual}."
            )
        return states[-(clip_skip + usual)]

    def _check(self, prompt: str, ids: Sequence[int]) -> None:
        if not self.closed or self.tokenizer.unk_token_id not in ids:
            return
        unknown = [word for word in prompt.split() if self._lacks(word)]
        known = sorted(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens))
        raise ModelError(
            f'The model {self.name} does not know "{" ".join(unknown)}"; it knows only these words: '
            f"{', '.join(known)}. For other words name a larger model with --model."
        )

    def _written_out(self, prompt: str) -> str:
        """Also removes punctuation from unknown words for a closed vocabulary, which has no punctuation."""
        prompt = super()._written_out(prompt)
        if not self.closed or not self._lacks(prompt):
            return prompt
        return " ".join(_PUNCTUATION.sub(" ", word) if self._lacks(word) else word for word in prompt.split())

    def _lacks(self, text: str) -> bool:
        return self.tokenizer.unk_token_id in self.tokenizer(text)["input_ids"]
