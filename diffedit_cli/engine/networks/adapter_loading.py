"""Applies adapters to a model while it is loaded: LoRAs and textual inversions (arXiv:2208.01618)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from safetensors.torch import load_file
from torch import Tensor

from diffedit_cli.engine.networks import lora
from diffedit_cli.engine.networks.components import Parts
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.errors import ModelError, reason

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
MOST_VECTORS = 75  # tokens between the start and the end token of a CLIP prompt
CLIP_KEYS = ("clip_l", "clip_g")  # tensor names in textual inversions for two text encoders


def apply(
    parts: Parts,
    kind: type[LatentDiffusion],
    name: str,
    loras: Sequence[tuple[Path, float]],
    embeddings: Sequence[tuple[Path, str | None]],
) -> None:
    """Adds textual inversions and LoRAs to the networks and tokenizers of the model `name`.

    Args:
        parts: Parts of the model by name, changed in place.
        kind: Family of the model.
        name: Name of the model, for messages.
        loras: LoRA files with their scales.
        embeddings: Textual inversion files with their tokens; None is the token that the file names.

    Raises:
        ModelError: If a file does not fit the model.
    """
    if embeddings and not kind.FORMAT.learns_words:
        raise ModelError(
            f"The embedding {embeddings[0][0]} cannot be used with the model {name}, whose prompts are read by a text "
            "encoder without textual inversions; use a LoRA (--lora), or a Stable Diffusion model."
        )
    for file, token in embeddings:
        embed(parts, file, token, name)
    for file, scale in loras:
        fuse(parts, kind, file, scale, name)


class _Reader(TextualInversionLoaderMixin):  # type: ignore[misc]
    """Stand-in for the pipeline that diffusers' loader expects: the parts as attributes, nothing offloaded."""

    hf_device_map = None
    components: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, parts: Parts) -> None:
        self.__dict__.update(parts)


def fuse(parts: Parts, kind: type[LatentDiffusion], file: Path, scale: float, name: str) -> None:
    """Adds a LoRA to the networks. Raises ModelError unless all of it fits them."""
    with _fitting(file, name):
        lora.fuse({part: parts[part] for part in kind.FORMAT.adapted}, file, scale, kind.LAYOUTS)


def layers(parts: Parts, kind: type[LatentDiffusion], file: Path, name: str) -> set[tuple[str, str]]:
    """Returns the layers that a LoRA changes, as (part, layer). Raises ModelError if it does not fit the networks."""
    with _fitting(file, name):
        return lora.layers({part: parts[part] for part in kind.FORMAT.adapted}, file, kind.LAYOUTS)


@contextlib.contextmanager
def _fitting(file: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # readers raise many types
        raise _unfit("LoRA", file, name, reason(error)) from error


def embed(parts: Parts, file: Path, token: str | None, name: str) -> None:
    """Adds the token of a textual inversion to the tokenizers, and its vectors to the text encoders.

    Raises ModelError if the file does not fit the model or the token is in its vocabulary already.
    """
    encoders = [part for part in TEXT_ENCODERS if part in parts]
    try:
        vectors = load_file(file)
    except Exception as error:
        raise _unfit("embedding", file, name, reason(error)) from error
    if len(encoders) == 2 and set(vectors) == set(CLIP_KEYS):
        found = [vectors[key] for key in CLIP_KEYS]
    elif len(encoders) == len(vectors) == 1:
        ((key, only),) = vectors.items()
        found, token = [only], token or (None if key == "emb_params" else key)
    else:
        wanted = " and ".join(CLIP_KEYS) if len(encoders) == 2 else "one tensor"
        held = ", ".join(sorted(vectors)[:3]) or "nothing"
        raise _unfit("embedding", file, name, f"it holds {held}, and that model needs {wanted}")
    token = token or file.stem
    for part, tensor in zip(encoders, found, strict=True):
        network, tokenizer = parts[part], parts[part.replace("text_encoder", "tokenizer")]
        if difference := _difference(tensor, network.get_input_embeddings().weight.shape[-1]):
            raise _unfit("embedding", file, name, difference)
        try:
            _Reader(parts).load_textual_inversion(
                {token: tensor}, token=token, tokenizer=tokenizer, text_encoder=network
            )
        except ValueError as error:
            raise ModelError(
                f'The token "{token}" of the embedding {file} is already a word of the model {name}; '
                f"give it another: --embedding {file}:TOKEN."
            ) from error
        # otherwise CLIP takes the token of the highest number, now an added one, for the end of the prompt
        body: Any = getattr(network, "text_model", network)
        body.eos_token_id = network.config.eos_token_id = tokenizer.eos_token_id


def _difference(vectors: Tensor, width: int) -> str | None:
    """Returns why a tensor cannot be a textual inversion of this width, or None if it can."""
    if not vectors.is_floating_point() or vectors.ndim not in (1, 2):
        return "it does not hold vectors of floating-point numbers"
    if vectors.shape[-1] != width:
        return f"its vectors have width {vectors.shape[-1]}, and that model's {width}"
    if not 1 <= vectors.numel() // width <= MOST_VECTORS:
        return f"it holds {vectors.numel() // width} vectors, and a prompt takes 1 to {MOST_VECTORS}"
    return None if bool(vectors.isfinite().all()) else "it holds values that are not finite"


def _unfit(what: str, file: Path, name: str, difference: str) -> ModelError:
    return ModelError(f"The {what} {file} does not fit the model {name}: {difference}; use one made for such a model.")
