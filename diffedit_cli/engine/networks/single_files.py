"""Reads one network from a file of its own, `.safetensors` or `.gguf`, in diffusers' names or those of its authors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffedit_cli.engine.networks import gguf_header, model_formats
from diffedit_cli.engine.networks.conversion import SCALES, Checkpoint, bare, floating, settings_of, to_diffusers_layout
from diffedit_cli.engine.networks.original_layout import MARKS, Layout

Tensors = dict[str, Tensor]
Convert = Callable[[Tensors, Any], Tensors]
"""Takes what it uses out of the tensors of a file, and returns the weights of a network by diffusers' names."""

_UNNEEDED = re.compile(
    rf"{MARKS}|(.*\.)?(logit_scale|position_ids)"
    r"|lm_head\.weight|(text_model\.)?text_projection(\.weight)?|.*\.num_batches_tracked|encoder\.embed_tokens\.weight"
)
"""Tensors of files that a network may leave out.

These are quantisation scales of activations, marks that are read elsewhere, and what the text encoders do not use of
the networks that they are from.
"""


_COUNT = "num_batches_tracked"  # of training; nothing that a network computes depends on it


def by_layout(layout: Layout) -> Convert:
    """Returns a function that finds the weights of a network by a layout."""

    def convert(tensors: Tensors, network: Any) -> Tensors:
        found, used, settings = {}, set(), settings_of(network)
        for name in network.state_dict():
            for place in layout(name, settings):
                if place.name in tensors:
                    found[name] = to_diffusers_layout(tensors[place.name], place)
                    used.add(place.name)
                    break
        for name in used:
            del tensors[name]
        return found

    return convert


def renamed(rename: Callable[[Tensors], Tensors]) -> Convert:
    """Returns a function of diffusers that renames the tensors of a file, as `convert` of a network."""
    return lambda tensors, _: rename(tensors)


def tensors_of(file: Path, dtype: torch.dtype | None) -> Tensors:
    """Returns the tensors of a file by their names without a common prefix.

    Args:
        file: `.safetensors` or `.gguf` file.
        dtype: Number format of the tensors; float8 is multiplied by its scale before. None: the one that most have.
            Quantised tensors of a GGUF file stay as they are.

    Raises:
        ValueError: If the file is damaged, or holds quantised tensors that diffedit does not read.
    """
    if gguf_header.is_gguf(file):
        return _of_gguf(file)
    with Checkpoint.opened(file) as checkpoint:
        target, found = dtype or checkpoint.common_dtype(), {}
        for name, own in sorted(model_formats.without_prefix(checkpoint.left).items()):
            tensor = checkpoint.scaled(own)
            found[name] = tensor.to(target) if tensor.is_floating_point() else tensor
        return {name: tensor for name, tensor in found.items() if not _is_scale(name, found)}


def fill(network: Any, file: Path, at: Path, dtype: torch.dtype | None, convert: Convert | None) -> Any:
    """Returns a network of diffusers with the weights of a file.

    Args:
        network: The network without weights.
        file: File in diffusers' names or those of its authors.
        at: Folder with the settings of the network.
        dtype: Number format of the network. None: the one that most tensors of the file have.
        convert: Renames the tensors of its authors' files. None: there are no such names.

    Raises:
        ValueError: If the file does not have exactly the weights of that network.
    """
    weights = _weights(tensors_of(file, dtype), network, convert)
    own = network.state_dict()
    for name, tensor in weights.items():
        weights[name] = _fitting(name, tensor, own[name])
    if gguf_header.is_gguf(file):
        return _quantised(network, weights, at, dtype or torch.bfloat16)
    network.load_state_dict(weights, assign=True, strict=False)  # complete, but for counts of training
    return network


def check_used(missing: Iterable[str], left: Iterable[str]) -> None:
    """Raises ValueError if weights of a network are missing, or tensors of its file are left over."""
    if missing := sorted(missing):
        raise ValueError(f"it lacks {missing[0]}{_others(missing)}")
    if left := sorted(name for name in left if not _UNNEEDED.fullmatch(name)):
        raise ValueError(f"its {left[0]}{_others(left)} would be left out")


def _weights(tensors: Tensors, network: Any, convert: Convert | None) -> Tensors:
    """Returns the weights of a network by diffusers' names, from tensors in these names or those of its authors."""
    own = {name for name in network.state_dict() if not name.endswith(_COUNT)}
    missing = own - tensors.keys()
    found, rest = {name: tensors[name] for name in own & tensors.keys()}, {*tensors} - own
    if missing and convert is not None:
        taken = dict(tensors)
        try:
            converted = convert(taken, network)
        except Exception as error:  # diffusers' functions raise what their dictionaries do
            if len(missing) > len(own) / 2:  # else the file has diffusers' names
                lacks = isinstance(error, KeyError)
                what = f"it lacks {error.args[0]}" if lacks else f"its tensors are not those of such a network: {error}"
                raise ValueError(what) from error
        else:
            if len(own - converted.keys()) < len(missing):
                missing = own - converted.keys()
                found = {name: converted[name] for name in own & converted.keys()}
                rest = {*taken, *converted} - own
    check_used(missing, rest)
    return found


def _fitting(name: str, tensor: Tensor, own: Tensor) -> Tensor:
    """Returns a tensor as a weight. Raises ValueError if it has another shape, or is quantised in an unknown way."""
    shape = tuple(getattr(tensor, "quant_shape", tensor.shape))
    if bare(shape) != bare(own.shape):
        raise ValueError(f"its {name} has the shape {shape} in place of {tuple(own.shape)}")
    if own.is_floating_point() and not hasattr(tensor, "quant_shape"):
        floating(name, tensor)
    return tensor if shape == tuple(own.shape) else tensor.reshape(own.shape)


def _is_scale(name: str, tensors: Mapping[str, Tensor]) -> bool:
    layer, _, last = name.rpartition(".")
    return last in SCALES and f"{layer}.weight" in tensors


def _others(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} others" if len(names) > 1 else ""


def _of_gguf(file: Path) -> Tensors:
    gguf_header.tensors(file)  # checks the numbers that the library trusts
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    tensors = load_gguf_checkpoint(file)
    return {name: tensors[own] for name, own in model_formats.without_prefix(tensors).items()}


def _quantised(network: Any, weights: Tensors, at: Path, dtype: torch.dtype) -> Any:
    """Returns a network whose layers keep their quantised weights, and compute in `dtype`."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.quantizers.gguf.utils import UNQUANTIZED_TYPES, GGUFParameter, dequantize_gguf_tensor

    for name, tensor in weights.items():
        layer = network.get_submodule(name.rpartition(".")[0])
        stays = isinstance(layer, nn.Linear) and name.endswith(".weight")
        if isinstance(tensor, GGUFParameter) and not (stays and tensor.quant_type not in UNQUANTIZED_TYPES):
            weights[name] = dequantize_gguf_tensor(tensor).to(dtype)  # only the weights of such layers can stay so
    return type(network).from_single_file(
        weights,
        config=str(at),
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        torch_dtype=dtype,
        local_files_only=True,
    )
