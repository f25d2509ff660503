"""What is added to a model when it is read: LoRAs (arXiv:2106.09685) and textual inversions (arXiv:2208.01618)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import (
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import load_file
from torch import Tensor

from diffedit_cli.engine.parts import CHANGED, Parts
from diffedit_cli.errors import ModelError

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
CLIP_KEYS = ("clip_l", "clip_g")  # what files of textual inversions for two text encoders call these


def apply(
    parts: Parts, name: str, loras: Sequence[tuple[Path, float]], embeddings: Sequence[tuple[Path, str | None]]
) -> None:
    """Changes the networks and tokenizers of the model `name`. Raises ModelError for files that do not fit it."""
    for file, token in embeddings:
        embed(parts, file, token, name)
    for file, scale in loras:
        fuse(parts, file, scale, name)


class _Reader(TextualInversionLoaderMixin):  # type: ignore[misc]
    """What diffusers' loaders want of a pipeline: its parts as attributes, and that nothing is offloaded yet."""

    hf_device_map = None
    components: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, parts: Parts) -> None:
        self.__dict__.update(parts)


class _LoraReader(_Reader, StableDiffusionLoraLoaderMixin):  # type: ignore[misc]
    pass


class _LoraReaderXL(_Reader, StableDiffusionXLLoraLoaderMixin):  # type: ignore[misc]
    pass


class _LoraReader3(_Reader, SD3LoraLoaderMixin):  # type: ignore[misc]
    pass


def fuse(parts: Parts, file: Path, scale: float, name: str) -> None:
    """W <- W + scale * alpha / r * B A in every layer of the LoRA, by diffusers' loaders. Raises ModelError."""
    loader = _LoraReader3 if "transformer" in parts else _LoraReaderXL if "text_encoder_2" in parts else _LoraReader
    options: dict[str, Any] = {"unet_config": parts["unet"].config} if loader is _LoraReaderXL else {}
    try:
        tensors = load_file(file)
        if any("dora_scale" in key for key in tensors):
            raise ValueError("it is a DoRA, which diffedit does not read")
        alphas = any(key.endswith(".alpha") for key in tensors)
        source: Any = _with_alphas(tensors) if alphas else str(file)  # the file's metadata say what its tensors do not
        converted = loader.lora_state_dict(
            dict(source) if alphas else source, use_safetensors=True, local_files_only=True, **options
        )
        for part, layers in _layers(converted[0] if isinstance(converted, tuple) else converted, parts):
            _check_layers(layers, part, parts[part], file, name)
        reader = loader(parts)
        reader.load_lora_weights(source, use_safetensors=True, local_files_only=True)
        reader.fuse_lora([part for part in CHANGED if part in parts], lora_scale=scale)
        reader.unload_lora_weights()
    except ModelError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the converters raise all kinds
        raise _unfit("LoRA", file, name, " ".join(str(error).split())[:200].rstrip(".")) from error


def _with_alphas(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kohya's alpha / r multiplied into A: diffusers mixes up alphas that differ from layer to layer."""
    scaled = {key: tensor.float() for key, tensor in tensors.items() if not key.endswith(".alpha")}
    for key, alpha in tensors.items():
        down = key.removesuffix(".alpha") + ".lora_down.weight"
        if key.endswith(".alpha") and down in scaled:
            scaled[down] = scaled[down] * (float(alpha) / len(scaled[down]))
    return scaled


def _layers(tensors: dict[str, Tensor], parts: Parts) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Part by part, the tensors of a LoRA under the names of that part's layers; what is of no part raises."""
    prefixes = [part for part in CHANGED if part in parts]
    if not tensors:
        raise ValueError("it changes nothing")
    if strange := [key for key in tensors if key.split(".")[0] not in prefixes]:
        raise ValueError(f"it changes {strange[0]}, which that model does not have")
    for part in prefixes:
        own = {key.removeprefix(f"{part}."): tensor for key, tensor in tensors.items() if key.startswith(f"{part}.")}
        if not own:
            continue
        if part in DENOISERS:
            yield part, convert_unet_state_dict_to_peft(own)
        else:
            own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
            flat = not hasattr(parts[part], "text_model")  # as in transformers 5
            yield part, {key.removeprefix("text_model." * flat): tensor for key, tensor in own.items()}


def _check_layers(layers: dict[str, Tensor], part: str, network: Any, file: Path, name: str) -> None:
    """Raises ModelError unless each tensor is the A or B of a layer of the network, of its width."""
    modules = dict(network.named_modules())
    for key, tensor in layers.items():
        layer, _, kind = key.partition(".lora_")
        weight = getattr(modules.get(layer), "weight", None)
        if weight is None:
            raise _unfit("LoRA", file, name, f"it changes {part}.{layer}, which that model does not have")
        if kind not in ("A.weight", "B.weight"):
            raise _unfit("LoRA", file, name, f"its {part}.{key} is of a kind that diffedit does not read")
        given, own = (tensor.shape[1], weight.shape[1]) if kind == "A.weight" else (tensor.shape[0], weight.shape[0])
        if given != own:
            raise _unfit("LoRA", file, name, f"its {part}.{layer} has width {given}, and that model's {own}")


def embed(parts: Parts, file: Path, token: str | None, name: str) -> None:
    """Gives the tokenizers a token of its own, and the text encoders its vectors. Raises ModelError."""
    encoders = [part for part in TEXT_ENCODERS if part in parts]
    try:
        vectors = load_file(file)
    except Exception as error:
        raise _unfit("embedding", file, name, " ".join(str(error).split())[:200]) from error
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
        width = network.get_input_embeddings().weight.shape[-1]
        if tensor.ndim > 2 or tensor.shape[-1] != width:
            raise _unfit(
                "embedding", file, name, f"its vectors have width {tensor.shape[-1]}, and that model's {width}"
            )
        try:
            _Reader(parts).load_textual_inversion(
                {token: tensor}, token=token, tokenizer=tokenizer, text_encoder=network
            )
        except ValueError as error:
            raise ModelError(
                f'The token "{token}" of the embedding {file} is already a word of the model {name}; '
                f"give it another: --embedding {file}:TOKEN."
            ) from error
        # else CLIP takes the token of the highest number, now one of these, for the end of the prompt
        body: Any = getattr(network, "text_model", network)
        body.eos_token_id = network.config.eos_token_id = tokenizer.eos_token_id


def _unfit(what: str, file: Path, name: str, difference: str) -> ModelError:
    return ModelError(f"The {what} {file} does not fit the model {name}: {difference}; use one made for such a model.")
