"""The command `diffedit serve`: starts a server, ends all, or lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffedit_cli.cli import options as o
from diffedit_cli.cli import settings_file
from diffedit_cli.cli.console import answer, tell
from diffedit_cli.cli.options import takes

SERVE = o.group_of(
    "Serve",
    idle=(float, 600.0, "End after this many seconds without a command."),
    stop=(bool, False, "End all of your servers, each after its current command."),
    status=(bool, False, "List your servers and their states."),
)


@takes(SERVE)
def serve(**given: Any) -> None:
    """Keep the program and its model in memory, so that edit, mask and invert start at once.

    They reach it over a Unix socket that only you can use; without a server, or with DIFFEDIT_SERVE=off, they do
    the work themselves.
    """
    from diffedit_cli.cli import server_client

    if given["stop"]:
        stopped = server_client.stop_all()
        answer(f"Stopped {stopped}." if stopped else "No server is running.")
    elif given["status"]:
        states = [f"process {process or 'unknown'}: {state}" for process, state in server_client.state()]
        answer("\n".join(states) or "No server is running.", lines=True)
    else:
        seconds = settings_file.idle_seconds(given["idle"])
        from diffedit_cli.cli import server
        from diffedit_cli.cli.commands import main

        def ready(address: Path) -> None:
            tell(f"serving on {address}; end it with: diffedit serve --stop")

        server.Server(main).serve(seconds, ready)
