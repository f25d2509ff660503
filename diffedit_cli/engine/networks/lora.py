"""Applies LoRAs (arXiv:2106.09685), W <- W + scale * alpha / r * B A, from the formats of kohya, PEFT and diffusers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from diffedit_cli.engine.networks.conversion import settings_of, to_diffusers_layout
from diffedit_cli.engine.networks.model_formats import SETTINGS_KEY, adapter_settings
from diffedit_cli.engine.networks.original_layout import Layout, Place
from diffedit_cli.errors import ModelError

# layer.lora_down.weight in kohya's files, layer.lora_A.weight in PEFT's (with or without an adapter name), and
# layer.lora.down.weight, layer.lora_linear_layer.down.weight and processor.to_q_lora.down.weight in those of diffusers;
# processor.qkv_lora1.down.weight in those of XLabs, where the number is part of the name.
_FACTOR = re.compile(
    r"(?P<layer>.+?)(?:(?:[._]lora(?:_linear_layer)?|(?<=_lora[12]))\.(?P<old>down|up)\.weight"
    r"|\.lora_(?P<new>down|up|A|B)(?:\.[A-Za-z]\w*)??\.weight)"
)
_ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?)?\.(?:lora_)?alpha")
_PREFIXES = {
    "denoiser": ("lora_unet_", "lora_transformer_", "lycoris_", "unet_", "transformer_", "base_model_model_unet_",
                 "base_model_model_", "model_diffusion_model_", "diffusion_model_", ""),
    "text_encoder": ("lora_te1_", "lora_te_", "text_encoder_", "text_encoders_clip_l_transformer_",
                     "clip_l_transformer_", "base_model_model_"),
    "text_encoder_2": ("lora_te2_", "text_encoder_2_", "text_encoders_clip_g_transformer_", "clip_g_transformer_",
                       "lora_te3_", "text_encoders_t5xxl_transformer_", "t5xxl_transformer_"),
}  # fmt: skip
"""Prefixes of the layer names of each part, with underscores in place of dots, as kohya writes them."""
_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations (PEFT's init_lora_weights) that keep the model's weights; others (pissa, loftq ...) change them."""

Target = tuple[str, str, Place]
"""A part, a layer of it, and the place of this layer in the weight that a file changes."""


@dataclass
class _Change:
    """Change of one layer, or of several layers that are one in the file; `name` is the name in the file."""

    name: str
    targets: list[Target]
    factors: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None


@dataclass(frozen=True)
class _Settings:
    """PEFT's training settings of a part, empty if the file has none."""

    said: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _alphas(self) -> dict[str, tuple[int, Any]]:
        """Position and alpha by the end of a layer's name, from `alpha_pattern`; the last matching entry counts."""
        own = self.said.get("alpha_pattern") or {}
        for pattern in own:
            if not re.fullmatch(r"[\w.]+", pattern):
                raise ValueError(
                    f"its alpha_pattern has a regular expression, which diffedit does not support ({pattern[:80]})"
                )
        return {pattern: (place, alpha) for place, (pattern, alpha) in enumerate(own.items())}

    def alpha(self, layer: str, usual: float) -> float:
        """Returns the alpha of a layer, or `usual` if the settings have none.

        Looks up each end of the layer's name, as an untrusted file may have any number of patterns. Raises ValueError
        for patterns that are regular expressions.
        """
        words = layer.split(".")
        ends = (".".join(words[start:]) for start in range(len(words)))
        found = [self._alphas[end] for end in ends if end in self._alphas]
        return float(max(found, key=lambda one: one[0])[1] if found else self.said.get("lora_alpha", usual))


def fuse(parts: Mapping[str, Any], file: Path, scale: float, layouts: Mapping[str, Layout]) -> None:
    """Adds a LoRA to the networks.

    Args:
        parts: Networks by the names `unet`, `transformer`, `text_encoder` and `text_encoder_2`, changed in place.
        file: LoRA file (.safetensors).
        scale: Factor of the change.
        layouts: Original layout of the denoiser by its name in `parts`, where it differs from that of diffusers.

    Raises:
        ValueError: If any part of the LoRA cannot be applied; nothing is changed then.
        ModelError: If it changes weights that are quantised; nothing is changed then.
    """
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        said = _said(opened.metadata() or {}, file, parts)
    changes = _read(tensors, _names(parts, layouts))
    for change in changes:
        _check_plain(change, parts, file)
    shares = [_share(change, parts, said) for change in changes]
    for change, share in zip(changes, shares, strict=True):
        _check_size(change, scale * share)
    with torch.no_grad():
        for change, share in zip(changes, shares, strict=True):
            A, B = (change.factors[kind].flatten(1) for kind in "AB")
            product = scale * share * (B @ A)
            for part, layer, place in change.targets:
                weight = parts[part].get_submodule(layer).weight
                weight.copy_(
                    weight.float() + to_diffusers_layout(product, place).reshape(weight.shape).to(weight.device)
                )


def layers(parts: Mapping[str, Any], file: Path, layouts: Mapping[str, Layout]) -> set[tuple[str, str]]:
    """Returns the layers that a LoRA changes, as (part, layer); arguments and errors are those of `fuse`."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return {target[:2] for change in _read(tensors, _names(parts, layouts)) for target in change.targets}


def _read(tensors: Mapping[str, Tensor], names: Mapping[str, list[Target]]) -> list[_Change]:
    """Returns the changes in a file. Raises ValueError for a key of another format or another model."""
    changes: dict[tuple[tuple[str, str], ...], _Change] = {}

    def change_of(layer: str) -> _Change:
        targets = names.get(re.sub(r"[._]processor(?=[._])", "", layer).replace(".", "_"))
        if targets is None:
            raise ValueError(f"it changes {layer}, which that model does not have")
        return changes.setdefault(tuple(target[:2] for target in targets), _Change(layer, targets))

    if tensors and all(_ALPHA.fullmatch(key) for key in tensors):
        raise ValueError("it contains no weights")
    for key, tensor in tensors.items():
        if "dora_scale" in key or "lora_magnitude_vector" in key:
            raise ValueError("it is a DoRA, which diffedit does not read")
        if factor := _FACTOR.fullmatch(key):
            change, kind = change_of(factor["layer"]), factor["old"] or factor["new"]
            kind = {"down": "A", "up": "B"}.get(kind, kind)
            if kind in change.factors:
                raise ValueError(f"it changes {change.name} twice")
            if not tensor.is_floating_point():
                raise ValueError(f"its {key} is not of floating-point numbers")
            change.factors[kind] = tensor.float()
        elif alpha := _ALPHA.fullmatch(key):
            if tensor.numel() != 1:
                raise ValueError(f"its {key} is not a number")
            change_of(alpha["layer"]).alpha = float(tensor)
        else:
            raise ValueError(f"its {key} is not a LoRA key that diffedit supports")
    _check_once(changes.values())
    return list(changes.values())


def _check_once(changes: Iterable[_Change]) -> None:
    """Raises ValueError if a file changes a layer both by its name and as rows of another layer."""
    seen = set()
    for change in changes:
        for part, layer, _ in change.targets:
            if (part, layer) in seen:
                raise ValueError(f"it changes {change.name} twice")
            seen.add((part, layer))


def _names(parts: Mapping[str, Any], layouts: Mapping[str, Layout]) -> dict[str, list[Target]]:
    """Returns the layers by every name that files have for them, with underscores in place of dots."""
    names: dict[str, list[Target]] = {}
    for part, network in parts.items():
        prefixes = _PREFIXES.get(part) or _PREFIXES["denoiser"]
        for layer, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for name, place in _aliases(part, layer, network, layouts.get(part)):
                    for prefix in prefixes:
                        targets = names.setdefault(prefix + name.replace(".", "_"), [])
                        if (part, layer) not in [target[:2] for target in targets]:
                            targets.append((part, layer, place))
    return names


def _aliases(part: str, layer: str, network: Any, layout: Layout | None) -> Iterator[tuple[str, Place]]:
    """Yields the names of a layer: the present one, those of older diffusers, and that of the original layout."""
    if part.startswith("text_encoder"):
        bare = layer.removeprefix("text_model.")
        old = next((bare.removesuffix(new) + old for old, new in _ATTENTION.items() if bare.endswith(new)), bare)
        for name in dict.fromkeys((bare, old)):
            yield from ((name, Place(layer)), (f"text_model.{name}", Place(layer)))
        return
    yield layer, Place(layer)
    if layer.endswith(".to_out.0"):
        yield layer.removesuffix(".0"), Place(layer)
    for place in layout(f"{layer}.weight", settings_of(network)) if layout else ():
        yield place.name.removesuffix(".weight"), place


def _share(change: _Change, parts: Mapping[str, Any], said: Mapping[str, _Settings]) -> float:
    """Returns alpha / r. Raises ValueError unless there are both factors, finite and of the size of the weight."""
    if set(change.factors) != {"A", "B"}:
        raise ValueError(f"its {change.name} lacks one of the two LoRA factors")
    if not all(change.factors[kind].numel() and change.factors[kind].ndim > 1 for kind in "AB"):
        raise ValueError(f"the factors of its {change.name} are empty")
    A, B = (change.factors[kind].flatten(1) for kind in "AB")
    for part, layer, place in change.targets:
        weight = parts[part].get_submodule(layer).weight
        for given, own in ((A.shape[1], weight[0].numel()), (len(B), place.of * len(weight) // place.span)):
            if given != own:
                raise ValueError(f"its {change.name} has width {given}, and that model's {own}")
    if B.shape[1] != len(A):
        raise ValueError(f"the factors of its {change.name} are of rank {len(A)} and {B.shape[1]}")
    if not (A.isfinite().all() and B.isfinite().all() and math.isfinite(change.alpha or 0)):
        raise ValueError(f"its {change.name} holds values that are not finite")
    if change.alpha is not None:
        return change.alpha / len(A)
    return _share_said(said.get(change.targets[0][0], _Settings()), change.name, len(A))


def _check_plain(change: _Change, parts: Mapping[str, Any], file: Path) -> None:
    """Raises ModelError for a quantised weight: libraries hold those as integers or in tensors of their own classes."""
    for part, layer, _ in change.targets:
        weight = parts[part].get_submodule(layer).weight
        if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
            raise ModelError(
                f"The LoRA {file} cannot change quantised weights, such as that of {layer}; use the full model, with "
                "--quantize."
            )


def _check_size(change: _Change, factor: float) -> None:
    """Raises ValueError if the weights could become infinite in half precision."""
    A, B = (float(change.factors[kind].abs().max()) for kind in "AB")
    if not abs(factor) * len(change.factors["A"]) * A * B < torch.finfo(torch.float16).max:
        raise ValueError(f"its {change.name} overflows half precision at a scale of {factor:g}")


def _said(metadata: Mapping[str, str], file: Path, parts: Iterable[str]) -> dict[str, _Settings]:
    """Returns PEFT's settings by part: from the file beside the LoRA, as PEFT writes, or its header, as diffusers."""
    if beside := adapter_settings(file):
        settings = json.loads(beside.read_text(encoding="utf-8"))
        return dict.fromkeys(parts, _Settings(settings))
    said: dict[str, dict[str, Any]] = {}
    for key, value in json.loads(metadata.get(SETTINGS_KEY) or "{}").items():
        part, _, name = key.partition(".")
        said.setdefault(part, {})[name] = value
    return {part: _Settings(own) for part, own in said.items()}


def _share_said(settings: _Settings, layer: str, rank: int) -> float:
    """Returns alpha / r by PEFT's settings, 1 without settings. Raises ValueError for another kind of adapter."""
    said = settings.said
    if (kind := said.get("peft_type") or "LORA") != "LORA":
        raise ValueError(f"it is not a LoRA but {str(kind)[:40]}, as its settings say")
    if (start := said.get("init_lora_weights", True)) not in STARTS:
        raise ValueError(f"it was trained on other weights than the model's (init_lora_weights is {str(start)[:40]})")
    return settings.alpha(layer, rank) / (rank**0.5 if said.get("use_rslora") else rank)
