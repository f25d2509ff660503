"""Settings files, read without the declarations of the options, which take long to import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from diffedit_cli.errors import UsageError
from diffedit_cli.storage import paths

FILE_NAME = "diffedit.toml"
LARGEST = 2**20  # bytes of a settings file, at most
MOST_IDLE = 10**8  # seconds
ON, AUTO, OFF = "on", "auto", "off"  # values of --serve
_OTHER_WORDS = {**dict.fromkeys(("1", "yes", "true"), ON), **dict.fromkeys(("0", "no", "false"), OFF)}


def users_file() -> Path:
    return paths.of_user("config") / FILE_NAME


def plain_serve(value: str) -> str:
    """Returns a value of --serve as ON, AUTO or OFF; any other in lower case."""
    return _OTHER_WORDS.get(value.lower(), value.lower())


def idle_seconds(value: object) -> float:
    """Returns after how many seconds an idle server ends. Raises UsageError unless above 0 and at most MOST_IDLE."""
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST_IDLE:
        raise UsageError(f"--idle must be above 0 seconds and at most {MOST_IDLE}, not {value}.")
    return seconds


def read(path: Path) -> dict[str, Any]:
    """Returns the settings of one file, none if it does not exist. Raises OSError, ValueError or RecursionError."""
    if not paths.is_file(path):
        return {}
    if path.stat().st_size > LARGEST:
        raise ValueError("it is too large")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(paths.read(path).decode("utf-8-sig"))
