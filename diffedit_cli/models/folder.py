"""A model on this machine: a folder in diffusers' format, checked but not loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs, profiles, weights
from diffedit_cli.models.adapters import Addition, Lora, TextualInversion
from diffedit_cli.models.settings import ModelSettings
from diffedit_cli.models.small_world import FITNESS, WORLD
from diffedit_cli.storage import hashing, paths
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.cache_folder import DIGESTS
from diffedit_cli.storage.files import new_folder

SPELLINGS = ("model-name", "model-config", "text-encoder", "vae", "distilled", "lora", "embedding")
"""Keys of a model's record that say how the model was named; the digest identifies it."""
AT_TOP = ("model_index.json", FITNESS, WORLD)
"""The files of a model that lie beside its components."""

CHAT_TEMPLATE = "chat_template.jinja"
"""File that transformers writes with a tokenizer to which adapters were applied; nothing reads it."""


@dataclass(frozen=True)
class ModelFolder(ModelSettings):
    """A folder in diffusers' format, checked but not loaded.

    `variant` is the variant in the file names of its weights. `loras` and `embeddings` are added when it is loaded.
    `config` names the model, if any, that the configuration or the other parts of a file come from. `elsewhere` has by
    part the files with weights, or the folders, that are used in place of those in the folder. `source` is the hub id
    that a short name stands for. `distilled` says how the model was distilled to few steps; `auto` reads its files.
    """

    name: str
    path: Path
    family: str
    variant: str | None = None
    memo: Path = field(default_factory=lambda: default_root() / DIGESTS, compare=False)
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[TextualInversion, ...] = ()
    config: str | None = None
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    source: str | None = None
    distilled: str = profiles.AUTO
    model_lock: object = field(
        default=None, compare=False, repr=False
    )  # lock that keeps a converted model in the cache

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of the names and contents of the components' files, and of the adapters.

        The safety checker does not count, because no mask or latents depend on it.
        """
        beside = self.format.beside
        total = hashlib.sha256()
        try:
            for path, place in self.placed_files():
                if place.partition("/")[0] not in beside:
                    total.update(f"{place} {hashing.of_file(path, self.memo)}\n".encode())
        except OSError as error:
            raise unreadable(self.name, error) from error
        added: tuple[Addition, ...] = (*self.loras, *self.embeddings)
        for addition in added:
            total.update(f"{addition.identity}\n".encode())
        if self.spacing is not None:
            total.update(f"spacing {self.spacing}\n".encode())
        for name, usual in self.format.settings.items():
            if (said := self._index.get(name, usual)) != usual:
                total.update(f"{name} {said!r}\n".encode())
        return total.hexdigest()

    def as_distilled(self, how: str) -> ModelFolder:
        """Returns the model, taken as distilled in this way, or as its files say (AUTO). Raises UsageError."""
        model = replace(self, distilled=how)
        _ = model.profile  # raises for an unknown way
        return model

    @property
    def additions(self) -> dict[str, Any]:
        """The adapters as arguments of the engine: LoRA files with scales, embeddings files with tokens."""
        return {
            "loras": [(lora.file, lora.scale) for lora in self.loras],
            "embeddings": [(embedding.file, embedding.token) for embedding in self.embeddings],
        }

    def record(self) -> dict[str, Any]:
        """Returns the metadata of the model, under the names of the options if there are such options."""
        added: dict[str, tuple[Addition, ...]] = {"lora": self.loras, "embedding": self.embeddings}
        said: dict[str, Any] = {
            option: [addition.words for addition in found] for option, found in added.items() if found
        }
        said |= {"model-config": self.config} if self.config else {}
        said |= {} if self.distilled == profiles.AUTO else {"distilled": self.distilled}
        given = {part: str(path) for part, path in self.elsewhere.items() if part != self.format.denoiser}
        said |= {"vae": given.pop("vae")} if "vae" in given else {}
        said |= {"text-encoder": [*given.values()]} if given else {}
        return {"model": self.digest, "model-name": self.name, **said}

    def files(self) -> Iterator[Path]:
        """Yields the files of all components that exist; of the weights only those of the model's variant."""
        return (path for path, _ in self.placed_files())

    def placed_files(self) -> Iterator[tuple[Path, str]]:
        """Yields the files as `files` does, with their places in a folder; weights that are elsewhere: only `part/`."""
        for part in self.format.all_parts:
            folder, other = self._folder(part), self.elsewhere.get(part)
            variant = self.variant if other is None else None
            for path in sorted(folder.iterdir()) if paths.is_folder(folder) else ():
                if not weights.is_weights(path.name):
                    if _is_of_a_part(path):
                        yield path, f"{part}/{path.name}"
                elif other in (None, folder) and weights.variant_of(path.name) == variant:
                    yield path, f"{part}/{'' if other else path.name}"
            if other and other != folder:
                yield other, f"{part}/"

    @property
    def has_safety_checker(self) -> bool:
        return all(paths.is_folder(self.path / part) for part in self.format.beside)

    def sizes(self) -> dict[str, int]:
        """Returns the size of each component in bytes."""
        sizes: dict[str, int] = {}
        for path, place in self.placed_files():
            part = place.partition("/")[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
        return sizes

    def save(
        self, folder: Path, finish: Callable[[Path], None] = lambda _: None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Writes the model as one folder, whole or not at all, replacing an existing one. Raises OutputError.

        Parts whose weights are elsewhere come without weights. `finish` may change the copy before it is moved into
        place, and `check` may raise an error for files that have appeared there meanwhile.
        """
        with new_folder(folder, replace=True, check=check) as fresh:
            at_top = [(path, name) for name in AT_TOP if paths.is_file(path := self.path / name)]
            templates = [  # for other programs: diffedit has its own
                (path, path.relative_to(self.path).as_posix()) for path in self.path.glob(f"*/{CHAT_TEMPLATE}")
            ]
            for path, place in (*at_top, *templates, *self.placed_files()):
                if not place.endswith("/"):
                    target = fresh / place
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, target)
            if self.profile is not None:  # a folder of another name must not forget that the model is distilled
                index = self._index | {"_name_or_path": f"{self.profile.kind}-{self.profile.steps}steps"}
                (fresh / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
            finish(fresh)


def not_of_a_model(folder: Path) -> list[Path]:
    """Returns the files below a folder that `ModelFolder.save` cannot have written."""
    parts = {part for family in FAMILIES.values() for part in family.all_parts}

    def is_saved(path: Path) -> bool:
        if path.parent == folder:
            return path.name in AT_TOP
        of_a_part = _is_of_a_part(path) or path.name == CHAT_TEMPLATE
        return path.parent.parent == folder and path.parent.name in parts and of_a_part

    return [path for path in sorted(folder.rglob("*")) if not paths.is_folder(path) and not is_saved(path)]


def _is_of_a_part(path: Path) -> bool:
    return weights.is_weights(path.name) or path.suffix in configs.SMALL


def unreadable(name: str, error: OSError) -> ModelError:
    return ModelError(f"The model {name} cannot be read: {error.filename}: {error.strerror}; check its permissions.")
