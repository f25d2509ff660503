"""Entry point of the command-line program: `diffedit`, or `python -m diffedit_cli`."""

from __future__ import annotations

import os
import signal
import sys

from diffedit_cli.cli.console import HELP, HELP_ALL, tell
from diffedit_cli.errors import INTERRUPTED, INTERRUPTION

TRUE = {"1", "ON", "YES", "TRUE"}  # values that huggingface_hub reads as true


def main() -> None:
    """Runs the command line and exits the process with its exit code."""
    from diffedit_cli.engine.networks import fast_imports
    from diffedit_cli.jobs import interrupts
    from diffedit_cli.storage import paths, streams

    fast_imports.alone = True
    streams.prepare()
    interrupts.install()
    # Set before any library reads them: no telemetry, progress bars or log messages.
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    if {os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} & TRUE:
        os.environ.setdefault("DIFFEDIT_OFFLINE", "1")
    if os.path.expanduser("~") == "~" and not os.environ.get("XDG_CACHE_HOME"):  # noqa: PTH111
        os.environ.setdefault("HF_HOME", str(paths.NOWHERE))  # huggingface_hub would create a folder named ~ here
    os.environ["HF_HUB_OFFLINE"] = "1"  # only models pull lifts this, unless the user asked for offline

    try:
        code = None
        if not {*HELP, HELP_ALL} & set(sys.argv):  # help needs no server, nor what a client of it imports
            from diffedit_cli.cli import server_client

            code = server_client.hand_over(sys.argv[1:])
        if code is None:
            from diffedit_cli.cli.commands import main as command_line

            code = command_line()
        _end_in_peace()
    except KeyboardInterrupt:  # while the program's own modules are being imported
        _end_in_peace()
        tell(f"diffedit: {INTERRUPTION}")
        code = INTERRUPTED
    _leave(code)


def _end_in_peace() -> None:
    """Ignores Ctrl-C from here on: during Python's shutdown it would only hide the exit code of a finished command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(code: int) -> None:
    """Ends the process, with os._exit if torch is loaded, because its regular teardown takes as long as an edit.

    With torch, exit functions run first, and a live non-daemon thread keeps the regular exit. If a standard stream
    cannot be flushed, the process always ends with os._exit.
    """
    import atexit
    import threading  # not at the top of the module: Ctrl-C is handled only inside main()

    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    at_once = "torch" in sys.modules and not others
    if at_once:
        atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            print(end="", flush=True, file=stream)
    except (OSError, ValueError):  # full or closed, as reported: Python would flush again and complain
        at_once = True
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
