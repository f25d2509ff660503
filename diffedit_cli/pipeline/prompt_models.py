"""Prompts written by models: captions of pictures by BLIP (arXiv:2201.12086), sentences by Flan-T5 (arXiv:2210.11416).

The models run on the CPU in float32, so that their texts do not depend on the device of the edit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from diffedit_cli.errors import DiffEditError
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import transformers_folder
from diffedit_cli.models.transformers_folder import TransformersFolder
from diffedit_cli.pipeline.extra_models import CAPTIONS, SENTENCES
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Sentences
from diffedit_cli.storage import artifacts, hashing, records
from diffedit_cli.storage.cache import Cache

# from diffusers' guide to DiffEdit
TEMPLATE = (
    "Provide a caption for images containing a {}. The captions should be in English and should be no longer than 150 "
    "characters."
)
SAMPLING: Mapping[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 10, "max_new_tokens": 128}
CAPTION_TOKENS = 40
_DRAWING = Lock()
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclasses.dataclass(frozen=True)
class PromptModels:
    """Writes captions and sentences with models, and keeps them in the cache."""

    cache: Cache | None
    memo: Path  # folder of remembered digests of large files
    warn: Callable[[str], None] = lambda _: None

    def with_caption(self, params: Params, picture: Picture) -> Params:
        """Returns the parameters with the caption `auto` replaced by the picture's caption. Raises ModelError."""
        if params.caption != AUTO:
            return params
        model = transformers_folder.find(params.caption_model, CAPTIONS)
        about = {"picture": picture.digest, "model": model.digest(self.memo)}
        (caption,) = self._remembered("caption", about, lambda: [_caption(model, picture)])
        return dataclasses.replace(params, caption=caption)

    def with_sentences(self, params: Params) -> Params:
        """Returns the parameters with --from and --to expanded into sentences if --expand is set. Raises ModelError."""
        concepts = {name: getattr(params, name) for name in ("from_", "to")} if params.expand else {}
        concepts = {name: concept for name, concept in concepts.items() if isinstance(concept, str) and concept}
        if not concepts:
            return params
        model = transformers_folder.find(params.expand_model, SENTENCES)
        found: dict[str, Any] = {name: self._sentences(model, concept, params) for name, concept in concepts.items()}
        return dataclasses.replace(params, **found)

    def _sentences(self, model: TransformersFolder, concept: str, params: Params) -> Sentences:
        about = {"concept": concept, "count": params.expand, "seed": params.seed, "model": model.digest(self.memo)}

        def write() -> list[str]:
            return _sentences(model, concept, params.expand, hashing.of_record(about))

        return Sentences(concept, tuple(self._remembered("sentences", about, write)), params.expand_model)

    def _remembered(self, kind: str, about: Mapping[str, Any], write: Callable[[], list[str]]) -> list[str]:
        key = hashing.of_record({"kind": kind, **about})
        entry = self.cache.find(kind, key) if self.cache else None
        if entry is not None:
            try:
                arrays, said = artifacts.unpack(entry)
                if said["key"] != key:
                    raise ValueError("it is another entry")
                return [str(text) for text in json.loads(arrays["texts"].tobytes())]
            except FileNotFoundError:  # another process has evicted it since
                pass
            except artifacts.UNREADABLE:
                self.warn(f"The cache entry {entry} is damaged; it is computed again.")
        texts = write()
        if self.cache:
            arrays = {"texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)}
            try:
                self.cache.store(kind, key, artifacts.pack(arrays, records.record(kind, {**about, "key": key})))
            except DiffEditError as error:
                self.warn(f"The result is not stored in the cache: {error}")
        return texts


def _caption(model: TransformersFolder, picture: Picture) -> str:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor, network = model.reader(BlipProcessor), _settled(model.network(BlipForConditionalGeneration))
    inputs = processor(images=picture.on_white(), return_tensors="pt")
    tokens = network.generate(**inputs, max_new_tokens=CAPTION_TOKENS, do_sample=False)
    return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()


def _sentences(model: TransformersFolder, concept: str, count: int, seed: str) -> list[str]:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    tokenizer, network = model.reader(T5Tokenizer), _settled(model.network(T5ForConditionalGeneration))
    question = tokenizer(TEMPLATE.format(concept), return_tensors="pt")
    with _DRAWING, torch.random.fork_rng(devices=[]):  # generate draws from the global generator
        torch.manual_seed(int(seed[:15], 16))
        tokens = network.generate(**question, num_return_sequences=count, **SAMPLING)
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _settled(network: Any) -> Any:
    """Returns the network with only the special tokens of its generation settings: 100,000 beams exhaust the memory."""
    from transformers import GenerationConfig

    for part in network.modules():
        if (said := getattr(part, "generation_config", None)) is not None:
            part.generation_config = GenerationConfig(**{name: getattr(said, name) for name in TOKENS})
    return network
