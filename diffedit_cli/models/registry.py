"""Finds models on this machine by name, checked but not loaded. Nothing here goes online."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from diffedit_cli.engine.networks.model_formats import FAMILIES, family_with
from diffedit_cli.errors import ModelError
from diffedit_cli.models import checkpoints, configs, formats, network_files, weights
from diffedit_cli.models.folder import ModelFolder, unreadable
from diffedit_cli.models.formats import format_of
from diffedit_cli.models.names import BUILTIN as BUILTIN
from diffedit_cli.models.names import NAMES as NAMES
from diffedit_cli.models.names import SEGMENTERS, hub_id
from diffedit_cli.storage import hashing, model_locks, paths
from diffedit_cli.storage.cache import Cache, default_root
from diffedit_cli.storage.cache_folder import DIGESTS

BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin"


def find(
    name: str,
    *,
    kept: Path | None = None,
    config: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    text_encoders: Iterable[str] = (),
    vae: str | None = None,
) -> ModelFolder:
    """Returns a model by name, hub id, folder or file, if it is on this machine. Raises ModelError.

    A checkpoint is converted once, into the cache folder `kept`, with the configuration of the model `config`; `say` is
    called with a message before. The file of a denoiser alone is read in place, with the other parts of the model
    `config`. `text_encoders` and `vae` are files or folders in place of these parts.
    """
    if name in SEGMENTERS:
        raise ModelError(f"{name} finds masks by words and edits nothing; name it with --segmenter.")
    kept, path, again = kept or default_root(), local(name), "get it again"
    if path is None:
        path, again = in_hub_cache(hub_id(name)), _advice(name)
        if path is None:
            raise ModelError(f"There is no model {name} on this machine; {again}.")
    elsewhere: dict[str, Path] = {}
    held = None
    try:
        if not paths.is_file(path):
            config = None
        elif alone := network_files.recognised(path):
            family, layout = alone
            elsewhere[FAMILIES[family].denoiser] = path
            path, again = _others(config or layout.usual, family, path)
        else:
            path, held = _converted(path, kept, config, say)
        elsewhere |= network_files.placed(name, path, family_of(path, name), text_encoders, vae)
        found = _checked(name, path, kept / DIGESTS, again, elsewhere)
        if file := elsewhere.get(found.format.denoiser):
            network_files.check_noise_process(file, found)
        source = NAMES[name].source if name in NAMES else None
        return replace(found, config=config, model_lock=held, source=source)
    except OSError as error:
        raise unreadable(name, error) from error


def find_painter(
    name: str, kept: Path | None = None, config: str | None = None, say: Callable[[str], None] = lambda _: None
) -> ModelFolder:
    """Returns an inpainting model as `find` does.

    Raises ModelError also for the file of a denoiser alone, and for a model that nothing of diffusers paints with.
    """
    found = find(name, kept=kept, config=config, say=say)
    if found.elsewhere:
        raise ModelError(f"{name} is a network alone, and --painter takes a folder or a complete checkpoint.")
    return found.as_painter()


def _others(name: str, family: str, file: Path) -> tuple[Path, str]:
    """Returns the folder of the model that the other parts of a denoiser's file come from, and how to complete it.

    Raises ModelError.
    """
    folder = local(name) or in_hub_cache(hub_id(name))
    pull = f"get it with: diffedit models pull {name} --without-network"
    can_be_pulled = hub_id(name).count("/") == 1
    alone = f"{file} is the {FAMILIES[family].denoiser} of {FAMILIES[family].title} alone"
    other = NAMES[name].family if name in NAMES else family
    if other == family and (folder is None or not paths.is_folder(folder)):
        advice = f"{pull}, or name" if can_be_pulled else "name"
        raise ModelError(
            f"{alone}, and the model {name} with the other parts is not on this machine; "
            f"{advice} another with --model-config."
        )
    if folder is not None and paths.is_folder(folder):
        other = family_of(folder, name)
    if other != family:
        raise ModelError(
            f"{file} is the {FAMILIES[family].denoiser} of {FAMILIES[family].title}, which does not fit {name} "
            f"({FAMILIES[other].title}); name a model of its family with --model-config."
        )
    assert folder is not None
    return folder, pull if can_be_pulled else "get it again"


def local(name: str) -> Path | None:
    """Returns the file or folder that a name refers to; None for a hub model, even if it is in the hub's cache."""
    # Not by methods of Path: they raise for unknown users and for names that no file can have.
    if name in NAMES or name in SEGMENTERS:
        return BUILTIN_FOLDER if name == BUILTIN else None
    path = os.path.expanduser(name)  # noqa: PTH111
    return Path(path) if os.path.exists(path) else None  # noqa: PTH110


def _converted(file: Path, kept: Path, config: str | None, say: Callable[[str], None]) -> tuple[Path, object]:
    """Returns the folder that a checkpoint was converted into, now or earlier, and the lock that keeps it in the cache.

    Raises ModelError or OutputError.
    """
    kind = checkpoints.kind_of(file)
    folder, key = None, f"{hashing.of_file(file, kept / 'digests')}-{checkpoints.edition(file)}"
    if config is not None:
        folder = _configuration(config, kind, file)
        key += f"-{checkpoints.configuration_digest(folder, FAMILIES[NAMES[kind].family])[:16]}"
    target = (cache := Cache(kept)).model(key)
    if (held := model_locks.hold(target)) is None:
        folder = folder or _configuration(kind, kind, file)
        say(f"converting {file} (once)")
        cache.reserve(file.stat().st_size)
        checkpoints.convert(file, folder, target, FAMILIES[NAMES[kind].family])
        held = model_locks.hold(target)
        cache.trim(recount=True)
    return target, held


def _configuration(name: str, kind: str, file: Path) -> Path:
    """Returns the folder with the configuration that a checkpoint of this kind lacks. Raises ModelError.

    The folder needs no weights.
    """
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
    held = len(weights.header(file)), file.stat().st_size
    configs.check(name, folder, FAMILIES[NAMES[kind].family], lambda _: held)
    return folder


def in_hub_cache(repository: str, file: str = "model_index.json") -> Path | None:
    """Returns the folder of the hub's cache that holds this file of a repository, perhaps incomplete; else None."""
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
    """Whether `find` finds the model."""
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
    """Returns the family that a folder's index names, or the pipeline of a painter without one.

    Raises ModelError for one that diffedit cannot use.
    """
    index = folder / "model_index.json"
    try:
        pipeline = weights.read_json(index).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise ModelError(
            f"{name} is not a diffusers model: {index} is missing or unreadable; name a folder that holds one."
        ) from None
    return str(pipeline) if formats.of_painter(folder, pipeline) else family_with(pipeline, name)


def _checked(name: str, folder: Path, memo: Path, again: str, elsewhere: Mapping[str, Path]) -> ModelFolder:
    """Returns the folder with its family and variant.

    Raises ModelError unless it has all components, with their weights as `.safetensors` unless they are `elsewhere`.
    """
    family = family_of(folder, name)
    told = format_of(folder, family)
    painter = told.painter(str(configs.read(name, folder / "model_index.json").get("_class_name")))
    for part in (*told.parts, *(painter.readers if painter else ())):
        if not paths.is_folder(folder / part):
            raise ModelError(f"The model {name} is incomplete: {folder / part} is missing; {again}.")
    variant = _variant(name, [folder / part for part in told.networks if part not in elsewhere], again)
    for part in told.all_parts:
        if part not in elsewhere:
            check_shards(name, folder / part, variant, again)

    def held(part: str) -> tuple[int, int]:
        if (place := elsewhere.get(part)) is None:
            return weights.stored_size(folder / part, variant)
        return weights.stored_size(place, None) if paths.is_folder(place) else network_files.size(place)

    configs.check(name, folder, told, held)
    return ModelFolder(name, folder, family, variant, memo, elsewhere=elsewhere)


def _variant(name: str, parts: Iterable[Path], again: str) -> str | None:
    """Returns the variant of the weights in the folders of some networks. Raises ModelError if there is none."""
    common: set[str | None] | None = None
    for part in parts:
        found = [path for path in part.iterdir() if weights.is_weights(path.name)]
        for path in found:
            weights.refuse_pickle(path)
        if not found:
            reason = "pickled weights can run code and are never read: convert them first"
            pickled = any(path.suffix in (".bin", ".ckpt", ".pt", ".pth") for path in part.iterdir())
            raise ModelError(f"The model {name} has no .safetensors weights in {part}; {reason if pickled else again}.")
        variants = {weights.variant_of(path.name) for path in found}
        common = variants if common is None else common & variants
    if common is None:
        return None
    if not common:
        raise ModelError(f"The parts of the model {name} have no variant of the weights in common; {again}.")
    return None if None in common else min(common, key=lambda one: (one != "fp16", str(one)))


def check_shards(name: str, folder: Path, variant: str | None, again: str) -> None:
    """Raises ModelError if an index of weights names files that are missing, or that are not weights of the folder.

    Libraries read what an index names. These files count in the model's digest, so they must lie in that folder and be
    of that variant.
    """
    pattern = f"*.safetensors.index.{variant}.json" if variant else "*.safetensors.index.json"
    for index in folder.glob(pattern):
        try:
            needed = set(weights.read_json(index)["weight_map"].values())
            others = [file for file in needed if not weights.is_weights(file) or weights.variant_of(file) != variant]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise ModelError(f"The model {name} is damaged: {index} is unreadable; {again}.") from None
        if others:
            raise ModelError(
                f"The model {name} is damaged: {index} names {min(others)!r:.80}, and may name only its own "
                f".safetensors weights; {again}."
            )
        if missing := sorted(file for file in needed if not paths.is_file(folder / file)):
            raise ModelError(f"The model {name} is incomplete: {folder / missing[0]} is missing; {again}.")
        for file in needed:
            weights.refuse_pickle(folder / file)
