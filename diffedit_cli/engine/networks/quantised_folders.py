"""Reads networks that bitsandbytes or torchao quantised, as diffusers and transformers save them, on any device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from diffedit_cli.engine.networks import fast_imports, quantisation
from diffedit_cli.engine.networks.model_formats import INSTALL
from diffedit_cli.errors import ModelError

EIGHT_BITS = ".SCB"  # end of the name of the largest values of the rows of a weight in LLM.int8
LARGEST = 127  # of an int8
_TORCHAO = "tensor_names"  # entry of the header of torchao's files


def method(at: Path) -> str | None:
    """Returns how the weights of a part's folder are quantised ("bitsandbytes" or "torchao"), None if they are not."""
    path = at / "config.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("quantization_config") if path.is_file() else None
    return str(said["quant_method"]) if said else None


def read(network: nn.Module, files: Sequence[Path], dtype: torch.dtype, device: str) -> nn.Module:
    """Fills a network without weights by quantised ones, and by plain ones in another number format.

    Args:
        network: Network on the meta device.
        files: Weight files.
        dtype: Number format of the plain weights, and in which the quantised layers compute.
        device: Torch device of the weights.

    Raises:
        ModelError: If a library is missing.
        ValueError: If a weight is missing or has another shape.
    """
    found: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    for path in files:
        found |= load_file(path, device=device)
        with safe_open(path, framework="pt") as opened:
            notes |= opened.metadata() or {}
    _require(found, notes)
    with fast_imports.with_quantisers():
        found = _unflattened(found, notes) if _TORCHAO in notes else dict(_eight_bits(found))
        places = _places(network, found)
        kept = getattr(network, "_keep_in_fp32_modules", None) or ()
        placed = {
            place: tensor if dtype == torch.float16 and set(kept) & {*place.split(".")} else _cast(place, tensor, dtype)
            for name, place in places.items()
            if (tensor := found[name]) is not None
        }
        quantisation.fill(network, placed, dtype, device)
    return network.requires_grad_(False)


def _require(found: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Raises ModelError if a library is missing that the weights need."""
    needed = {
        "torchao": _TORCHAO in notes or any(name.endswith(EIGHT_BITS) for name in found),
        "bitsandbytes": any(quantisation.STATE in name for name in found),
    }
    for library in (library for library, needs in needed.items() if needs):
        if not fast_imports.is_installed(library):
            raise ModelError(f"The model is quantised and needs {library}, which is not installed; {INSTALL}.")


def _unflattened(found: dict[str, Tensor], notes: dict[str, str]) -> dict[str, Tensor]:
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    names = [name for name in json.loads(notes[_TORCHAO]) if "." in name]  # it takes no weight outside of any layer
    made, left = unflatten_tensor_state_dict(found, notes | {_TORCHAO: json.dumps(names)})
    return {**left, **made}


def _eight_bits(found: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors with those of LLM.int8 under the names that `quantisation.fill` expects."""
    for name, tensor in found.items():
        layer = name.rpartition(".")[0]
        if name.endswith(EIGHT_BITS):
            yield f"{layer}.weight.scale", (tensor.float() / LARGEST)[:, None]
        elif f"{layer}{EIGHT_BITS}" in found and name == f"{layer}.weight":
            yield f"{name}.qdata", tensor
        elif not name.endswith(".weight_format"):
            yield name, tensor


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a plain weight in the number format; tensors inside of a quantised weight stay as they are."""
    inner = ".weight." in name or not quantisation.is_plain(tensor)
    return tensor if inner or not tensor.is_floating_point() else tensor.to(dtype)


def _places(network: nn.Module, found: dict[str, Tensor]) -> dict[str, str]:
    """Returns the names in the network of stored tensors; what has no place there is left out.

    A language model may be stored as part of a larger class, or under the names of an earlier version: the names then
    differ in their first words.
    """
    own = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    ends: dict[str, list[str]] = {}
    for name in own:
        words = name.split(".")
        for start in range(len(words)):
            ends.setdefault(".".join(words[start:]), []).append(name)
    places = {}
    for name in found:
        weight, dot, rest = name.partition(".weight.")
        weight += ".weight" if dot else ""
        for candidate in (weight, weight.partition(".")[2]):
            if weight in own or len(ends.get(candidate, ())) == 1:
                places[name] = (weight if weight in own else ends[candidate][0]) + (f".{rest}" if dot else "")
                break
    return places


def refuse(network: Any, name: str, what: str) -> None:
    """Raises ModelError if a network of the model `name` is quantised, with `what` cannot be done with it."""
    if isinstance(network, nn.Module) and quantisation.is_quantised(network):
        raise ModelError(f"{what} the quantised weights of the model {name}; use the full model, with --quantize.")
