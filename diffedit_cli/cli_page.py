"""The command that makes the report page of a folder."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from diffedit_cli import options as o
from diffedit_cli.options import takes


@takes(
    {"folder": (o.argument(Path, "A folder that diffedit run wrote into."), o.REQUIRED)},
    o.QUIET,
    o.FORCE,
)
def report(**given: Any) -> None:
    """Make a page of a run to look through in a browser, FOLDER/index.html, and say where it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from diffedit_cli import page

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = given["quiet"] or not console.is_terminal
    bars = Progress(*columns, console=console, transient=True, disable=hidden)
    with nullcontext() if hidden else bars:  # before Rich 15 bars that are disabled end in an empty line
        bar = bars.add_task("small pictures", total=None)
        target = page.write(
            given["folder"],
            force=given["force"],
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    if not given["quiet"]:
        print(target)
