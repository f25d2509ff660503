"""Prompts written by models: captions of pictures by BLIP (arXiv:2201.12086), sentences by Flan-T5 (arXiv:2210.11416).

The models run on the CPU in float32, so that their texts do not depend on the device of the edit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffedit_cli.errors import DiffEditError, ModelError, reason
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import configs, registry, weights
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
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
CONFIG = "config.json"


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
        folder = find(params.caption_model, "BlipForConditionalGeneration")
        about = {"picture": picture.digest, "model": self._digest(folder)}
        (caption,) = self._remembered("caption", about, lambda: [_caption(folder, picture, params.caption_model)])
        return dataclasses.replace(params, caption=caption)

    def with_sentences(self, params: Params) -> Params:
        """Returns the parameters with --from and --to expanded into sentences if --expand is set. Raises ModelError."""
        concepts = {name: getattr(params, name) for name in ("from_", "to")} if params.expand else {}
        concepts = {name: concept for name, concept in concepts.items() if isinstance(concept, str) and concept}
        if not concepts:
            return params
        folder = find(params.expand_model, "T5ForConditionalGeneration")
        found: dict[str, Any] = {name: self._sentences(folder, concept, params) for name, concept in concepts.items()}
        return dataclasses.replace(params, **found)

    def _sentences(self, folder: Path, concept: str, params: Params) -> Sentences:
        about = {"concept": concept, "count": params.expand, "seed": params.seed, "model": self._digest(folder)}

        def write() -> list[str]:
            return _sentences(folder, concept, params.expand, hashing.of_record(about), params.expand_model)

        return Sentences(concept, tuple(self._remembered("sentences", about, write)), params.expand_model)

    def _digest(self, folder: Path) -> str:
        """Returns the digest (hex) of the model's weights and settings. Raises ModelError."""
        total, own = hashlib.sha256(), _weights(folder)
        try:
            for path in sorted(folder.iterdir()):
                if path in own or path.suffix in configs.SMALL:
                    total.update(f"{path.name} {hashing.of_file(path, self.memo)}\n".encode())
        except OSError as error:
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}; get the model again.") from error
        return total.hexdigest()

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


def find(name: str, architecture: str) -> Path:
    """Returns the folder of a transformers model by hub id or path, if it is on this machine. Raises ModelError."""
    folder = registry.local(name) or registry.in_hub_cache(name, CONFIG)
    if folder is None:
        advice = f"download it with: diffedit models pull {name}" if name.count("/") == 1 else "name a folder or hub id"
        raise ModelError(f"There is no model {name} on this machine; {advice}.")
    try:
        said = weights.read_json(folder / CONFIG)["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        said = None
    if not isinstance(said, list) or architecture not in said:
        raise ModelError(f"{name} is not a {architecture}: {folder / CONFIG} names none; name another model.")
    configs.check_folder(name, folder)
    registry.check_shards(name, folder, None, "get it again")
    for path in (found := _weights(folder)):
        weights.refuse_pickle(path)
    if not found:
        raise ModelError(f"The model {name} has no .safetensors weights in {folder}, and others are never read.")
    return folder


def _weights(folder: Path) -> list[Path]:
    """Returns the weights files to load: those without a variant."""
    return [path for path in folder.iterdir() if weights.is_weights(path.name) and not weights.variant_of(path.name)]


def _caption(folder: Path, picture: Picture, name: str) -> str:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor, model = _loaded(folder, name, BlipProcessor, BlipForConditionalGeneration)
    inputs = processor(images=picture.on_white(), return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=CAPTION_TOKENS, do_sample=False)
    return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()


def _sentences(folder: Path, concept: str, count: int, seed: str, name: str) -> list[str]:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    tokenizer, model = _loaded(folder, name, T5Tokenizer, T5ForConditionalGeneration)
    question = tokenizer(TEMPLATE.format(concept), return_tensors="pt")
    with torch.random.fork_rng(devices=[]):  # generate draws from the global generator
        torch.manual_seed(int(seed[:15], 16))
        tokens = model.generate(**question, num_return_sequences=count, **SAMPLING)
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _loaded(folder: Path, name: str, reader: Any, network: Any) -> tuple[Any, Any]:
    """Returns the tokenizer or processor, and the network. Raises ModelError."""
    from diffedit_cli.engine.networks import building

    try:
        with building.no_larger_than(_weights(folder)):
            loaded = network.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        _settle_generation(loaded)
        return reader.from_pretrained(folder, local_files_only=True), loaded
    except MemoryError:
        raise
    except Exception as error:  # transformers raises exceptions of many types
        raise ModelError(f"The model {name} cannot be loaded ({reason(error)}); get it again.") from error


def _settle_generation(network: Any) -> None:
    """Keeps only the special tokens of a model's generation settings: 100,000 beams would exhaust the memory."""
    from transformers import GenerationConfig

    for part in network.modules():
        if (said := getattr(part, "generation_config", None)) is not None:
            part.generation_config = GenerationConfig(**{name: getattr(said, name) for name in TOKENS})
