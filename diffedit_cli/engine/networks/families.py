"""Loads a diffusers folder with the class of its family, and applies adapters on the way."""

from __future__ import annotations

import functools
import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from diffedit_cli.engine.interfaces import Model
from diffedit_cli.engine.networks import components, onednn, quantisation, quantised_folders
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.model_formats import FAMILIES, family_with
from diffedit_cli.engine.networks.quantisation import Quantisation
from diffedit_cli.errors import ModelError

Loras = Sequence[tuple[Path, float]]  # files with their scales
Embeddings = Sequence[tuple[Path, str | None]]  # files with their tokens; None: the token that the file names


def load(
    folder: Path,
    device: str,
    dtype: torch.dtype,
    name: str | None = None,
    variant: str | None = None,
    loras: Loras = (),
    embeddings: Embeddings = (),
    offload: str = "none",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    quantize: str = "none",
    stored: Path | None = None,
    keep: Callable[[Mapping[str, nn.Module]], object] = lambda _: None,
) -> Model:
    """Returns the model of a diffusers folder, of the family that its `model_index.json` names.

    Args:
        folder: Diffusers folder.
        device: Torch device that computes.
        dtype: Number format of the networks.
        name: Name of the model, for messages. Default: the folder.
        variant: Variant of the weight files, such as "fp16". Default: the plain ones.
        loras: LoRA files with their scales.
        embeddings: Textual inversion files with their tokens.
        offload: Unused parts that wait in main memory: "none", whole networks ("model") or layers ("sequential").
        vae_slicing: Whether the VAE handles the pictures of a batch one by one.
        vae_tiling: Whether the VAE handles a large picture in tiles.
        quantize: Format that the weights of the large networks are quantised to: "none", "fp8", "int8" or "nf4".
        stored: Folder with these quantised weights. Default: they are made.
        keep: Called with the networks that were quantised, by part, to store them.

    Raises:
        ModelError: If the model or an adapter cannot be used.
    """
    name, at = name or str(folder), device if offload == "none" else "cpu"
    family, how = _family(folder, name), None
    if quantize != "none":
        quantisation.require(quantize, device)
        how = Quantisation(quantize, family.FORMAT.quantised, stored, keep)
    model = family.load(folder, at, dtype, name, variant, _change(name, loras, embeddings), how)
    if vae_slicing:
        model.vae.enable_slicing()
    if vae_tiling:
        model.vae.enable_tiling()
    if device == "cpu":
        onednn.pack(model.network)
    _offload(model, device, offload)
    return model


def _offload(model: LatentDiffusion, device: str, offload: str) -> None:
    if offload == "sequential":
        for network in model._networks():
            quantised_folders.refuse(network, model.name, "--offload sequential cannot move")
    if offload != "none":
        model.offload_to(device, offload)


def write_changed(
    folder: Path, name: str, variant: str | None, loras: Loras, embeddings: Embeddings, target: Path
) -> None:
    """Replaces the networks and tokenizers in `target`, a copy of the folder, by those with the adapters applied.

    Raises ModelError if the model or an adapter cannot be used.
    """
    readers = {part: reader for part, reader in _family(folder, name).READERS.items() if _is_changed(part)}
    found = components.read(folder, readers, "cpu", None, name, variant, _change(name, loras, embeddings))
    for part, changed in found.items():
        shutil.rmtree(target / part)
        options = {"variant": variant, "max_shard_size": "1000GB"} if part in components.CHANGED else {}
        changed.save_pretrained(target / part, **options)


def _family(folder: Path, name: str) -> type[LatentDiffusion]:
    try:
        pipeline = str(components.index(folder)["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} is not a diffusers model: {folder / 'model_index.json'} names no pipeline."
        ) from error
    return implementation(family_with(pipeline, name))


def implementation(family: str) -> type[LatentDiffusion]:
    """Returns the class that implements a family of model_formats.FAMILIES."""
    module, _, name = FAMILIES[family].implementation.partition(".")
    found: type[LatentDiffusion] = getattr(importlib.import_module(f"diffedit_cli.engine.networks.{module}"), name)
    return found


def _change(name: str, loras: Loras, embeddings: Embeddings) -> Callable[[components.Parts], None] | None:
    if not loras and not embeddings:
        return None
    from diffedit_cli.engine.networks import adapter_loading  # imported here: diffusers' loader is slow to import

    return functools.partial(adapter_loading.apply, name=name, loras=loras, embeddings=embeddings)


def _is_changed(part: str) -> bool:
    return part in components.CHANGED or part.replace("tokenizer", "text_encoder") in components.CHANGED
