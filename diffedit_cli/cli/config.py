"""The command `diffedit config`: shows where settings are read from, and what each source sets."""

from __future__ import annotations

from typing import Any

import typer

from diffedit_cli.cli import config_file
from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer
from diffedit_cli.cli.options import takes
from diffedit_cli.errors import DiffEditError, UsageError
from diffedit_cli.pipeline.params import Params


@takes({"context": (typer.Context, o.REQUIRED)}, o.JSON)
def config(**given: Any) -> None:
    """Show the sources of settings and their values; a lower source overrides those above it."""
    import json

    from diffedit_cli.cli.progress import write_table

    layers = config_file.layers()
    if given["json"]:
        answer(json.dumps([{"from": layer.where, "there": layer.there, "sets": layer.values} for layer in layers]))
    else:
        for layer in layers:
            answer(f"{layer.where}{'' if layer.there else ' (does not exist)'}")
        set_ = [(name, _shown(value), layer.where) for layer in layers for name, value in layer.values.items()]
        if set_:
            answer("")
            write_table(("SETTING", "VALUE", "FROM"), sorted(set_, key=lambda row: row[0]))
    for layer in layers:
        for name, value in layer.values.items():
            if flaw := _flaw(given["context"], name, value):
                raise UsageError(f"{name} = {_shown(value)} in {layer.where} cannot be used: {flaw}")


def _flaw(context: typer.Context, name: str, value: Any) -> str:
    """Returns why the option cannot have this value, or an empty string. Lists and files are not checked."""
    parameter = context.obj[name]
    if parameter.multiple:
        return ""
    try:
        taken = parameter.process_value(context, value)
        if parameter.name in Params.__dataclass_fields__:
            Params(**{parameter.name: taken})
    except typer.BadParameter as error:
        return str(error.message)
    except DiffEditError as error:
        return str(error)
    return ""


def _shown(value: Any) -> str:
    return (
        ", ".join(value) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
    )
