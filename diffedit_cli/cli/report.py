"""The command `diffedit report`: writes the report page of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer
from diffedit_cli.cli.options import takes


@takes(
    o.argument("folder", Path, "A folder that diffedit run wrote into."),
    o.QUIET,
    o.FORCE,
)
def report(**given: Any) -> None:
    """Write the report page of a run, FOLDER/index.html, for a browser, and print its path."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    from diffedit_cli.cli.progress import Bars
    from diffedit_cli.results import page
    from diffedit_cli.storage.ownership import Ownership

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True), quiet=given["quiet"]) as bars:
        bar = bars.add_task("small pictures", total=None)
        target = page.write(
            given["folder"],
            Ownership(force=given["force"]),
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    if not given["quiet"]:
        answer(str(target))
