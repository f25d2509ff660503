"""Reads the parts of a diffusers folder. Every error names the part, and only `.safetensors` weights are read."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffedit_cli.engine.networks import building, precision, single_files
from diffedit_cli.engine.networks.gguf_header import is_gguf
from diffedit_cli.engine.networks.original_layout import Layout
from diffedit_cli.engine.networks.single_files import Convert
from diffedit_cli.errors import DiffEditError, ModelError, is_out_of_memory, reason

Parts = dict[str, Any]
Reader = Callable[[Path, torch.dtype | None, str | None], Any]  # a part's folder, number format, variant of the weights

_OPTIONS: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}


@dataclass(frozen=True)
class NetworkReader(ABC):
    """Reads a network from its folder, or its weights from a file of its own.

    Attributes:
        kind: Class of the network.
        layout: Layout of its authors' checkpoints. Default: none that diffedit knows.
    """

    kind: Any
    layout: Layout | None = None

    def __call__(self, at: Path, dtype: torch.dtype | None, variant: str | None) -> Any:
        with building.no_larger_than(_weights(at, variant)):
            return _whole(self.kind.from_pretrained(at, variant=variant, **self._number_format(dtype), **_OPTIONS))

    @abstractmethod
    def from_file(self, file: Path, at: Path, dtype: torch.dtype | None) -> Any:
        """Returns the network with the settings in the folder `at` and the weights of a file.

        Raises ValueError if the file does not have exactly the weights of that network.
        """

    @abstractmethod
    def empty(self, at: Path, **settings: Any) -> Any:
        """Returns the network without weights, with the settings of a folder and others in place of some of them."""

    @abstractmethod
    def _number_format(self, dtype: torch.dtype | None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DiffusersReader(NetworkReader):
    """Reads a network of diffusers; `convert` renames the tensors of its authors' files, by default by the layout."""

    convert: Convert | None = None

    def from_file(self, file: Path, at: Path, dtype: torch.dtype | None) -> Any:
        convert = self.convert or (single_files.by_layout(self.layout) if self.layout else None)
        with building.no_larger_than([file]):
            network = self.empty(at)
        return single_files.fill(network, file, at, dtype, convert)

    def empty(self, at: Path, **settings: Any) -> Any:
        from accelerate import init_empty_weights  # slow to import

        with init_empty_weights():
            return self.kind.from_config(self.kind.load_config(at, local_files_only=True), **settings)

    def _number_format(self, dtype: torch.dtype | None) -> dict[str, Any]:
        return {"torch_dtype": dtype}


@dataclass(frozen=True)
class TransformersReader(NetworkReader):
    """Reads a network of transformers, which knows the names that its files may have.

    `identity` is the name of a matrix that its authors' files lack where it is the identity, empty if there is none.
    """

    identity: str = ""

    def from_file(self, file: Path, at: Path, dtype: torch.dtype | None) -> Any:
        tensors = single_files.tensors_of(file, dtype)
        dtype = dtype or next(one.dtype for one in tensors.values() if one.is_floating_point())
        config = self._config(at)
        if self.identity and self.identity not in tensors:
            tensors[self.identity] = torch.eye(config.projection_dim, config.hidden_size, dtype=dtype)
        options = {"config": config, "state_dict": tensors, "output_loading_info": True}
        with building.no_larger_than([file]):
            network, info = self.kind.from_pretrained(None, **options, **self._number_format(dtype))
        single_files.check_used(info["missing_keys"], info["unexpected_keys"])
        return network

    def empty(self, at: Path, **settings: Any) -> Any:
        from accelerate import init_empty_weights  # slow to import

        with init_empty_weights():
            return self.kind(self._config(at), **settings)

    def _config(self, at: Path) -> Any:
        return self.kind.config_class.from_pretrained(at, local_files_only=True)

    def _number_format(self, dtype: torch.dtype | None) -> dict[str, Any]:
        return {"dtype": dtype}


def diffusers_network(kind: Any, layout: Layout | None = None, convert: Convert | None = None) -> DiffusersReader:
    return DiffusersReader(kind, layout, convert)


def transformers_network(kind: Any, layout: Layout | None = None, identity: str = "") -> TransformersReader:
    return TransformersReader(kind, layout, identity)


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
    elsewhere: Mapping[str, Path] | None = None,
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
        elsewhere: Files with the weights of some parts, or their folders. Default: all parts are in the folder.

    Raises:
        ModelError: If a part is missing or unreadable.
    """
    parts: Parts = {}
    for part, reader in readers.items():
        stored = part in adapted and (change is not None or dtype is None)
        if place := (elsewhere or {}).get(part):
            stored = stored and not is_gguf(place)  # whose layers compute in one format from the start
            parts[part] = _read_elsewhere(reader, place, folder / part, None if stored else dtype)
        else:
            parts[part] = _read_part(reader, folder / part, dtype, variant, name, stored)
    if change is not None:
        change(parts)
    for part, network in parts.items():
        if change is not None and part in adapted and dtype is not None and not _is_quantised(network):
            precision.convert(network, dtype)
        if isinstance(network, nn.Module):
            network.to(device).eval().requires_grad_(False)
            if part in ("vae", "unet") and all(weight.ndim < 5 for weight in network.parameters()):  # not for films
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
    return parts


def _is_quantised(network: Any) -> bool:
    return bool(getattr(network, "is_quantized", False))


def _read_part(
    reader: Reader, at: Path, dtype: torch.dtype | None, variant: str | None, name: str, stored: bool
) -> Any:
    """Returns a part of a folder, in the number format that it is `stored` in, or in `dtype`."""
    if not at.is_dir():
        raise ModelError(
            f"The model {name} has no {at.name}: {at.parent} is not a complete Stable-Diffusion-format folder."
        )
    try:
        return reader(at, _stored_dtype(at, variant) if stored else dtype, variant)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # readers raise many types, tokenizers even plain Exception
        raise ModelError(
            f"The model {name} cannot be loaded, its {at.name} is unreadable ({reason(error)}); check that "
            f"{at.parent} is a complete Stable-Diffusion-format folder with .safetensors weights."
        ) from error


def _read_elsewhere(reader: Any, place: Path, at: Path, dtype: torch.dtype | None) -> Any:
    """Returns a part whose weights are in a file, or that is in a folder of its own."""
    try:
        return reader.from_file(place, at, dtype) if place.is_file() else reader(place, dtype, None)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # readers raise many types
        raise ModelError(
            f"{place} cannot be used with the settings in {at} ({reason(error)}); name the model that it was made from "
            "with --model-config."
        ) from error


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
