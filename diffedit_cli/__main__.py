"""The program: `diffedit`, or `python -m diffedit_cli`."""

from __future__ import annotations

import os
import signal
import sys

from diffedit_cli.cli.console import tell
from diffedit_cli.errors import INTERRUPTED, INTERRUPTION

TRUE = {"1", "ON", "YES", "TRUE"}  # for the hub's library


def main() -> None:
    """Runs the command line and exits with the contract's codes."""
    from diffedit_cli.jobs import interrupts
    from diffedit_cli.storage import paths, streams

    streams.prepare()
    interrupts.heed()
    # Set before any library reads them: no telemetry, no chatter.
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
        os.environ.setdefault("HF_HOME", str(paths.NOWHERE))  # the hub's library would make a folder ~ in this one
    os.environ["HF_HUB_OFFLINE"] = "1"  # models pull alone lifts this, unless the user had said offline

    try:
        from diffedit_cli.cli import server_client

        code = server_client.hand_over(sys.argv[1:])
        if code is None:
            from diffedit_cli.cli.commands import main as command_line

            code = command_line()
        _end_in_peace()
    except KeyboardInterrupt:  # while the program itself is being read
        _end_in_peace()
        tell(f"diffedit: {INTERRUPTION}")
        code = INTERRUPTED
    _leave(code)


def _end_in_peace() -> None:
    """What is done is done: Ctrl-C while Python tidies up would only hide how the command ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(code: int) -> None:
    """Ends the process, at once where torch was loaded: Python would take it apart for as long as an edit takes.

    Exit functions have run then, and no thread is left that could have anything to do.
    """
    import atexit
    import threading  # not before Ctrl-C is waited for, above

    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    at_once = "torch" in sys.modules and not others
    if at_once:
        atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            print(end="", flush=True, file=stream)
    except (OSError, ValueError):  # full, or closed, which was said: Python would try again, and complain
        at_once = True
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
