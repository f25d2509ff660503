"""Reads the parts of a diffusers folder. Every error names the part, and only `.safetensors` weights are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffedit_cli.engine.networks import building, precision, quantisation, quantised_folders
from diffedit_cli.engine.networks.quantisation import Quantisation
from diffedit_cli.errors import DiffEditError, ModelError, is_out_of_memory, reason

Parts = dict[str, Any]
Reader = Callable[[Path, torch.dtype | None, str | None], Any]  # a part's folder, number format, variant of the weights

CHANGED = ("unet", "transformer", "text_encoder", "text_encoder_2")  # networks that adapters can change
_OPTIONS: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}


@dataclass(frozen=True)
class NetworkReader:
    """Reads a network of a class of diffusers or transformers, whose option for the number format differs in name."""

    kind: Any
    dtype_option: str

    def __call__(self, at: Path, dtype: torch.dtype | None, variant: str | None) -> Any:
        with building.no_larger_than(_weights(at, variant)):
            return _whole(self.kind.from_pretrained(at, variant=variant, **{self.dtype_option: dtype}, **_OPTIONS))

    def empty(self, at: Path) -> Any:
        """Returns the network on the meta device, with real buffers."""
        from accelerate import init_empty_weights

        with init_empty_weights():
            if self.dtype_option == "torch_dtype":
                said = {key: value for key, value in self.kind.load_config(at).items() if key != "quantization_config"}
                return self.kind.from_config(said)
            return self.kind(self.kind.config_class.from_pretrained(at, local_files_only=True))


def diffusers_network(kind: Any) -> Reader:
    return NetworkReader(kind, "torch_dtype")


def transformers_network(kind: Any) -> Reader:
    return NetworkReader(kind, "dtype")


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
        change: Changes the parts in place, in the stored number format, so that they can be stored again.
        quantise: How networks are quantised, after they were changed. Default: they are not.

    Raises:
        ModelError: If a part is missing or unreadable.
    """
    parts: Parts = {}
    for part, reader in readers.items():
        if not (folder / part).is_dir():
            raise ModelError(
                f"The model {name} has no {part}: {folder} is not a complete Stable-Diffusion-format folder."
            )
        try:
            own = part in CHANGED and (change is not None or dtype is None)  # in its own number format
            parts[part] = _read_part(folder / part, reader, dtype, variant, quantise, device, own)
            if change is None:
                quantisation.apply(quantise, part, parts[part], dtype, device)
        except (torch.OutOfMemoryError, DiffEditError):
            raise
        except Exception as error:  # readers raise many types, tokenizers even plain Exception
            raise ModelError(
                f"The model {name} cannot be loaded, its {part} is unreadable ({reason(error)}); check that "
                f"{folder} is a complete Stable-Diffusion-format folder with .safetensors weights."
            ) from error
    if change is not None:
        change(parts)
        _adapt(parts, dtype, quantise, device)
    if quantise is not None:
        quantise.done(parts)
    _settle(parts, device)
    return parts


def _adapt(parts: Parts, dtype: torch.dtype | None, how: Quantisation | None, device: str) -> None:
    """Gives changed networks their number format, and quantises them."""
    for part in [part for part in parts if part in CHANGED and dtype is not None]:
        if not quantisation.is_quantised(parts[part]):
            parts[part].to(dtype)
    for part, network in parts.items():
        quantisation.apply(how, part, network, dtype, device)


def _settle(parts: Parts, device: str) -> None:
    """Moves networks to the device, ready to run."""
    for part, network in parts.items():
        if isinstance(network, nn.Module):
            network.to(device).eval().requires_grad_(False)
            if part in ("vae", "unet") and all(weight.ndim < 5 for weight in network.parameters()):  # not for films
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions


def _read_part(
    at: Path,
    reader: Reader,
    dtype: torch.dtype | None,
    variant: str | None,
    how: Quantisation | None,
    device: str,
    own: bool,
) -> Any:
    """Returns a part, with quantised weights if it is stored so, or was stored so earlier."""
    if isinstance(reader, NetworkReader) and quantised_folders.method(at) is not None:
        files = _weights(at, variant)
        if dtype is None:
            raise ModelError(f"The quantised weights in {at} cannot be changed and saved; use the full model.")
        with building.no_larger_than(files):
            network = reader.empty(at)
        return quantised_folders.read(network, files, dtype, device)
    file = how.file(at.name) if how is not None else None
    if file is not None and dtype is not None and isinstance(reader, NetworkReader):
        return quantisation.read(reader.empty(at), file, dtype, device)
    return reader(at, _stored_dtype(at, variant) if own else dtype, variant)


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
