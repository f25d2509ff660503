"""Reads the parts of a diffusers folder. Every error names the part, and only `.safetensors` weights are read."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffedit_cli.engine.networks import building, precision, quantisation, quantised_folders, single_files
from diffedit_cli.engine.networks.gguf_header import is_gguf
from diffedit_cli.engine.networks.original_layout import Layout
from diffedit_cli.engine.networks.quantisation import Quantisation
from diffedit_cli.engine.networks.single_files import Convert
from diffedit_cli.errors import DiffEditError, ModelError, is_of_device, is_out_of_memory, reason

Parts = dict[str, Any]
Reader = Callable[[Path, torch.dtype | None, str | None], Any]  # a part's folder, number format, variant of the weights

QUANTISATION = "quantization_config"
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
        """Returns the network on the meta device, with real buffers, by the settings of a folder and some others."""

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
            said = dict(self.kind.load_config(at, local_files_only=True))
            said.pop(QUANTISATION, None)
            return self.kind.from_config(said, **settings)

    def _number_format(self, dtype: torch.dtype | None) -> dict[str, Any]:
        return {"torch_dtype": dtype}


@dataclass(frozen=True)
class TransformersReader(NetworkReader):
    """Reads a network of transformers, which knows the names that its files may have.

    `identity` is the name of a matrix that its authors' files lack where it is the identity, empty if there is none.
    """

    identity: str = ""

    def __call__(self, at: Path, dtype: torch.dtype | None, variant: str | None) -> Any:
        with building.WithoutSymbols():
            return super().__call__(at, dtype, variant)

    def from_file(self, file: Path, at: Path, dtype: torch.dtype | None) -> Any:
        tensors = single_files.tensors_of(file, None)  # as stored: some layers stay in float32
        dtype = dtype or next(one.dtype for one in tensors.values() if one.is_floating_point())
        config = self._config(at)
        if self.identity and self.identity not in tensors:
            tensors[self.identity] = torch.eye(config.projection_dim, config.hidden_size, dtype=dtype)
        options = {"config": config, "state_dict": tensors, "output_loading_info": True}
        with building.no_larger_than([file]), building.WithoutSymbols():
            network, info = self.kind.from_pretrained(None, **options, **self._number_format(dtype))
        single_files.check_used(info["missing_keys"], info["unexpected_keys"])
        return network

    def empty(self, at: Path, **settings: Any) -> Any:
        from accelerate import init_empty_weights  # slow to import

        with init_empty_weights():
            return self.kind(self._config(at), **settings)

    def _config(self, at: Path) -> Any:
        config = self.kind.config_class.from_pretrained(at, local_files_only=True)
        vars(config).pop(QUANTISATION, None)
        return config

    def _number_format(self, dtype: torch.dtype | None) -> dict[str, Any]:
        return {"dtype": dtype}


def tokenizer(kind: Any) -> Reader:
    """Returns a reader of a tokenizer of a fixed class: the folder must not choose one, or bring its own code."""

    def read(at: Path, *_: Any) -> Any:
        with as_error():
            return kind.from_pretrained(at, local_files_only=True, trust_remote_code=False)

    return read


@contextlib.contextmanager
def as_error() -> Iterator[None]:
    """Context that raises ValueError in place of a panic of a library in Rust, which is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from None
        raise


@dataclass(frozen=True)
class SchedulerReader:
    """Makes a scheduler of the class `kind` from the model's scheduler configuration."""

    kind: Any

    def __call__(self, at: Path, *_: Any) -> Any:
        """Returns the scheduler. Raises ValueError if the model's scheduler has another noise process."""
        config = json.loads((at / "scheduler_config.json").read_text())
        shipped = config.get("_class_name", self.kind.__name__)
        if shipped.startswith("EDM") or shipped.startswith("FlowMatch") != self.kind.__name__.startswith("FlowMatch"):
            raise ValueError(f"{shipped} has another noise process than {self.kind.__name__}")
        return self.kind.from_config(config)


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
    quantise: Quantisation | None = None,
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
        quantise: How networks are quantised, after they were changed. Default: they are not.

    Raises:
        ModelError: If a part is missing or unreadable.
    """
    parts: Parts = {}
    for part, reader in readers.items():
        place = (elsewhere or {}).get(part)
        stored = part in adapted and (change is not None or dtype is None)
        with _naming(name, folder / part, place):
            copy = None
            if dtype is not None and quantise is not None:
                copy = quantise.copy(part, functools.partial(_empty, reader, folder / part, place), dtype, device)
            if copy is not None:
                parts[part] = copy
            elif place is not None and place.is_file():
                parts[part] = _read_file(reader, place, folder / part, dtype, stored)
            else:
                at, own = (folder / part, variant) if place is None else (place, None)
                parts[part] = _read_folder(reader, at, dtype, own, device, stored)
            if change is None and quantise is not None:
                quantise.apply(part, parts[part], dtype, device)
    return _finished(parts, change, adapted, dtype, quantise, device)


def _finished(
    parts: Parts,
    change: Callable[[Parts], None] | None,
    adapted: Container[str],
    dtype: torch.dtype | None,
    quantise: Quantisation | None,
    device: str,
) -> Parts:
    """Changes the parts that were read, quantises them, and puts them on the device."""
    if change is not None:
        change(parts)
        _adapt(parts, adapted, dtype, quantise, device)
    if quantise is not None:
        quantise.done(parts)
    _settle(parts, device)
    return parts


@contextlib.contextmanager
def _naming(name: str, at: Path, place: Path | None) -> Iterator[None]:
    """Context for reading a part: raises ModelError, with its place, in place of a library's exception."""
    if place is None and not at.is_dir():
        raise ModelError(
            f"The model {name} has no {at.name}: {at.parent} is not a complete folder in diffusers' format."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what diffusers' own classes use
            yield
    except (torch.OutOfMemoryError, DiffEditError):
        raise
    except Exception as error:  # readers raise many types, tokenizers even plain Exception
        if place is not None:
            raise ModelError(
                f"{place} cannot be used with the settings in {at} ({reason(error)}); name the model that it was made "
                "from with --model-config."
            ) from error
        raise ModelError(
            f"The model {name} cannot be loaded, its {at.name} is unreadable ({reason(error)}); check that "
            f"{at.parent} is a complete folder in diffusers' format with .safetensors weights."
        ) from error


def _empty(reader: Any, at: Path, place: Path | None) -> Any:
    """Returns a network without weights, by the settings of the folder that it is in, or else those `at` the model."""
    return reader.empty(at if place is None or place.is_file() else place)


def _read_file(reader: Any, place: Path, at: Path, dtype: torch.dtype | None, stored: bool) -> Any:
    """Returns a network whose weights are in a file, in the number format that it is `stored` in, or in `dtype`."""
    kept = stored and not is_gguf(place)  # whose layers compute in one format from the start
    return reader.from_file(place, at, None if kept else dtype)


def _read_folder(
    reader: Reader, at: Path, dtype: torch.dtype | None, variant: str | None, device: str, stored: bool
) -> Any:
    """Returns a part of a folder, in the number format that it is `stored` in, or in `dtype`, or quantised as it is."""
    if isinstance(reader, NetworkReader) and quantised_folders.method(at) is not None:
        files = _weights(at, variant)
        if dtype is None:
            raise ModelError(f"The quantised weights in {at} cannot be changed and saved; use the full model.")
        with building.no_larger_than(files):
            network = reader.empty(at)
        return quantised_folders.read(network, files, dtype, device)
    return reader(at, _stored_dtype(at, variant) if stored else dtype, variant)


def _adapt(
    parts: Parts, adapted: Container[str], dtype: torch.dtype | None, how: Quantisation | None, device: str
) -> None:
    """Gives changed networks their number format, and quantises networks."""
    for part, network in parts.items():
        if part in adapted and dtype is not None and not quantisation.is_quantised(network):
            precision.convert(network, dtype)
        if how is not None:
            how.apply(part, network, dtype, device)


def _settle(parts: Parts, device: str) -> None:
    """Moves networks to the device, ready to run."""
    for part, network in parts.items():
        if isinstance(network, nn.Module):
            network.to(device).eval().requires_grad_(False)
            if part in ("vae", "unet") and all(weight.ndim < 5 for weight in network.parameters()):  # not for films
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions


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
        if is_out_of_memory(error) or is_of_device(error):
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
