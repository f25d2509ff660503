"""The command `diffedit ui`: a page to edit on, in the browser, on this machine only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffedit_cli.cli import options as o
from diffedit_cli.cli.options import takes
from diffedit_cli.errors import UsageError

OUT = "diffedit-ui"
UI = o.group_of(
    "Page",
    out=(Path, Path(OUT), "The folder for results, uploaded pictures and drawn masks, written as diffedit run does."),
)
ADDRESS = o.group_of(
    "Page",
    port=(int, 0, "The port to listen on; 0: one that is free."),
    browser=(bool, True, "Open the page in the browser."),
)
COMMANDS_OPTIONS = (o.MODEL, o.CACHE_DIR)
"""Options of the commands that the page runs, the same for all of them."""
MAX_PIXELS: o.Group = {"max_pixels": o.COMMON["max_pixels"]}
NEEDS = "The page needs Starlette and uvicorn; install them with: pip install 'diffedit-cli[ui]'."

NOT_REVIEWED = ("mask", "latents", "shard", "ray", "dry_run", "json")  # options that a review cannot have


@takes(o.argument("pictures", list[Path] | None, "Pictures to open.", None), UI, ADDRESS, *COMMANDS_OPTIONS, MAX_PIXELS)
def ui(**given: Any) -> None:
    """Open a page in the browser, on this machine only: see the mask, correct it, paint, compare.

    It does what the commands do, and shows the command line of each step.
    """
    check_library()
    from diffedit_cli.cli.ui import serving, session_folder

    folder = session_folder.SessionFolder(given["out"], given["max_pixels"])
    folder.check()
    for path in given["pictures"] or []:
        folder.open(path)
    serving.serve_editor(folder, given)


def check_library() -> None:
    """Raises UsageError if the libraries of the page are not installed."""
    import importlib.util

    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise UsageError(NEEDS)


def check_review(given: Mapping[str, Any]) -> None:
    """Raises UsageError for options that a review cannot have."""
    if "-" in given["sources"]:
        raise UsageError("--review cannot take a list on standard input; name a folder or a job file.")
    for name in NOT_REVIEWED:
        if given[name]:
            raise UsageError(f"--review shows a page to one person; leave out --{name.replace('_', '-')}.")
