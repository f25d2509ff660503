"""Language models as text encoders: their hidden states for a prompt inside a chat template are its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from diffedit_cli.engine.networks import prompt_weighting
from diffedit_cli.engine.networks.text_encoders import TextEncoder

MARK = "\0"  # no template has it


class LanguageModel(TextEncoder):
    """Language model that reads a prompt inside a template."""

    def __init__(
        self, tokenizer: Any, network: Any, name: str, limit: int, template: Callable[[str], str], leading: int = 0
    ) -> None:
        """Initialises the text encoder.

        Args:
            tokenizer: Tokenizer of transformers.
            network: Language model of transformers.
            name: Name of the model, for messages.
            limit: Tokens that are read at most, those of the template included.
            template: Returns the text to read for a prompt, which it contains unchanged.
            leading: Tokens of the template before the prompt that are not part of the embedding. Default 0.
        """
        super().__init__(tokenizer, network, name, limit)
        self.template, self.leading = template, leading

    @property
    def width(self) -> int:
        config = self.network.config
        return int(getattr(config, "text_config", config).hidden_size)

    def hidden_states(self, prompt: str, padded: bool = False) -> tuple[Tensor, ...]:
        """Returns the hidden states (1, L, D) before the first layer and after each one.

        Args:
            prompt: Prompt.
            padded: Whether to read `limit` tokens, the last of which may be padding. Default: only those of the prompt.

        Returns:
            One tensor more than the network has layers.
        """
        padding = {"padding": "max_length"} if padded else {}
        batch = self.tokenizer(
            self.template(prompt), truncation=True, max_length=self.limit, return_tensors="pt", **padding
        ).to(self.device)
        network = getattr(self.network, "model", self.network)  # without the layer that predicts words
        output = network(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_hidden_states=True,
            use_cache=False,
        )
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    def warning(self, prompt: str) -> str | None:
        """Returns a warning with the part of a prompt beyond the limit; None if only the template's end is beyond."""
        text, begin, end = self._framed(prompt)
        places = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        seen = places[: self.limit][-1][1]
        if seen >= end:
            return None
        room = self.limit - sum(last <= begin for _, last in places)
        return f'The prompt is longer than the {room} tokens that the model reads; it does not see "{text[seen:end]}".'

    def places(self, prompt: str, words: Sequence[str]) -> list[int]:
        """Returns the positions of the tokens of words in the embedding of a prompt, as for any text encoder."""
        return [place - self.leading for place in super().places(prompt, words)]

    def _framed(self, prompt: str) -> tuple[str, int, int]:
        plain, begin = prompt_weighting.plain(prompt), self.template(MARK).index(MARK)
        return self.template(plain), begin, begin + len(plain)


def chat(prompt: str) -> str:
    """Returns a chat of Qwen's format whose only message is the prompt, up to where the answer begins."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def chat_without_thoughts(prompt: str) -> str:
    """Returns such a chat whose answer begins after empty thoughts, as Qwen3 writes them where it shall not think."""
    return f"{chat(prompt)}<think>\n\n</think>\n\n"
