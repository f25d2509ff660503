"""The `cache` commands: list, prune and clear the entries of the cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from diffedit_cli.cli import model_options
from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer
from diffedit_cli.cli.help import App
from diffedit_cli.cli.options import takes
from diffedit_cli.errors import UsageError

if TYPE_CHECKING:
    from diffedit_cli.storage.cache import Cache

KEEP = o.group_of("Output", keep=(float, 1000.0, "How many MB to keep."))

app = App(help="List, prune or clear the cache of maps, inversions and edits.")


@app.command("list")
@takes(o.CACHE_DIR)
def cache_list(**given: Any) -> None:
    """List the cache entries, least recently used first."""
    from datetime import datetime

    from diffedit_cli.cli.progress import write_table
    from diffedit_cli.storage import paths

    cache = _cache(given)
    entries = cache.entries()
    rows = [
        (entry.kind, str(entry.size), f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}", entry.path.stem[:16])
        for entry in entries
    ]
    write_table(("KIND", "BYTES", "USED", "KEY"), rows)
    answer(
        f"{len(entries)} entries, {sum(entry.size for entry in entries) / 1e6:.1f} MB in {paths.shown_path(cache.root)}"
    )


@app.command("prune")
@takes(KEEP, o.CACHE_DIR)
def cache_prune(**given: Any) -> None:
    """Remove the least recently used entries until at most --keep MB are left."""
    if not 0 <= given["keep"] < math.inf:
        raise UsageError(f"--keep must be 0 or more megabytes, not {given['keep']:g}.")
    _prune(_cache(given), int(given["keep"]) * 10**6 + round(given["keep"] % 1 * 1e6))


@app.command("clear")
@takes(o.CACHE_DIR)
def cache_clear(**given: Any) -> None:
    """Remove all cache entries."""
    _prune(_cache(given), 0)


def _cache(given: dict[str, Any]) -> Cache:
    """Returns the cache of this command line. Raises UsageError if its path is not a folder."""
    from diffedit_cli.storage import paths
    from diffedit_cli.storage.cache import Cache

    folder = model_options.cache_root(given)
    if paths.is_there(folder) and not paths.is_folder(folder):
        raise UsageError(f"The cache folder {paths.shown_path(folder)} is not a folder; choose one with --cache-dir.")
    return Cache(folder)


def _prune(cache: Cache, keep_bytes: int) -> None:
    removed = cache.prune(keep_bytes)
    answer(f"removed {len(removed)} entries, {sum(entry.size for entry in removed) / 1e6:.1f} MB")
