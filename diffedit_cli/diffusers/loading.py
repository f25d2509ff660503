"""Pipelines from folders, checkpoints and other pipelines, and folders from pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.diffusers.components import OWN_PIPELINE, Components, part_names
from diffedit_cli.engine.networks import components, families
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.model_formats import FAMILIES, family_with
from diffedit_cli.engine.networks.safety_checker import SafetyChecker
from diffedit_cli.errors import OutputError
from diffedit_cli.models import registry
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.storage.files import new_folder

if TYPE_CHECKING:
    from typing_extensions import Self

ACCEPTED = ("local_files_only", "low_cpu_mem_usage", "requires_safety_checker", "token")
"""Arguments of diffusers' loader that have no effect here: nothing is downloaded, and weights are read one by one."""


class Loading(Components):
    """Reads and writes the parts of a model."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, torch_dtype: torch.dtype | str | None = None,
        variant: str | None = None, use_safetensors: bool | None = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Returns the pipeline of a model that is on this machine, on the CPU; nothing is downloaded.

        Args:
            pretrained_model_name_or_path: Hub id (in the hub's cache), folder or checkpoint, or one of `diffedit models
                list`; of any family of docs/models.md.
            torch_dtype: Number format of the networks; "auto" is the stored one. Default: float32.
            variant: Variant of the weight files, such as "fp16". Default: the plain ones, or those that are there.
            use_safetensors: Accepted unless it is False: pickled weights are never read.
            kwargs: Parts by name, in place of the model's own; `safety_checker=None` leaves the checker out.

        Raises:
            ModelError: The model is not on this machine, or cannot be read.
            InvalidArgument: There is no such part.
        """
        if use_safetensors is False:
            raise InvalidArgument("use_safetensors=False asks for pickled weights, which can run code; leave it out.")
        found = registry.find(str(pretrained_model_name_or_path)).as_model()
        return cls._of(replace(found, variant=variant) if variant else found, torch_dtype, kwargs)

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path: str | Path, *, config: str | Path | None = None,
        torch_dtype: torch.dtype | str | None = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Returns the pipeline of a checkpoint (docs/models.md).

        Args:
            pretrained_model_link_or_path: File with weights, `.safetensors` or `.gguf`.
            config: Model with the settings and the parts that the file lacks. Default: by the file's content.
            torch_dtype: As for `from_pretrained`.
            kwargs: As for `from_pretrained`.

        Raises:
            ModelError: The file or its settings are not on this machine, or cannot be read.
            InvalidArgument: There is no such part.
        """
        settings = None if config is None else str(config)
        return cls._of(
            registry.find(str(pretrained_model_link_or_path), config=settings).as_model(), torch_dtype, kwargs
        )

    @classmethod
    def _of(cls, found: ModelFolder, torch_dtype: torch.dtype | str | None, parts: Mapping[str, Any]) -> Self:
        given = _parts_among(parts, FAMILIES[found.family], cls.__name__)
        dtype = None if torch_dtype == "auto" else torch_dtype or torch.float32
        pipeline = cls.__new__(cls)
        pipeline._hold(found.family, _read(found, dtype, given), components.index(found.path), found.name)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Self:
        """Returns a pipeline of the same parts as another one; they are shared.

        Args:
            pipeline: Pipeline of diffusers of any family of docs/models.md, or one of these, with its LoRAs and its
                offloading, which only one of the two should change from then on.
            kwargs: Parts by name, in place of that pipeline's.

        Raises:
            ModelError: The family is unknown.
            InvalidArgument: Networks of a pipeline of diffusers are offloaded, or a part that is offloaded or has a
                LoRA would be replaced.
        """
        kind, ours = type(pipeline).__name__, isinstance(pipeline, Loading)
        index = pipeline._index if ours else {**pipeline.config, "_class_name": kind}
        family = family_with(index["_class_name"], kind)
        parts = {**pipeline.components, **_parts_among(kwargs, FAMILIES[family], cls.__name__)}
        own = cls.__new__(cls)
        own._hold(family, parts, index, kind)
        if ours:
            own._share(pipeline, own._networks().keys() & kwargs.keys())
        elif any(map(_is_offloaded, own._networks().values())):
            raise InvalidArgument(
                f"The networks of that {kind} are offloaded; call its remove_all_hooks() first, and offload the new "
                "pipeline afterwards."
            )
        return own

    def _share(self, other: Any, replaced: Set[str]) -> None:
        """Takes over the state of the networks shared with another of these pipelines. Raises InvalidArgument."""
        if replaced and other._computes_on is not None:
            raise InvalidArgument(
                f"The {min(replaced)} of an offloaded pipeline cannot be replaced; call its remove_all_hooks() first."
            )
        self._computes_on = other._computes_on

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Writes the model as a folder that diffusers and diffedit read, whole or not at all.

        Args:
            save_directory: New folder.
            safe_serialization: Accepted unless it is False: weights are only written as `.safetensors`.
            variant: Variant in the names of the weight files, such as "fp16". Default: none.

        Raises:
            OutputError: It exists, or cannot be written.
        """
        if not safe_serialization:
            raise InvalidArgument("safe_serialization=False asks for pickled weights; leave it out.")
        target = Path(save_directory)
        if target.exists():
            raise OutputError(f"{target} exists; name a new folder.")
        parts = {name: part for name, part in self.components.items() if part is not None}
        absent = {name: [None, None] for name in self._family.all_parts if name not in parts}
        with new_folder(target) as fresh:
            for name, part in parts.items():
                options = {"variant": variant} if isinstance(part, nn.Module) and variant else {}
                part.save_pretrained(fresh / name, **options)
            kinds = {
                name: [type(part).__module__.partition(".")[0], type(part).__name__] for name, part in parts.items()
            }
            if "safety_checker" in kinds:
                kinds["safety_checker"][0] = "stable_diffusion"  # where diffusers looks for it
            name = OWN_PIPELINE if self._family is FAMILIES["sd"] else self._index["_class_name"]
            index = {**self._kind.settings_in(self._index), "_class_name": name, **kinds, **absent}
            (fresh / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _parts_among(arguments: Mapping[str, Any], family: Family, pipeline: str) -> dict[str, Any]:
    """Returns the parts among the arguments of a loader. Raises InvalidArgument for anything else."""
    known = part_names(family)
    if unknown := sorted(arguments.keys() - {*known, *ACCEPTED}):
        raise InvalidArgument(f"{pipeline} has no part and no argument {unknown[0]} for this model; leave it out.")
    return {name: arguments[name] for name in arguments if name in known}


def _is_offloaded(network: nn.Module) -> bool:
    """Returns whether accelerate moves a network, or layers of it, to a device and back."""
    hooks = (getattr(module, "_hf_hook", None) for module in network.modules())
    return any(getattr(hook, "offload", True) for hook in hooks if hook is not None)  # False: it only aligns devices


def _read(found: ModelFolder, dtype: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parts of a model; those that are given are not read. Raises ModelError."""
    kind, index = families.implementation(found.family), components.index(found.path)
    readers = {part: reader for part, reader in kind.readers_for(index).items() if part not in given}
    elsewhere = {part: path for part, path in found.elsewhere.items() if part in readers}
    about = ("cpu", dtype, found.name, found.variant)
    parts = components.read(found.path, readers, *about, elsewhere=elsewhere)
    if found.has_safety_checker and given.keys().isdisjoint(SafetyChecker.READERS):
        parts |= components.read(found.path, SafetyChecker.READERS, "cpu", torch.float32, found.name, found.variant)
    if found.spacing and "scheduler" in parts:
        parts["scheduler"].register_to_config(timestep_spacing=found.spacing)
    return {**parts, **given}
