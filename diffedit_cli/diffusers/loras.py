"""LoRAs of a pipeline, fused into the weights; these are kept as they were, so that LoRAs can be taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor

from diffedit_cli.diffusers import arguments
from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.diffusers.textual_inversions import TextualInversions, adapter_file
from diffedit_cli.engine.networks import adapter_loading
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.cache_folder import DIGESTS

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class _Fused:
    """A LoRA file with its strength."""

    file: Path
    weight: float = 1.0


class Loras(TextualInversions):
    """Adds LoRAs to the networks, and takes them out."""

    _loras: Mapping[str, _Fused] = {}  # replaced, never changed
    _plain: Mapping[tuple[str, str], Tensor] = {}  # weights before any LoRA, by part and layer

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path,
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
    ) -> None:
        """Adds a LoRA of kohya, PEFT or diffusers to the networks, at full strength.

        Args:
            pretrained_model_name_or_path_or_dict: `.safetensors` file, or a folder or a repository in the hub's cache
                that has it. Tensors must be saved first, with `save_lora_weights`.
            adapter_name: Name for `set_adapters`. Default: `default_0`, `default_1`, ...
            weight_name: File in the folder or repository. Default: pytorch_lora_weights.safetensors.

        Raises:
            ModelError: There is no such file, or it does not fit the model.
            InvalidArgument: The name is taken, or offloading by layers keeps the weights elsewhere.
        """
        file = adapter_file(pretrained_model_name_or_path_or_dict, weight_name, LORA_FILE)
        (found,) = adapters.loras([str(file)], default_root() / DIGESTS)
        name = f"default_{len(self._loras)}" if adapter_name is None else adapter_name
        if name in self._loras:
            raise InvalidArgument(f"There is a LoRA {name} already; give this one another adapter_name.")
        self._fuse({**self._loras, name: _Fused(found.file)})

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Chooses the LoRAs that are in effect, and their strengths.

        Args:
            adapter_names: Names from `load_lora_weights`; the others have no effect until they are named again.
            adapter_weights: Strength of each, or one for all. Default: 1.

        Raises:
            InvalidArgument: There is no such LoRA, or another number of strengths, or offloading by layers keeps the
                weights elsewhere.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        given = 1.0 if adapter_weights is None else adapter_weights
        weights = [float(given)] * len(names) if isinstance(given, int | float) else [float(one) for one in given]
        if unknown := [name for name in names if name not in self._loras]:
            raise InvalidArgument(f"There is no LoRA {unknown[0]}; load it with load_lora_weights first.")
        if len(weights) != len(names):
            raise InvalidArgument(f"There are {len(weights)} strengths for {len(names)} LoRAs; give one for each.")
        chosen = dict(zip(names, weights, strict=True))
        self._fuse({name: replace(lora, weight=chosen.get(name, 0.0)) for name, lora in self._loras.items()})

    def unload_lora_weights(self) -> None:
        """Takes all LoRAs out; the weights are what they were before, bit for bit.

        Raises:
            InvalidArgument: Offloading by layers keeps the weights elsewhere.
        """
        self._fuse({})

    def fuse_lora(self, lora_scale: float = 1.0) -> None:
        """Makes the LoRAs that are in effect permanent: `unload_lora_weights` keeps their change.

        Args:
            lora_scale: Factor of their strengths. Default 1.
        """
        with self._lora_scale({"scale": lora_scale}):
            self._plain, self._loras = {}, {}

    @classmethod
    def save_lora_weights(
        cls, save_directory: str | Path, unet_lora_layers: Mapping[str, Any] | None = None,
        text_encoder_lora_layers: Mapping[str, Any] | None = None, is_main_process: bool = True,
        weight_name: str | None = None, save_function: Any = None, safe_serialization: bool = True, *,
        transformer_lora_layers: Mapping[str, Any] | None = None,
        text_encoder_2_lora_layers: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Writes the layers of a LoRA as diffusers does.

        Args:
            save_directory: Folder, made if it is not there.
            unet_lora_layers: Tensors of the UNet by name.
            text_encoder_lora_layers: Tensors of the text encoder by name.
            is_main_process: Whether this process writes. Default true.
            weight_name: Name of the file. Default: pytorch_lora_weights.safetensors.
            save_function: Writes the file. Default: that of safetensors.
            safe_serialization: Accepted unless it is False: weights are only written as `.safetensors`.
            transformer_lora_layers: Tensors of the transformer by name, in place of a UNet's.
            text_encoder_2_lora_layers: Tensors of the second text encoder by name.

        Raises:
            InvalidArgument: There are no layers.
        """
        given = {
            "unet": unet_lora_layers, "transformer": transformer_lora_layers,
            "text_encoder": text_encoder_lora_layers, "text_encoder_2": text_encoder_2_lora_layers,
        }  # fmt: skip
        tensors: dict[str, Tensor] = {}
        for part, layers in given.items():
            tensors |= LoraBaseMixin.pack_weights(layers, part) if layers else {}
        if not tensors or not safe_serialization:
            raise InvalidArgument("There is nothing to write as .safetensors; give unet_lora_layers or others.")
        LoraBaseMixin.write_lora_layers(tensors, save_directory, is_main_process, weight_name, save_function, True)

    @contextmanager
    def _lora_scale(self, cross_attention_kwargs: Mapping[str, Any] | None) -> Iterator[None]:
        """Context in which the LoRAs have the `scale` that a call gives them. Raises InvalidArgument."""
        said = dict(cross_attention_kwargs or {})
        scale = said.pop("scale", None)
        if said:
            raise InvalidArgument(f"cross_attention_kwargs has {min(said)}, and only scale has an effect; omit it.")
        if scale in (None, 1) or not self._loras:
            yield
            return
        before, factor = self._loras, arguments.number("The scale of the LoRAs", scale)
        self._fuse({name: replace(lora, weight=lora.weight * factor) for name, lora in before.items()})
        try:
            yield
        finally:
            if self._loras:  # else they were made permanent
                self._fuse(before)

    def _fuse(self, loras: Mapping[str, _Fused]) -> None:
        """Puts the weights back as they were, and adds these LoRAs.

        Raises ModelError or InvalidArgument; then nothing has changed.
        """
        parts = {part: one for part, one in self._networks().items() if part in self._family.adapted}
        plain = dict(self._plain)
        for name in loras.keys() - self._loras.keys():
            for part, layer in adapter_loading.layers(parts, self._kind, loras[name].file, self._name):
                weight: Any = parts[part].get_submodule(layer).weight
                plain.setdefault((part, layer), weight.detach().clone())
        _check_here(parts, plain)
        put = partial(_put, parts, plain, self._kind, self._name)
        try:
            put(loras)
        except ModelError:
            put(self._loras)
            raise
        self._plain, self._loras = plain if loras else {}, dict(loras)

    def _share(self, other: Any, replaced: Set[str]) -> None:
        super()._share(other, replaced)
        if changed := sorted(replaced & {part for part, _ in other._plain}):
            raise InvalidArgument(f"A LoRA changes the {changed[0]}; call unload_lora_weights() before replacing it.")
        self._plain, self._loras = other._plain, other._loras


def _check_here(parts: Mapping[str, Any], layers: Iterable[tuple[str, str]]) -> None:
    """Raises InvalidArgument if the weights of layers, as (part, layer), wait elsewhere, where nothing changes them."""
    if any(parts[part].get_submodule(layer).weight.is_meta for part, layer in layers):
        raise InvalidArgument(
            "LoRAs cannot be changed while the weights are offloaded by layers; call remove_all_hooks() first, and "
            "enable_sequential_cpu_offload() afterwards."
        )


def _put(
    parts: dict[str, Any], plain: Mapping[tuple[str, str], Tensor], kind: type[LatentDiffusion], name: str,
    loras: Mapping[str, _Fused],
) -> None:  # fmt: skip
    """Puts the plain weights, by part and layer, back into the networks, and adds the LoRAs. Raises ModelError."""
    with torch.no_grad():
        for (part, layer), weight in plain.items():
            parts[part].get_submodule(layer).weight.copy_(weight)
    for lora in loras.values():
        if lora.weight:
            adapter_loading.fuse(parts, kind, lora.file, lora.weight, name)
