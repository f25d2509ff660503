"""The command that says which settings count, and where each comes from."""

from __future__ import annotations

from typing import Any

from diffedit_cli.cli import config_file
from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer
from diffedit_cli.cli.options import takes


@takes(o.JSON)
def config(**given: Any) -> None:
    """Show where settings are read from, and what they set; of two the lower one counts."""
    import json

    from diffedit_cli.cli.progress import write_table

    layers = config_file.layers()
    if given["json"]:
        answer(json.dumps([{"from": layer.where, "there": layer.there, "sets": layer.values} for layer in layers]))
        return
    for layer in layers:
        answer(f"{layer.where}{'' if layer.there else ' (not there)'}")
    set_ = [(name, _shown(value), layer.where) for layer in layers for name, value in layer.values.items()]
    if set_:
        answer("")
        write_table(("SETTING", "VALUE", "FROM"), sorted(set_, key=lambda row: row[0]))


def _shown(value: Any) -> str:
    return (
        ", ".join(value) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
    )
