"""Turns a command line into what its jobs share: parameters, files, the models and the pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli.cli import config_file, job_columns, model_options, server_start
from diffedit_cli.cli import options as o
from diffedit_cli.errors import DiffEditError, UsageError
from diffedit_cli.jobs import output_names
from diffedit_cli.pipeline import mask_expression, prompts, vocabulary
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import PROMPTS, Params
from diffedit_cli.storage import files, paths

if TYPE_CHECKING:
    from diffedit_cli.cli.progress import Reporter
    from diffedit_cli.jobs.rows import Row
    from diffedit_cli.models.folder import ModelFolder
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline

PARTS_OF_MODELS = (".json", ".txt", ".safetensors", ".model", ".yaml")  # suffixes of the files read from a model folder
PER_PICTURE = (
    "force", "metadata", "strip_metadata", "max_pixels", "within", "exclude", "box", "point", "mask", "latents",
    "frames", "save_embeds", "mask_output", *o.SHOWN,
)  # fmt: skip
MOST_DIGITS = 9  # of a count, such as that of --batch
GIVEN_FILES = ("mask", "latents", "within", "exclude")
"""Options for a file of each picture, if their value is a template such as masks/{stem}.png."""
OF_A_PICTURE = (
    o.PROMPTS, o.TEXT, o.STAGES, {name: one for name, one in o.EDIT.items() if name not in o.PAINTER},
    o.MASK, o.ZOOM, o.SEED, o.INVERSION, o.STEPS, o.METADATA,
)  # fmt: skip
_MEANING = {"from_": "is in the picture now", "to": "it should become"}


def shared_options(given: dict[str, Any], needs: Iterable[str]) -> dict[str, Any]:
    """Returns the keyword arguments of Job that all jobs of a command line share; `needs` names the required prompts.

    Raises UsageError for options that contradict each other or are out of range, InputError for unreadable prompt
    embeddings.
    """
    if given.get("painter") and (given.get("latents") or given.get("frames")):
        raise UsageError("--painter paints without an inversion; leave out --latents and --frames.")
    if given.get("instruction") and not given.get("painter"):
        raise UsageError("--instruction tells the model of --painter what to do; name one, or leave it out.")
    if given["max_pixels"] < 1:
        raise UsageError(f"--max-pixels {given['max_pixels']} is not a number of pixels; give 1 or more.")
    given = {**given, **prompts.choose_prompts(given, PROMPTS)}
    if given.get("strip_metadata"):
        given["metadata"] = False  # which holds the prompts
    for name in needs:
        if isinstance(given[name], str) and not given[name].strip():
            flag = f"--{name.rstrip('_')}"
            raise UsageError(f"{flag} is missing or empty; say in words what {_MEANING[name]}, or give {flag}-embeds.")
    if "zoom" in given:
        from diffedit_cli.pipeline import mask_limits

        if given.get("frames"):
            if given["zoom"] not in (AUTO, 1):
                raise UsageError("--frames shows the inversion of the whole picture; leave out --zoom.")
            given["zoom"] = 1.0
        given["box"] = mask_limits.parse_numbers("--box", given["box"], "X", "Y", "WIDTH", "HEIGHT")
        given["point"] = mask_limits.parse_numbers("--point", given["point"], "X", "Y")
    params = Params(**{name: given[name] for name in Params.__dataclass_fields__ if name in given})
    if "from_" in needs:
        vocabulary.check_different(params)
    return {"params": params} | {name: given[name] for name in PER_PICTURE if name in given}


def files_read_by(given: dict[str, Any]) -> Callable[[Row], list[Path]]:
    """Returns a function that lists the files read for a row, as far as their names are known before work begins.

    The list includes the files that --mask, --latents, --within and --exclude name by a template.
    """
    templates = _templates(given)

    def of(row: Row) -> list[Path]:
        found = row.reads
        with contextlib.suppress(DiffEditError):  # the row fails with it later
            found += [output_names.input_path(template, f"--{name}", row.place) for name, template in templates.items()]
        return found

    return of


def _templates(given: dict[str, Any]) -> dict[str, Path]:
    """Returns the options whose value is a template for a file of each picture, such as masks/{stem}.png."""
    return {name: given[name] for name in GIVEN_FILES if given.get(name) and "{" in str(given[name])}


def row_options(given: dict[str, Any]) -> Callable[[Row], dict[str, Any]]:
    """Returns a function that gives the keyword arguments of a row's Job, except for its input and output.

    Options of the row replace those of the command line. The function raises what `shared_options` raises, and
    UsageError for an option that a row cannot have.
    """
    templates = _templates(given)
    common = functools.cache(lambda: shared_options(given, needs=required_prompts(given)))

    def of(row: Row) -> dict[str, Any]:
        own: dict[str, Any] = {
            name: output_names.input_path(template, f"--{name}", row.place) for name, template in templates.items()
        }
        own |= dict(
            job_columns.convert_column(OF_A_PICTURE, flag, value)
            for flag, value in row.given.items()
            if flag != "output"
        )
        return shared_options({**given, **own}, required_prompts(given | own)) if own else common()

    return of


def compared_prompts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the prompts that are required to find a mask: none if no prompts are compared for it."""
    with contextlib.suppress(UsageError):  # which Params raises as well, where it is reported
        return ("from_", "to") if mask_expression.compares(given["mask_method"], given["segment"]) else ()
    return ()


def required_prompts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the prompts that an edit requires: to paint, and to find a mask that is not given."""
    compared = compared_prompts(given)
    if compared and not (given.get("mask") and not mask_expression.draws(given["mask_method"])):
        return compared
    return () if given.get("instruction") else ("to",)


class Session:
    """The models of a command line: located at construction, loaded when the first picture is ready for them."""

    def __init__(self, given: dict[str, Any], reporter: Reporter) -> None:
        """Locates the models. Raises ModelError, DeviceError or UsageError."""
        from diffedit_cli.models import registry
        from diffedit_cli.models.memory import OffloadOptions, number_format

        given = {**given, "dtype": number_format("--dtype", given["dtype"])}
        if given["device"] not in (AUTO, "cpu") and not given.get("ray"):  # workers of Ray may be on other machines
            from diffedit_cli.models import devices

            devices.choose_devices(given["device"])
        if given.get("serve") == AUTO:
            server_start.idle()
        self._given, self._reporter = given, reporter
        self._memory = OffloadOptions(**{field.name: given[field.name] for field in dataclasses.fields(OffloadOptions)})
        if given["offline"]:
            os.environ["HF_HUB_OFFLINE"] = "1"  # as __main__ does, for processes that do not start there
        self.folder: ModelFolder = model_options.choose_model(given, reporter.say).as_model()
        self._root, painter = model_options.cache_root(given), given.get("painter")
        config = given["model_config"]
        self.inpainter = None
        if painter:
            found = registry.find_painter(painter, self._root, config, reporter.say)
            self.inpainter = found.as_distilled(given["distilled"])

    @property
    def model_files(self) -> list[Path]:
        """Files that the models are read from."""
        return [file for folder in (self.folder, self.inpainter) if folder for file in folder.files()]

    @functools.cached_property
    def files(self) -> list[Path]:
        """All files read besides the pictures: settings, models, adapters, and configuration files beside these.

        For a converted checkpoint, this is the checkpoint itself and not its copy in the cache.
        """
        from diffedit_cli.engine.networks.model_formats import adapter_settings
        from diffedit_cli.models import predictions, transformers_folder
        from diffedit_cli.storage.cache_folder import MODELS

        added = [*(one.file for one in self.folder.loras), *(one.file for one in self.folder.embeddings)]
        options = ("model", "painter", "model_config", "vae", "caption_model", "expand_model")
        segmenters = transformers_folder.joined(self._given.get("segmenter") or "")
        names = (*map(self._given.get, options), *self._given["text_encoder"], *segmenters)
        named = [Path(name) for name in names if name]
        inside = [
            file
            for folder in named
            if paths.is_folder(folder)
            for file in (*folder.glob("*"), *folder.glob("*/*"))
            if file.suffix in PARTS_OF_MODELS
        ]
        beside = [adapter_settings(file) for file in added]
        beside += [yaml for file in named if paths.is_file(yaml := predictions.yaml_of(file))]
        settings = [path for path in config_file.read_from() if paths.is_file(path)]
        found = [*self.model_files, *added, *named, *inside, *filter(None, beside), *settings]
        converted = files.resolve(self._root) / MODELS
        return [path for path in dict.fromkeys(found) if converted not in files.resolve(path).parents]

    def check_words(self, params: Params, stages: Iterable[str]) -> None:
        """Raises ModelError for a prompt word that the model does not know, before the model is loaded."""
        vocabulary.check(params, self.folder, ("mask",) * ("mask" in stages) if self.inpainter else stages)

    def about(self, params: Params) -> dict[str, Any]:
        """Returns the models and settings that a result with these parameters depends on; part of its identity."""
        from diffedit_cli.pipeline import extra_models

        found = {option: self._extra_digest(option, name) for option, name in extra_models.used(params).items()}
        return self._about | ({"extra-models": found} if found else {})

    @functools.cached_property
    def _extra_digest(self) -> Callable[[str, str], str | None]:
        from diffedit_cli.pipeline import extra_models

        return functools.cache(functools.partial(extra_models.digest, memo=self.folder.memo))

    @functools.cached_property
    def _about(self) -> dict[str, Any]:
        return {
            "model": self.folder.digest,
            "own": {**self.folder.defaults, "evidence": self.folder.evidence},
            "inpainter": self.inpainter.digest if self.inpainter else None,
            "dtype": self._given["dtype"],
            "safety": self._given.get("safety"),
            **self._memory.record(),
        }

    @functools.cached_property
    def _pipeline(self) -> EditPipeline:
        return self.on(self._given["device"])

    def on(self, device: str) -> EditPipeline:
        """Returns a new pipeline on a device, whose model is loaded at its first edit."""
        from diffedit_cli.engine.networks import fast_imports
        from diffedit_cli.storage.cache import Cache

        given = self._given
        cache = Cache(self._root) if given["cache"] else None
        if cache:
            cache.trim()
        self._reporter.loading(self.folder.name)
        with fast_imports.without_garbage():
            from diffedit_cli.pipeline.edit_pipeline import EditPipeline

            fast_imports.keep_libraries()
        return EditPipeline(
            self.folder,
            cache,
            progress=self._reporter.progress,
            device=device,
            dtype=given["dtype"],
            memory=self._memory,
            any_picture=given["model"] is not None,
            safety=given.get("safety", True),
            inpainter=self.inpainter,
        )

    def open(self) -> EditPipeline:
        """Returns the pipeline, which is created on the first call."""
        return self._pipeline

    def leave_server(self) -> None:
        """Leaves a server behind with --serve auto, if this command has loaded a model."""
        if "_pipeline" in vars(self):
            server_start.leave_behind(self._given["serve"], self._reporter.say)

    @functools.cached_property
    def devices(self) -> list[str]:
        """The devices of a run: those of a list, and with `auto` every GPU, unless processes share the run."""
        from diffedit_cli.jobs import sharding
        from diffedit_cli.models import memory_needed

        shared = sharding.choose_shard(self._given["shard"]).count > 1
        if self._given["device"] == AUTO and (shared or memory_needed.usual_device() == "cpu"):
            return [AUTO]  # without importing PyTorch
        from diffedit_cli.models import devices

        return devices.choose_devices(self._given["device"])

    @functools.cached_property
    def share(self) -> Callable[[Row], dict[str, Any]]:
        """The function of `row_options` for this command line."""
        return row_options(self._given)

    def trace(self, text: str) -> None:
        """Reports the traceback of a bug in diffedit."""
        self._reporter.trace(text)


def quiet_session(given: dict[str, Any]) -> Session:
    """Returns a session for a worker of a run, which does not report results itself."""
    from diffedit_cli.cli.progress import Reporter

    return Session(given, Reporter(quiet=True))


def parse_count(option: str, text: str, what: str) -> int | None:
    """Returns a count of at least 1, or None for `auto`, where diffedit chooses.

    `what` names the counted things in the message of the UsageError for any other text.
    """
    if text == AUTO:
        return None
    if not (text.isdecimal() and len(text) <= MOST_DIGITS and int(text) >= 1):
        raise UsageError(f"{option} {text} is not a number of {what}; give 1 or more, or {AUTO}.")
    return int(text)
