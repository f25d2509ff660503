"""A model on this machine: a folder in diffusers' format, checked but not loaded."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs, weights
from diffedit_cli.models.adapters import Addition, Lora, TextualInversion
from diffedit_cli.models.small_world import FITNESS, WORLD, SmallWorld
from diffedit_cli.storage import hashing, paths
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.cache_folder import DIGESTS
from diffedit_cli.storage.files import new_folder

SPELLINGS = ("model-name", "model-config", "lora", "embedding")
"""Keys of a model's record that say how the model was named; the digest identifies it."""
AT_TOP = ("model_index.json", FITNESS, WORLD)
"""The files of a model that lie beside its components."""


@dataclass(frozen=True)
class ModelFolder(SmallWorld):
    """A folder in diffusers' format, checked but not loaded.

    `variant` is the variant in the file names of its weights. `loras` and `embeddings` are added when it is loaded.
    `config` names the model, if any, that a checkpoint's configuration comes from.
    """

    name: str
    path: Path
    family: str
    variant: str | None = None
    memo: Path = field(default_factory=lambda: default_root() / DIGESTS, compare=False)
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[TextualInversion, ...] = ()
    config: str | None = None
    model_lock: object = field(
        default=None, compare=False, repr=False
    )  # lock that keeps a converted model in the cache

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of the names and contents of the components' files, and of the adapters.

        The safety checker does not count, because no mask or latents depend on it.
        """
        beside = FAMILIES[self.family].beside
        total = hashlib.sha256()
        try:
            for path in self.files():
                if path.parent.name not in beside:
                    content = hashing.of_file(path, self.memo)
                    total.update(f"{path.relative_to(self.path).as_posix()} {content}\n".encode())
        except OSError as error:
            raise unreadable(self.name, error) from error
        added: tuple[Addition, ...] = (*self.loras, *self.embeddings)
        for addition in added:
            total.update(f"{addition.identity}\n".encode())
        return total.hexdigest()

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
        said = {option: [addition.words for addition in found] for option, found in added.items() if found}
        config = {"model-config": self.config} if self.config else {}
        return {"model": self.digest, "model-name": self.name, **config, **said}

    def files(self) -> Iterator[Path]:
        """Yields the files of all components that exist; of the weights only those of the model's variant."""
        for part in self._parts_here():
            for path in sorted((self.path / part).iterdir()):
                other = weights.is_weights(path.name) and weights.variant_of(path.name) != self.variant
                if _is_of_a_part(path) and not other:
                    yield path

    @property
    def has_safety_checker(self) -> bool:
        return all(paths.is_folder(self.path / part) for part in FAMILIES[self.family].beside)

    @property
    def attends(self) -> bool:
        """Whether the network has cross-attention from the picture to the words, as UNets have."""
        return FAMILIES[self.family].attends

    @property
    def prediction_type(self) -> str:
        """The prediction type of the network in its scheduler's words, or `flow`."""
        if FAMILIES[self.family].follows_flow:
            return "flow"
        return str(self._settings("scheduler", "scheduler_config.json").get("prediction_type", "epsilon"))

    @property
    def is_quantised(self) -> bool:
        """Whether the weights of a network are stored quantised."""
        networks = (part for part in self._parts_here() if paths.is_file(self.path / part / "config.json"))
        return any(configs.QUANTISATION in self._settings(part, "config.json") for part in networks)

    @property
    def native_size(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""
        family = FAMILIES[self.family]
        return family.native_size(self._settings(family.denoiser, "config.json"), self._settings("vae", "config.json"))

    @property
    def factor(self) -> int:
        """The side in pixels of a latent cell."""
        return FAMILIES[self.family].factor(self._settings("vae", "config.json"))

    def sizes(self) -> dict[str, int]:
        """Returns the size of each component in bytes."""
        sizes: dict[str, int] = {}
        for path in self.files():
            part = path.parent.name
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
        return sizes

    def save(
        self, folder: Path, finish: Callable[[Path], None] = lambda _: None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Writes the model as one folder, whole or not at all, replacing an existing one. Raises OutputError.

        `finish` may change the copy before it is moved into place, and `check` may raise an error for files that have
        appeared there meanwhile.
        """
        with new_folder(folder, replace=True, check=check) as fresh:
            at_top = [path for name in AT_TOP if paths.is_file(path := self.path / name)]
            for path in (*at_top, *self.files()):
                target = fresh / path.relative_to(self.path)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
            finish(fresh)

    def _parts_here(self) -> list[str]:
        return [part for part in FAMILIES[self.family].all_parts if paths.is_folder(self.path / part)]

    def _settings(self, part: str, name: str) -> dict[str, Any]:
        return configs.read(self.name, self.path / part / name)


def not_of_a_model(folder: Path) -> list[Path]:
    """Returns the files below a folder that `ModelFolder.save` cannot have written."""
    parts = {part for family in FAMILIES.values() for part in family.all_parts}

    def is_saved(path: Path) -> bool:
        if path.parent == folder:
            return path.name in AT_TOP
        return path.parent.parent == folder and path.parent.name in parts and _is_of_a_part(path)

    return [path for path in sorted(folder.rglob("*")) if not paths.is_folder(path) and not is_saved(path)]


def _is_of_a_part(path: Path) -> bool:
    return weights.is_weights(path.name) or path.suffix in (".json", ".txt")


def unreadable(name: str, error: OSError) -> ModelError:
    return ModelError(f"The model {name} cannot be read: {error.filename}: {error.strerror}; check its permissions.")
