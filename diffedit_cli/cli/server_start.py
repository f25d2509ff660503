"""Leaves a server behind a command, for `--serve auto`: detached, with nothing of the command's terminal or secrets."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from diffedit_cli.cli import config_file, server_client
from diffedit_cli.cli.settings_file import AUTO, idle_seconds

IDLE = "600"  # seconds, the default of `diffedit serve`
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); sys.path[:0] = {sys.argv.pop(1)} - {*sys.path}; "
    "from diffedit_cli.__main__ import main; main()"
)
"""Runs diffedit from where this package is; the working folder, which may be anybody's, is not on the path."""


def program(*words: str) -> list[str]:
    """Returns the command line of a process that runs diffedit with these words."""
    return [sys.executable, "-c", _PROGRAM, str(Path(__file__).parent.parent.parent), *words]


def leave_behind(serve: str, say: Callable[[str], object]) -> None:
    """Starts a server if `serve`, the value of --serve, is auto and none runs; calls `say` with a line about it.

    Does nothing in a server, where none can run, where no model was loaded, and where CI is set unless --serve or
    DIFFEDIT_SERVE asks for one. Of several that are started at the same time, all but one end at once.
    """
    from diffedit_cli.models.loader import LOADER

    begun = server_client.beginning
    asked = "DIFFEDIT_SERVE" in os.environ or any(word.partition("=")[0] == "--serve" for word in sys.argv)
    if serve != AUTO or begun is None or not LOADER.has_loaded or (os.environ.get("CI") and not asked):
        return
    if _runs(begun.address):
        return
    seconds = idle()
    with contextlib.suppress(OSError):  # no memory or process is left for it
        subprocess.Popen(
            program("serve", "--idle", f"{seconds:g}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(sys.executable).anchor,
            env=begun.environment,
            start_new_session=True,
        )
        time = f"{seconds / 60:g} minutes" if seconds > 60 else f"{seconds:g} seconds"
        say(f"diffedit gets ready for the next commands, and stays so for {time}; end it: diffedit serve --stop")


def idle() -> float:
    """Returns the seconds after which the server ends if it is idle. Raises UsageError if they are set wrongly."""
    return idle_seconds(config_file.effective("idle", IDLE))


def _runs(address: Path) -> bool:
    """Whether a server is there, even if it is busy, or none can be there, in a folder that others may enter."""
    try:
        with server_client.connect(address):
            return True
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True
