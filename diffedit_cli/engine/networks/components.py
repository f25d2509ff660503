"""Reading the parts of a diffusers folder: every failure names the part, and only `.safetensors` weights are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffedit_cli.engine.networks import building, precision
from diffedit_cli.errors import DiffEditError, ModelError, is_out_of_memory

Parts = dict[str, Any]
Reader = Callable[[Path, torch.dtype | None, str | None], Any]  # a part's folder, number format, variant of the weights

CHANGED = ("unet", "transformer", "text_encoder", "text_encoder_2")  # the networks that can be changed when read
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
    """A scheduler made from the configuration of whichever the model ships, of the same noise process."""

    def read(at: Path, *_: Any) -> Any:
        config = json.loads((at / "scheduler_config.json").read_text())
        shipped = config.get("_class_name", kind.__name__)
        if shipped.startswith("EDM") or shipped.startswith("FlowMatch") != kind.__name__.startswith("FlowMatch"):
            raise ValueError(f"{shipped} is of another noise process than {kind.__name__}")
        return kind.from_config(config)

    return read


def index(folder: Path) -> dict[str, Any]:
    """The folder's `model_index.json`: its pipeline's class, parts and settings; empty if there is none."""
    path = folder / "model_index.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object")
    return content


def read(
    folder: Path,
    readers: Mapping[str, Reader],
    device: str,
    dtype: torch.dtype | None,
    name: str,
    variant: str | None,
    change: Callable[[Parts], None] | None = None,
) -> Parts:
    """The parts by name, networks on the device and ready to run. Raises ModelError, naming what is amiss.

    What `change` does is done in the number format that the weights are stored in, so that it can be stored again;
    with `dtype` None they stay in it.
    """
    parts: Parts = {}
    for part, reader in readers.items():
        if not (folder / part).is_dir():
            raise ModelError(
                f"The model {name} has no {part}: {folder} is not a complete Stable-Diffusion-format folder."
            )
        try:
            stored = part in CHANGED and (change is not None or dtype is None)
            parts[part] = reader(folder / part, _stored_dtype(folder / part, variant) if stored else dtype, variant)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the readers raise all kinds, tokenizers even plain Exception
            raise ModelError(
                f"The model {name} cannot be loaded, its {part} is unreadable ({reason(error)}); check that "
                f"{folder} is a complete Stable-Diffusion-format folder with .safetensors weights."
            ) from error
    if change is not None:
        change(parts)
    for part, network in parts.items():
        if change is not None and part in CHANGED and dtype is not None:
            network.to(dtype)
        if isinstance(network, nn.Module):
            network.to(device).eval().requires_grad_(False)
            if part in ("vae", "unet"):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
    return parts


@contextlib.contextmanager
def fit_errors(name: str) -> Iterator[None]:
    """Around what libraries do by a model's own settings, which a stranger wrote and which may not fit each other.

    Raises ModelError in place of what they raise, but for what the device is to blame for.
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


def reason(error: Exception) -> str:
    """What a library says, in part of a sentence."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _stored_dtype(folder: Path, variant: str | None) -> torch.dtype:
    """The number format of a network's weights in its folder."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(safe_open(path, framework="pt")) for path in _weights(folder, variant)]
        return precision.common(file.get_slice(name) for file in opened for name in file.keys())  # noqa: SIM118


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """The files of a network's weights."""
    return sorted(folder.glob(f"*model.{variant}*.safetensors" if variant else "*model*.safetensors"))


def _whole(loaded: tuple[Any, dict[str, Any]]) -> Any:
    """A network whose file gives all of its weights: missing ones would be random or empty."""
    network, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} weights are missing, {min(info['missing_keys'])} first")
    return network
