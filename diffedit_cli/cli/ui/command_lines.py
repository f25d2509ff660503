"""Turns the settings of the page's controls into the words of a command line, and describes the controls."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffedit_cli.cli import config_file
from diffedit_cli.cli import options as o
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.parameter import flag, parameters
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.presets import BALANCED, PRESETS

LONGEST = 2000  # characters of a value
KINDS = {bool: "switch", int: "integer", float: "number", str: "text"}
_OF_MASKS = (o.PROMPTS, o.TEXT, o.MASK, o.ZOOM, o.SEED, o.GUIDANCE, o.PRESET, o.STEPS)
_OF_EDITS = (*_OF_MASKS, o.EDIT, o.INVERSION)
_MODELS = {"expand_model", "caption_model", "segmenter", "painter", "instruction"}  # what they name is not opened here
FIRST = ("from", "to", "negative")
BESIDE = ("box", "point", "preset", "model", "lora")
"""Controls that are not parameters of the method."""


def _controls(groups: Iterable[o.Group]) -> set[str]:
    """Returns the options of these groups that are parameters of the method, by their long names without dashes."""
    named = {name for group in groups for name in group} & set(Params.__dataclass_fields__) - _MODELS
    return {flag(name).removeprefix("--") for name in named}


CONTROLS = {"mask": _controls(_OF_MASKS) | {*BESIDE}, "edit": _controls(_OF_EDITS) | {*BESIDE}}
"""Command -> the options that the page may give it, besides files."""
SWITCHES = {
    flag(name).removeprefix("--"): bool(getattr(o.DEFAULTS, name))
    for name, field in Params.__dataclass_fields__.items()
    if str(field.type) == "bool"
}
"""Options without a value -> their default."""


def described() -> list[dict[str, Any]]:
    """Returns each control as the page needs it: name, kind, default, choices, range and help."""
    found: list[dict[str, Any]] = [
        {"name": "preset", "kind": "choice", "default": config_file.effective("preset", BALANCED),
         "choices": list(PRESETS), "help": "Quality and speed."},
    ]  # fmt: skip
    for name, said in parameters(Params).items():
        option = flag(name).removeprefix("--")
        if option not in CONTROLS["edit"]:
            continue
        default = _default(option, getattr(o.DEFAULTS, name))
        kind = "choice" if said.choices else KINDS[_kind(name)]
        limits = {} if said.range is None else {"least": said.range.least, "most": _finite(said.range.most)}
        found.append({"name": option, "kind": kind, "default": default, "help": said.help, **limits,
                      "choices": list(said.choices) or list(said.words) or None})  # fmt: skip
    return found


def _kind(name: str) -> type:
    """Returns the type of a parameter's values: bool, int, float or str."""
    named = str(Params.__dataclass_fields__[name].type)
    return next((kind for kind in (bool, int, float) if kind.__name__ in named), str)


def _finite(value: float) -> float | None:
    return value if value < 1e9 else None


def _default(option: str, value: Any) -> Any:
    """Returns the default of an option as the user's settings and the environment have it."""
    text = config_file.effective(option, "")
    if not text:
        return str(value) if value is not None and dataclasses.is_dataclass(value) else value
    try:
        return json.loads(text.lower()) if not isinstance(value, str) else text
    except ValueError:
        return text


def words(command: str, settings: Mapping[str, Any]) -> list[str]:
    """Returns the options of a command line for the settings of the page; those that the command lacks are left out.

    Raises UsageError for a setting that the page does not have, or a value of a wrong type.
    """
    found = []
    for name, value in settings.items():
        if name not in CONTROLS["edit"]:
            raise UsageError(f"{name[:80]} is not a setting of this page.")
        values = value if isinstance(value, list) else [value]
        if name != "lora" and isinstance(value, list):
            raise UsageError(f"{name} takes a single value.")
        for one in values:
            said = _said(name, one)
            found += said if name in CONTROLS[command] else []
    return found


def _said(name: str, value: Any) -> list[str]:
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is on or off.")
        return [f"--{name}" if value else f"--no-{name}"] if value != SWITCHES[name] else []
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{name} takes a text or a number.")
    text = repr(value) if isinstance(value, float) else str(value)
    if len(text) > LONGEST or "\0" in text:
        raise UsageError(f"{name} takes at most {LONGEST} characters, and no zero byte.")
    return option(name, text)


def option(name: str, text: str | Path) -> list[str]:
    """Returns an option with its value, in one word if the value could be taken for an option."""
    said = str(text)
    return [f"--{name}={said}"] if said.startswith("-") or not said else [f"--{name}", said]


def of_row(name: str, value: Any) -> list[str]:
    """Returns the option of `diffedit mask` for a cell of a job file; nothing for an option that a mask has not."""
    if name in SWITCHES:
        return [f"--{name}"] if str(value).lower() in ("true", "yes", "1") else []
    return option(name, str(value)) if name in CONTROLS["mask"] | {"within", "exclude"} else []


def argument(path: Path) -> str:
    """Returns a path as an argument that cannot be taken for an option or for standard input."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def line(said: Sequence[str]) -> str:
    """Returns a command line for a shell."""
    return shlex.join(["diffedit", *said])


def model_words(given: Mapping[str, Any], groups: Iterable[o.Group]) -> dict[str, list[str]]:
    """Returns, by long name, the options of `groups` that this command line sets to other than their defaults.

    Those that the environment sets are left out: the commands of the page, and those that are copied, have it too.
    """
    found: dict[str, list[str]] = {}
    for name, (_, default) in ((name, one) for group in groups for name, one in group.items()):
        value, long = given[name], flag(name).removeprefix("--")
        said = os.environ.get(config_file.variable(long))
        if value in (default, None, []) or said == str(value) or (said and isinstance(value, bool)):
            continue
        if isinstance(value, bool):
            found[long] = [f"--{long}" if value else f"--no-{long}"]
        else:
            values = value if isinstance(value, list | tuple) else [value]
            found[long] = [word for one in values for word in option(long, str(one))]
    return found
