"""The `models` commands: list, download, choose, show and save models."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer, tell
from diffedit_cli.cli.help import App
from diffedit_cli.cli.options import takes
from diffedit_cli.engine.networks.gguf_header import is_gguf
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import INTERRUPTED, ModelError, OutputError, UsageError
from diffedit_cli.models import weights
from diffedit_cli.storage import atomic, files, paths
from diffedit_cli.storage.files import amount

if TYPE_CHECKING:
    from diffedit_cli.models.folder import ModelFolder
    from diffedit_cli.models.hub import Extent
from diffedit_cli.cli.model_options import cache_root, choose_model

_TEXT = "A name from diffedit models list, or a hub id"
MODEL_ARGUMENT = o.argument("name", str, f"{_TEXT}.")
MODEL_ARGUMENT_OR_DEFAULT = o.argument("name", str | None, f"{_TEXT} (default: the one in use).", None)
PULL = o.group_of(
    "Download",
    variant=(str | None, None, "The variant of the weights, such as fp16."),
    weights=(bool, True, "Download the weights; without them, only the small files that a checkpoint file needs."),
    network_only=(bool, False, "Download only the denoising network, if you have the other parts."),
    without_network=(bool, False, "Download all but the denoising network's weights, if you have them as a file."),
    yes=(bool, False, "Download without asking."),
)

app = App(help="List, download, choose, show and save models.")


@app.command("list")
@takes(o.JSON)
def list_models(**given: Any) -> None:
    """List the models that have a name: size, licence, and which of them are on this machine.

    A gated model is downloaded only after you accept its licence on its page on the hub.
    """
    from diffedit_cli.cli import config_file
    from diffedit_cli.cli.progress import write_groups
    from diffedit_cli.models import registry, transformers_folder
    from diffedit_cli.models.names import SEGMENTERS

    default = config_file.effective("model", registry.BUILTIN)
    here = {name: registry.is_here(name) for name in registry.NAMES}
    here |= {name: transformers_folder.locate(name) is not None for name in SEGMENTERS}
    named = registry.NAMES | SEGMENTERS
    if given["json"]:
        facts = {name: dataclasses.asdict(known) for name, known in named.items()}
        answer(
            json.dumps(
                [{"name": name, "here": here[name], "default": name == default, **facts[name]} for name in named]
            )
        )
        return
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, known in named.items():
        where = ("yes" if here[name] else "no") + (", default" if name == default else "")
        row = (name, amount(known.size), known.licence, "yes" if known.gated else "no", where)
        groups.setdefault(_title(name), []).append(row)
    write_groups(("NAME", "SIZE", "LICENCE", "GATED", "HERE"), groups)
    if default not in registry.NAMES:
        answer(f"The default is {default}")


def _title(name: str) -> str:
    """Returns the heading under which a named model is listed."""
    from diffedit_cli.models.names import NAMES

    if name not in NAMES:
        return "Masks from words, for --segmenter"
    return FAMILIES[NAMES[name].family].title + (", for --painter" if NAMES[name].painter else "")


@app.command()
@takes(MODEL_ARGUMENT, PULL, o.OFFLINE)
def pull(**given: Any) -> None:
    """Download a model by name or hub id, after showing its files, size and licence."""
    from diffedit_cli.models import hub, names

    name, extent = given["name"], _extent(given)
    if (known := names.known(name)) and name != names.BUILTIN:  # known without asking the hub
        gated = ", gated" if known.gated else ""
        tell(f"{name} is {known.source}, {amount(known.size)} in all, licence {known.licence}{gated}")
    if given["offline"]:
        raise ModelError(
            f"{name} cannot be downloaded while offline; leave out --offline, or unset the variable that "
            "sets it (DIFFEDIT_OFFLINE, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."
        )
    offer = hub.offer(name, variant=given["variant"] or None, extent=extent)
    missing = offer.missing
    for file in offer.files:
        tell(f"{amount(file.size):>9}  {file.name}{'  (here)' if file.here else ''}")
    size = amount(sum(file.size for file in missing))
    tell(f"{len(missing)} files, {size} to download of {offer.repository}, licence {offer.licence}")
    if not missing:
        return
    if not given["yes"]:
        if not sys.stdin.isatty():
            raise UsageError("There is no terminal to ask whether to download this; add --yes.")
        if not typer.confirm("Download?", err=True):
            raise typer.Exit(INTERRUPTED)
    hub.download(offer, tell)


def _extent(given: dict[str, Any]) -> Extent:
    """Returns how much of a model the options ask for. Raises UsageError if they exclude each other."""
    from diffedit_cli.models.hub import Extent

    asked = {
        "--network-only": (given["network_only"], Extent.NETWORK),
        "--without-network": (given["without_network"], Extent.REST),
        "--no-weights": (not given["weights"], Extent.SETTINGS),
    }
    found = {flag: extent for flag, (is_given, extent) in asked.items() if is_given}
    if len(found) > 1:
        raise UsageError(f"{' and '.join(found)} exclude each other; give one of them.")
    return next(iter(found.values()), Extent.WHOLE)


@app.command()
@takes(MODEL_ARGUMENT, o.CONFIG, o.CACHE_DIR)
def use(**given: Any) -> None:
    """Make a model the default: write it into your settings."""
    from diffedit_cli.cli import config_file
    from diffedit_cli.models import registry

    name, config = given["name"], given["model_config"]
    registry.find(name, kept=cache_root(given), config=config, say=tell).as_model()
    name = _anywhere(name)
    # The builtin model is not named: a model that is named takes pictures that it was not trained for.
    path = config_file.change("model", None if name == registry.BUILTIN else name)
    if config:
        config_file.change("model-config", _anywhere(config))
    answer(
        f"{name} is the default again, {path} names no model"
        if name == registry.BUILTIN
        else f"model = {name} in {path}"
    )
    if (effective := config_file.effective("model", registry.BUILTIN)) != name:
        tell(f"warning: the environment overrides it: DIFFEDIT_MODEL is {effective}")


def _anywhere(name: str) -> str:
    """Returns a name for the same model that is valid in any working folder."""
    from diffedit_cli.models import registry

    path = registry.local(name)
    return name if name in registry.NAMES or path is None else str(path.absolute())


@app.command()
@takes(MODEL_ARGUMENT_OR_DEFAULT, o.CONFIG, o.PARTS, o.DISTILLED, o.ADDITIONS, o.FITTING, o.CACHE_DIR, o.JSON)
def show(**given: Any) -> None:
    """Show what a model on this machine is: family, prediction type, size, path, and the memory that an edit needs."""
    from diffedit_cli.cli import config_file
    from diffedit_cli.models import registry

    name = given["name"] or config_file.effective("model", registry.BUILTIN)
    model = choose_model({**given, "model": name}, tell)
    sizes = model.sizes()
    known = registry.NAMES.get(name)
    found: dict[str, Any] = {
        "name": name,
        "family": model.family,
        "pipeline": model.pipeline,
        "use": list(model.uses()),
        "prediction": model.prediction_type,
        "guidance": model.guidance,
        "profile": str(model.profile) if model.profile else None,
        "native-size": model.native_size,
        "licence": known.licence if known else None,
        "safety-checker": model.has_safety_checker,
        "path": str(model.path),
        "elsewhere": {part: str(place) for part, place in model.elsewhere.items()},
        "variant": model.variant,
        "digest": model.digest,
        "parts": sizes,
        "bytes": sum(sizes.values()),
        "memory": _memory(model, given),
    }
    if given["json"]:
        answer(json.dumps(found))
        return
    shown = found | {
        "use": ", ".join(model.uses()),
        "native-size": f"{found['native-size']} px",
        "safety-checker": "yes" if found["safety-checker"] else "no",
        "elsewhere": ", ".join(f"{part} {place}" for part, place in model.elsewhere.items()) or None,
        "parts": ", ".join(f"{part} {amount(size)}" for part, size in sizes.items()),
        "bytes": amount(sum(sizes.values())),
        "memory": _described(found["memory"]),
    }
    for key, value in shown.items():
        if value is not None:
            answer(f"{key}: {value}")


def _memory(model: ModelFolder, given: dict[str, Any]) -> dict[str, Any]:
    """Returns what memory an edit needs, and what the device has."""
    from diffedit_cli.models import memory_needed, runtimes
    from diffedit_cli.models.memory import OffloadOptions, format_on, number_format

    device = memory_needed.usual_device() if given["device"] == "auto" else given["device"]
    dtype = number_format("--dtype", given["dtype"])
    if device != "cpu" or dtype == "bfloat16":
        from diffedit_cli.models import devices  # which imports PyTorch

        device = devices.choose_device(device)
        dtype, _ = devices.format_in_use(model, device, dtype, given["quantize"])
    dtype = format_on(device, dtype, model.format.half)
    options = OffloadOptions(offload=given["offload"], quantize=given["quantize"], runtime=given["runtime"])
    options = runtimes.chosen(model, device, dtype, options)
    memory_needed.refuse_quantised_files(model, options)
    need = memory_needed.needed(model, device, dtype, options)
    return {
        "device": device,
        "dtype": dtype,
        "quantize": options.quantize,
        "offload": options.offload,
        "runtime": options.runtime,
        "weights": need.weights,
        "computing": need.computing,
        "needed": need.total,
        "free": memory_needed.free(device)[0],
    }


def _described(memory: dict[str, Any]) -> str:
    kind = "" if memory["quantize"] == "none" else f", --quantize {memory['quantize']}"
    kind += "" if memory["offload"] == "none" else f", --offload {memory['offload']}"
    kind += f", --runtime {memory['runtime']}" if memory["runtime"] != "torch" else ""
    weights = ", ".join(f"{part} {amount(size)}" for part, size in memory["weights"].items())
    return (
        f"about {amount(memory['needed'])} in {memory['dtype']}{kind}: {weights}, computing "
        f"{amount(memory['computing'])}; {memory['device']} has {amount(memory['free'])} free"
    )


@app.command()
@takes(
    o.argument("folder", Path, "The folder to create."),
    o.MODEL_NAME, o.CONFIG, o.PARTS, o.ADDITIONS, o.CACHE_DIR, o.FORCE,
)  # fmt: skip
def save(**given: Any) -> None:
    """Write the chosen model, with its LoRAs and embeddings included, as one folder in diffusers' format."""
    folder: Path = given["folder"]
    with atomic.exclusive_lock(folder.parent):  # while another process replaces the folder, it briefly has another name
        _check_folder(folder, given["force"])
    model = choose_model(given, tell)
    if quantised := [path for path in model.elsewhere.values() if is_gguf(path)]:
        raise ModelError(f"{quantised[0]} is a .gguf file, which cannot be saved as a folder; use the file itself.")
    with atomic.exclusive_lock(folder.parent):
        if paths.is_there(folder) and folder.samefile(model.path):
            raise OutputError(f"{folder} is the model itself; name another folder.")
        added = [*(one.file for one in model.loras), *(one.file for one in model.embeddings)]
        read = [Path(given["model"] or ""), *model.files(), *added]
        if inside := [path for path in read if files.resolve(folder) in files.resolve(path).parents]:
            raise OutputError(f"{folder} holds {inside[0]}, which is an input; name another folder.")
    model.save(
        folder,
        finish=lambda copy: _add(model, copy) if model.loras or model.embeddings or model.elsewhere else None,
        check=lambda: _check_folder(folder, given["force"]),
    )
    answer(str(folder))


def _add(model: ModelFolder, copy: Path) -> None:
    """Writes what its LoRAs and textual inversions change, and what is elsewhere, into its copy. Raises ModelError."""
    from diffedit_cli.engine.networks import families

    with weights.writing():
        families.write_changed(
            model.path, model.name, model.variant, **model.additions, target=copy, elsewhere=model.elsewhere
        )


def _check_folder(folder: Path, force: bool) -> None:
    """Raises OutputError unless the folder is new, empty, or a saved model that may be replaced.

    The same holds for the name that a folder has while it is replaced: a killed process leaves it under that name.
    """
    _check_one(folder, force)
    between = folder.with_name(folder.name + files.REPLACED)
    if not (_is_empty(between) or (force and _is_saved(between))):
        raise OutputError(f"{between} is in the way, perhaps left of {folder} by a killed command; move it away.")


def _check_one(folder: Path, force: bool) -> None:
    if paths.is_link(folder) or (paths.is_there(folder) and not paths.is_folder(folder)):
        raise OutputError(f"{folder} is a file or a link; name a new folder.")
    if _is_empty(folder):
        return
    if not force and paths.is_file(folder / "model_index.json"):
        raise OutputError(f"{folder} exists; name a new folder, or add --force.")
    if not _is_saved(folder):
        raise OutputError(f"{folder} holds something other than a saved model; name a new folder.")


def _is_saved(folder: Path) -> bool:
    """Returns whether a folder holds what `models save` writes, and nothing else."""
    from diffedit_cli.models.folder import not_of_a_model

    return paths.is_file(folder / "model_index.json") and not not_of_a_model(folder)


def _is_empty(folder: Path) -> bool:
    """Returns whether the folder does not exist or is empty. Raises OutputError if it cannot be read."""
    try:
        return not os.path.lexists(folder) or not any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be read: {error.strerror}; name a new folder.") from error
