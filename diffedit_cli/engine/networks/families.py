"""Loads a diffusers folder with the class of its family, and applies adapters on the way."""

from __future__ import annotations

import functools
import importlib
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.networks import (
    components,
    fast_imports,
    onednn,
    openvino_runtime,
    precision,
    quantisation,
    quantised_folders,
)
from diffedit_cli.engine.networks.cuda_graphs import CudaRecorder
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.model_formats import FAMILIES, family_with, refuse_painter
from diffedit_cli.engine.networks.quantisation import Quantisation
from diffedit_cli.errors import ModelError

LOG = logging.getLogger(__name__)

Loras = Sequence[tuple[Path, float]]  # files with their scales
Embeddings = Sequence[tuple[Path, str | None]]  # files with their tokens; None: the token that the file names


def load(
    folder: Path, device: str, dtype: torch.dtype, name: str | None = None, variant: str | None = None,
    loras: Loras = (), embeddings: Embeddings = (), offload: str = "none", vae_slicing: bool = False,
    vae_tiling: bool = False, spacing: str | None = None, elsewhere: Mapping[str, Path] | None = None,
    quantize: str = "none", runtime: str = "torch", stored: Path | None = None,
    keep: Callable[[Mapping[str, nn.Module]], object] = lambda _: None,
    compiled: openvino_runtime.Store | None = None,
) -> Model:  # fmt: skip
    """Returns the model of a diffusers folder, of the family that its `model_index.json` names.

    Args:
        folder: Diffusers folder.
        device: Torch device that computes.
        dtype: Number format of the networks.
        name: Name of the model, for messages. Default: the folder.
        variant: Variant of the weight files, such as "fp16". Default: the plain ones.
        loras: LoRA files with their scales.
        embeddings: Textual inversion files with their tokens.
        offload: Unused parts that wait in main memory: "none", whole networks ("model"), layers with the next one ahead
            of time ("group") or one by one ("sequential").
        vae_slicing: Whether the VAE handles the pictures of a batch one by one.
        vae_tiling: Whether the VAE handles a large picture in tiles.
        spacing: Spacing of the timesteps: "leading", "linspace" or "trailing". Default: the scheduler's own.
        elsewhere: Files with the weights of some parts, or their folders. Default: all parts are in the folder.
        quantize: Format that the weights of the large networks are quantised to: "none", "fp8", "int8" or "nf4".
        runtime: What evaluates the denoiser: "torch" or "openvino".
        stored: Folder with these quantised weights. Default: they are made.
        keep: Called with the networks that were quantised, by part, to store them.
        compiled: Where networks that OpenVINO compiles are kept. Default: nowhere.

    Raises:
        ModelError: If the model or an adapter cannot be used.
    """
    name, at = name or str(folder), device if offload == "none" else "cpu"
    kind = _family(folder, name)
    how = None if quantize == "none" else _quantisation(kind, quantize, device, stored, keep)
    model = kind.load(folder, at, dtype, name, variant, _change(kind, name, loras, embeddings), elsewhere, how)
    if spacing:
        model.scheduler.register_to_config(timestep_spacing=spacing)
    _divide(model.vae, vae_slicing, vae_tiling)
    if device == "cpu":
        _hasten(model, runtime, compiled)
    if device.startswith("xpu"):
        precision.keep_float64_off(model.network, device)
    _offload(model, device, offload)
    if device.startswith("cuda"):
        _capture(model, device, offload)
    return model


def _quantisation(
    kind: type[LatentDiffusion],
    quantize: str,
    device: str,
    stored: Path | None,
    keep: Callable[[Mapping[str, nn.Module]], object],
) -> Quantisation:
    quantisation.require(quantize, device)
    return Quantisation(quantize, kind.FORMAT.quantised, stored, keep)


def _divide(vae: Any, slicing: bool, tiling: bool) -> None:
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()


def _hasten(model: LatentDiffusion, runtime: str, compiled: openvino_runtime.Store | None) -> None:
    if runtime == "openvino":
        openvino_runtime.take_over(model.network, model.watched_layers(), compiled)
    else:
        onednn.pack(model.network)


def _offload(model: LatentDiffusion, device: str, offload: str) -> None:
    for network in model._networks():
        movable = getattr(network, "is_quantized", False)  # as diffusers marks those of .gguf files
        if offload == "sequential" or (offload == "group" and not quantisation.is_fp8(network)):
            quantised_folders.refuse(None if movable else network, model.name, f"--offload {offload} cannot move")
    if offload != "none":
        model.offload_to(device, offload)


def _capture(model: LatentDiffusion, device: str, offload: str) -> None:
    if not model.CAPTURABLE:
        LOG.info("no CUDA graphs: the network of %s waits for the CPU in each evaluation", model.name)
    elif offload != "none" or quantisation.is_quantised(model.network):
        LOG.info("no CUDA graphs: the weights of %s move or are quantised", model.name)
    else:
        model.capture(CudaRecorder(torch.device(device)))


def write_changed(
    folder: Path,
    name: str,
    variant: str | None,
    loras: Loras,
    embeddings: Embeddings,
    target: Path,
    elsewhere: Mapping[str, Path] | None = None,
) -> None:
    """Writes the parts that the folder does not have as they are used into `target`, a copy of the folder.

    These are the networks and tokenizers that adapters change, if there are any, and the parts that are `elsewhere`.
    Raises ModelError if the model or an adapter cannot be used.
    """
    kind, elsewhere = _family(folder, name), elsewhere or {}
    change, adapted = _change(kind, name, loras, embeddings), kind.FORMAT.adapted
    changed = kind.FORMAT.changed if change is not None else ()
    readers = {part: reader for part, reader in kind.READERS.items() if part in changed or part in elsewhere}
    found = components.read(folder, readers, "cpu", None, name, variant, change, adapted, elsewhere)
    for part, made in found.items():
        shutil.rmtree(target / part)
        is_network = isinstance(made, torch.nn.Module)
        options = {"variant": variant, "max_shard_size": "1000GB"} if is_network else {}
        made.save_pretrained(target / part, **options)


def _family(folder: Path, name: str) -> type[LatentDiffusion]:
    try:
        pipeline = str(components.index(folder)["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} is not a diffusers model: {folder / 'model_index.json'} names no pipeline."
        ) from error
    refuse_painter(pipeline, name)
    return implementation(family_with(pipeline, name))


def implementation(family: str) -> type[LatentDiffusion]:
    """Returns the class that implements a family of model_formats.FAMILIES."""
    return _implementation(FAMILIES[family])


def readers(family: Family) -> Mapping[str, Any]:
    """Returns the readers of the parts of a family by their names; those of its networks are NetworkReaders."""
    return _implementation(family).READERS


def _implementation(family: Family) -> type[LatentDiffusion]:
    module, _, name = f"diffedit_cli.engine.networks.{family.implementation}".rpartition(".")
    if module not in sys.modules:
        importlib.import_module(module)
        fast_imports.keep_libraries()
    found: type[LatentDiffusion] = getattr(sys.modules[module], name)
    return found


def _change(
    kind: type[LatentDiffusion], name: str, loras: Loras, embeddings: Embeddings
) -> Callable[[components.Parts], None] | None:
    if not loras and not embeddings:
        return None
    from diffedit_cli.engine.networks import adapter_loading  # imported here: diffusers' loader is slow to import

    return functools.partial(adapter_loading.apply, kind=kind, name=name, loras=loras, embeddings=embeddings)
