"""The program: `diffedit`, or `python -m diffedit_cli`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and exits with the contract's codes."""
    # Set before any library reads them: no telemetry, no chatter, and nothing is fetched that was not asked for.
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)

    from diffedit_cli.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
