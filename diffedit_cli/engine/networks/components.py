"""Reads the parts of a diffusers folder. Every error names the part, and only `.safetensors` weights are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffedit_cli.engine.networks import building, precision
from diffedit_cli.errors import DiffEditError, ModelError, is_out_of_memory, reason

Parts = dict[str, Any]
Reader = Callable[[Path, torch.dtype | None, str | None], Any]  # a part's folder, number format, variant of the weights

_OPTIONS: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}


def diffusers_network(kind: Any) -> Reader:
    return _network(kind, "torch_dtype")


def transformers_network(kind: Any) -> Reader:
    return _network(kind, "dtype")


def _network(kind: Any, dtype_option: str) -> Reader:
    def read(at: Path, dtype: torch.dtype | None, variant: str | None) -> Any:
        with building.no_larger_than(_weights(at, variant)):
            return _whole(kind.from_pretrained(at, variant=variant, **{dtype_option: dtype}, **_OPTIONS))

    return read


def tokenizer(kind: Any) -> Reader:
    return lambda at, *_: kind.from_pretrained(at, local_files_only=True)


def scheduler(kind: Any) -> Reader:
    """Returns a reader that makes a `kind` scheduler from the model's scheduler configuration.

    The reader raises ValueError if the model's scheduler has another noise process.
    """

    def read(at: Path, *_: Any) -> Any:
        config = json.loads((at / "scheduler_config.json").read_text())
        shipped = config.get("_class_name", kind.__name__)
        if shipped.startswith("EDM") or shipped.startswith("FlowMatch") != kind.__name__.startswith("FlowMatch"):
            raise ValueError(f"{shipped} has another noise process than {kind.__name__}")
        return kind.from_config(config)

    return read


def index(folder: Path) -> dict[str, Any]:
    """Returns `model_index.json` of a folder: the pipeline's class, parts and settings; empty if there is none.

    Raises ValueError if the file does not contain a JSON object.
    """
    path = folder / "model_index.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains no JSON object")
    return content


def read(
    folder: Path,
    readers: Mapping[str, Reader],
    device: str,
    dtype: torch.dtype | None,
    name: str,
    variant: str | None,
    change: Callable[[Parts], None] | None = None,
    adapted: Container[str] = (),
) -> Parts:
    """Returns the parts of a model by name, the networks on the device and ready to run.

    Args:
        folder: Diffusers folder.
        readers: Reader of each part by its name.
        device: Torch device of the networks.
        dtype: Number format of the networks. None keeps the stored one.
        name: Name of the model, for messages.
        variant: Variant of the weight files, such as "fp16"; None for the plain ones.
        change: Changes the parts in place. Default: no change.
        adapted: Networks that `change` may change, which gets them in the stored number format. Default: none.

    Raises:
        ModelError: If a part is missing or unreadable.
    """
    parts: Parts = {}
    for part, reader in readers.items():
        _check_there(folder, part, name)
        try:
            stored = part in adapted and (change is not None or dtype is None)
            parts[part] = reader(folder / part, _stored_dtype(folder / part, variant) if stored else dtype, variant)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # readers raise many types, tokenizers even plain Exception
            raise ModelError(
                f"The model {name} cannot be loaded, its {part} is unreadable ({reason(error)}); check that "
                f"{folder} is a complete Stable-Diffusion-format folder with .safetensors weights."
            ) from error
    if change is not None:
        change(parts)
    for part, network in parts.items():
        if change is not None and part in adapted and dtype is not None:
            precision.convert(network, dtype)
        if isinstance(network, nn.Module):
            network.to(device).eval().requires_grad_(False)
            if part in ("vae", "unet") and all(weight.ndim < 5 for weight in network.parameters()):  # not for films
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
    return parts


def _check_there(folder: Path, part: str, name: str) -> None:
    if not (folder / part).is_dir():
        raise ModelError(f"The model {name} has no {part}: {folder} is not a complete Stable-Diffusion-format folder.")


@contextlib.contextmanager
def fit_errors(name: str) -> Iterator[None]:
    """Context for library calls that depend on a model's settings, which may contradict each other.

    Raises ModelError in place of a library's exception, except for those of diffedit and of the device.
    """
    try:
        yield
    except (DiffEditError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or any(word in str(error) for word in ("CUDA", "HIP", "MPS")):
            raise
        raise ModelError(
            f"The parts of the model {name} do not fit each other ({reason(error)}); get it again."
        ) from error


def _stored_dtype(folder: Path, variant: str | None) -> torch.dtype:
    """Returns the number format in which most weights of a network are stored."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(safe_open(path, framework="pt")) for path in _weights(folder, variant)]
        return precision.common(file.get_slice(name) for file in opened for name in file.keys())  # noqa: SIM118


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """Returns the weight files of a network."""
    return sorted(folder.glob(f"*model.{variant}*.safetensors" if variant else "*model*.safetensors"))


def _whole(loaded: tuple[Any, dict[str, Any]]) -> Any:
    """Returns the loaded network. Raises ValueError if weights are missing, which would be random or empty."""
    network, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} weights are missing, {min(info['missing_keys'])} first")
    return network
