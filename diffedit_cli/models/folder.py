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
from diffedit_cli.storage import hashing, paths
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.files import new_folder

SPELLINGS = ("model-name", "model-config", "lora", "embedding")
"""Of a model's record what says how it was called; the digest says which it is."""
FITNESS = "fitness.json"
"""What a model of a small world says of itself."""
OWN = {"guidance": 100.0, "invert_from": 1.0, "last_level": 1.0, "paste_above": 255.0}
"""The parameters that a model may have defaults of its own for, with the most that they can be."""
WORLD = "world.json"
"""What a model of a small world knows."""
AT_TOP = ("model_index.json", FITNESS, WORLD)
"""The files of a model that lie beside its parts."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder in diffusers' format, checked but not loaded; `variant` is that of its weights' file names.

    `loras` and `embeddings` are added to it when it is loaded. `config` is the model, if one was named, that a
    checkpoint's configuration comes from.
    """

    name: str
    path: Path
    family: str
    variant: str | None = None
    memo: Path = field(default_factory=lambda: default_root() / "digests", compare=False)
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[TextualInversion, ...] = ()
    config: str | None = None

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) over the parts' files, names and contents, and what is added."""
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
        """For the engine: files with scales, files with tokens."""
        return {
            "loras": [(lora.file, lora.scale) for lora in self.loras],
            "embeddings": [(embedding.file, embedding.token) for embedding in self.embeddings],
        }

    def record(self) -> dict[str, Any]:
        """What metadata say of the model, under the names of the options where they have one."""
        added: dict[str, tuple[Addition, ...]] = {"lora": self.loras, "embedding": self.embeddings}
        said = {option: [addition.words for addition in found] for option, found in added.items() if found}
        config = {"model-config": self.config} if self.config else {}
        return {"model": self.digest, "model-name": self.name, **config, **said}

    def files(self) -> Iterator[Path]:
        """The files of all parts that are there, of the weights only those of the model's variant."""
        for part in FAMILIES[self.family].all_parts:
            if paths.is_folder(self.path / part):
                for path in sorted((self.path / part).iterdir()):
                    other = weights.is_weights(path.name) and weights.variant_of(path.name) != self.variant
                    if _is_of_a_part(path) and not other:
                        yield path

    @property
    def has_safety_checker(self) -> bool:
        return all(paths.is_folder(self.path / part) for part in FAMILIES[self.family].beside)

    @property
    def attends(self) -> bool:
        """Whether its network attends from the picture to the words, as UNets do."""
        return "unet" in FAMILIES[self.family].networks

    @property
    def prediction_type(self) -> str:
        """What the network predicts, in its scheduler's words, or `flow`."""
        if self.family == "sd3":
            return "flow"
        return str(self._settings("scheduler", "scheduler_config.json").get("prediction_type", "epsilon"))

    @property
    def native_size(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""
        network = self._settings("transformer" if self.family == "sd3" else "unet", "config.json")
        return int(network.get("sample_size", 0) * self.factor)

    @property
    def factor(self) -> int:
        """The side in pixels of a latent cell."""
        levels: list[int] = self._settings("vae", "config.json").get("block_out_channels", [0])
        return int(2 ** (len(levels) - 1))

    @property
    def fitness(self) -> tuple[float, float] | None:
        """Of a model of a small world: the noise to try a picture with, and the misfit that it may have.

        None for a model that takes any picture. See engine.networks.domain_check. Raises ModelError.
        """
        said = self._own_words
        return (self._number(said, "strength"), self._number(said, "limit")) if said is not None else None

    @property
    def defaults(self) -> dict[str, float]:
        """What it says of itself in place of usual defaults, by the parameters' names. Raises ModelError."""
        found: dict[str, float] = {}
        for name, most in OWN.items():
            said = name.replace("_", "-")
            if (value := self._own_number(said)) is None:
                continue
            if not 0 <= value <= most:
                raise ModelError(
                    f"The model {self.name} is damaged: {said} in {self.path / FITNESS} is {value:g}; get it again."
                )
            found[name] = value
        return found

    @property
    def evidence(self) -> float | None:
        """How well a prompt must explain a region for what it names to be there (engine.evidence); None: no limit."""
        return self._own_number("evidence")

    @property
    def evidence_of_looks(self) -> float | None:
        """The same for a thing that is to look otherwise: another red than the model's own is still red."""
        own = self._own_number("evidence-of-looks")
        return self.evidence if own is None else own

    @property
    def unexplained(self) -> float | None:
        """How much of a result --to may leave unexplained (engine.evidence) before that is said; None: not asked."""
        return self._own_number("unexplained")

    @property
    def words(self) -> list[str] | None:
        """All words that a model of a small world knows; None for one that reads any. Raises ModelError."""
        if not paths.is_file(self.path / WORLD):
            return None
        words = self._settings("", WORLD).get("words")
        return [str(word) for word in words] if isinstance(words, list) else None

    @property
    def places(self) -> list[str]:
        """How one says each place that a model of a small world knows ("on the grass"); none of another's. Raises
        ModelError."""
        known = self._settings("", WORLD).get("places") if paths.is_file(self.path / WORLD) else None
        return [str(place) for place in known.values()] if isinstance(known, dict) else []

    def _own_number(self, name: str) -> float | None:
        said = self._own_words or {}
        return self._number(said, name) if name in said else None

    @cached_property
    def _own_words(self) -> dict[str, Any] | None:
        return self._settings("", FITNESS) if paths.is_file(self.path / FITNESS) else None

    def _number(self, said: dict[str, Any], name: str) -> float:
        try:
            return float(said[name])
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"The model {self.name} is damaged: {self.path / FITNESS} lacks numbers; get it again."
            ) from None

    def sizes(self) -> dict[str, int]:
        """Bytes by part."""
        sizes: dict[str, int] = {}
        for path in self.files():
            part = path.parent.name
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
        return sizes

    def save(
        self, folder: Path, finish: Callable[[Path], None] = lambda _: None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Writes the model as one folder, whole or not at all, replacing what is there. Raises OutputError.

        `finish` may change the copy before it takes its place, and `check` raise for what has come there by then.
        """
        with new_folder(folder, replace=True, check=check) as fresh:
            at_top = [path for name in AT_TOP if paths.is_file(path := self.path / name)]
            for path in (*at_top, *self.files()):
                target = fresh / path.relative_to(self.path)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
            finish(fresh)

    def _settings(self, part: str, name: str) -> dict[str, Any]:
        return configs.read(self.name, self.path / part / name)


def not_of_a_model(folder: Path) -> list[Path]:
    """The files below a folder that `ModelFolder.save` cannot have written there."""
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
