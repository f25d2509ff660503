"""Tiny models of the families with transformers, and LoRAs for them by the names that trainers give layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import tiny_transformers
import torch
from diffusers import (
    ChromaPipeline,
    Flux2KleinPipeline,
    FluxPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
)
from fused import Parts, Products
from safetensors.torch import save_file
from torch import Tensor, nn

from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.conversion import settings_of, to_diffusers_layout
from diffedit_cli.engine.networks.original_layout import Layout, Place


@dataclass(frozen=True)
class Kind:
    """A family: how a tiny model is written, and the pipeline of diffusers that loads LoRAs for it."""

    write: Callable[[Path], Path]
    pipeline: Any


KINDS = {
    "sd3": Kind(tiny.write_sd3, StableDiffusion3Pipeline),
    "flux": Kind(tiny_transformers.write_flux, FluxPipeline),
    "flux2": Kind(tiny_transformers.write_flux2, Flux2KleinPipeline),
    "chroma": Kind(tiny_transformers.write_chroma, ChromaPipeline),
    "qwen-image": Kind(tiny_transformers.write_qwen_image, QwenImagePipeline),
    "z-image": Kind(tiny_transformers.write_z_image, ZImagePipeline),
    "pixart": Kind(tiny_transformers.write_pixart, None),
}


def layout_of(family: str) -> Layout | None:
    return families.implementation(family).LAYOUTS.get("transformer")


def networks(model: Any, family: str) -> Parts:
    """What a LoRA may change, by part."""
    encoders = {"sd3": model.encoders[:2], "flux": model.encoders[::-1]}.get(family, [])
    adapted = families.implementation(family).FORMAT.adapted_encoders
    texts = dict(zip(adapted, (encoder.network for encoder in encoders), strict=True))
    return {"transformer": model.transformer, **texts}


def load(folder: Path, **additions: Any) -> Any:
    return families.load(folder, "cpu", torch.float32, name="tiny", **additions)


def linear(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module.weight


class Folders:
    """Folders of tiny models by family; each is written when it is first asked for."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __call__(self, family: str) -> Path:
        folder = self.at / family / "model"
        return folder if folder.is_dir() else KINDS[family].write(folder)


@dataclass
class Naming:
    """A naming scheme.

    Attributes:
        stem: Returns the name of a layer in a file.
        endings: Of a layer's A, B and alpha; an empty one for none.
        original: Whether the layers are those of the original checkpoints.
        which: Which one of several original names it is.
    """

    stem: Callable[[str], str]
    endings: tuple[str, str, str]
    original: bool = False
    which: int = 0


DOTTED, UNDERSCORED = ("lora_A.weight", "lora_B.weight", ""), ("lora_down.weight", "lora_up.weight", "alpha")


def xlabs(layer: str) -> str:
    block, _, last = layer.rpartition(".")
    return f"{block}.processor.{last}{'' if last[-1].isdigit() else '_lora'}"


NAMINGS = {
    "peft": Naming(lambda layer: f"transformer.{layer}", DOTTED),
    "bare": Naming(lambda layer: layer, DOTTED),
    "base_model": Naming(lambda layer: f"base_model.model.{layer}", DOTTED),
    "peft-alpha": Naming(lambda layer: f"transformer.{layer}", (*DOTTED[:2], "alpha")),
    "default": Naming(lambda layer: layer, ("lora_A.default.weight", "lora_B.default.weight", "")),
    "comfyui": Naming(lambda layer: f"diffusion_model.{layer}", DOTTED),
    "comfyui-original": Naming(lambda layer: f"diffusion_model.{layer}", DOTTED, original=True),
    "dotted-original": Naming(lambda layer: f"diffusion_model.{layer}", UNDERSCORED, original=True),
    "base_model-original": Naming(lambda layer: f"base_model.model.{layer}", DOTTED, original=True),
    "bare-original": Naming(lambda layer: layer, DOTTED, original=True),
    "kohya": Naming(lambda layer: "lora_unet_" + layer.replace(".", "_"), UNDERSCORED),
    "kohya-original": Naming(lambda layer: "lora_unet_" + layer.replace(".", "_"), UNDERSCORED, original=True),
    "xlabs": Naming(xlabs, ("down.weight", "up.weight", ""), original=True, which=-1),
    "sformer": Naming(lambda layer: f"diffusion_model.{layer}", DOTTED, original=True, which=-1),
}


def group(family: str, network: Any, naming: Naming) -> dict[str, dict[str, Place]]:
    """Returns the layers of diffusers with their places, by the layer that a file names."""
    layout = layout_of(family) if naming.original else None
    found: dict[str, dict[str, Place]] = {}
    for layer, _ in linear(network):
        places = layout(f"{layer}.weight", settings_of(network)) if layout else ()
        place = places[naming.which] if places else Place(f"{layer}.weight")
        found.setdefault(place.name.removesuffix(".weight"), {})[layer] = place
    return found


def written(
    family: str, network: Any, naming: Naming, path: Path, wanted: Callable[[str], bool] = lambda _: True
) -> Products:
    """Writes a LoRA of the wanted layers. Returns what it adds to each layer."""
    random, weights = torch.Generator().manual_seed(0), dict(linear(network))
    tensors: dict[str, Tensor] = {}
    products: Products = {}
    for i, (name, places) in enumerate(one for one in group(family, network, naming).items() if wanted(one[0])):
        rank, (layer, place) = 1 + i % 4, next(iter(places.items()))
        alpha = 0.5 + i % 3 if naming.endings[2] else float(rank)
        A = torch.randn((rank, weights[layer].shape[1]), generator=random)
        B = torch.randn((place.of * len(weights[layer]) // place.span, rank), generator=random)
        stem = naming.stem(name)
        tensors |= {f"{stem}.{end}": tensor for end, tensor in zip(naming.endings, (A, B), strict=False)}
        if naming.endings[2]:
            tensors[f"{stem}.{naming.endings[2]}"] = torch.tensor(alpha)
        for layer, place in places.items():
            products["transformer", layer] = alpha / rank * to_diffusers_layout(B, place) @ A
    save_file(tensors, path)
    return products
