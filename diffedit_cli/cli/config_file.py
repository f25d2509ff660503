"""`diffedit.toml`: options from the working folder's file, then from the user's.

A working folder may be a stranger's download: its file says how a picture is edited, and nothing else.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.cli import options
from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.storage import files, paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "diffedit.toml"
OTHER_VARIABLES = {"DIFFEDIT_SERVE", "DIFFEDIT_TRAINING_DIR"}  # no options
LARGEST = 2**20  # bytes of a file
_COUNTS = ("maps", "variants", "reg-steps", "auto-corr-rolls", "fixed-point", "expand")
MOST = {"steps": 1000, **dict.fromkeys(_COUNTS, 100)}
"""What a folder's file may say of what multiplies work: more than anyone uses, and less than takes all memory."""


def users_file() -> Path:
    return paths.of_user("config") / FILE_NAME


def read_from() -> tuple[Path, Path]:
    """The files that settings come from, whether they are there or not, those that count more later."""
    return users_file(), Path(FILE_NAME)


@dataclass(frozen=True)
class Layer:
    """A place that settings come from, whether it is there, and what it sets, by long names without dashes."""

    where: str
    there: bool
    values: dict[str, Any]


def layers() -> list[Layer]:
    """All places, those that count more later; the command line counts most. Raises UsageError as `read`."""
    named = zip(read_from(), _of_files(), strict=True)
    files_ = [Layer(paths.shown_path(path), paths.is_file(path), values) for path, values in named]
    told = {name: os.environ[variable(name)] for name in sorted(options.DECLARED) if variable(name) in os.environ}
    return [*files_, Layer("the environment (DIFFEDIT_...)", True, told)]


def variable(name: str) -> str:
    """The environment's name of an option."""
    return f"DIFFEDIT_{name.replace('-', '_').upper()}"


def unknown_variables() -> list[str]:
    """Names in the environment that look like settings and are none, such as DIFFEDIT_STEP."""
    known = {variable(name) for name in options.DECLARED} | OTHER_VARIABLES
    return sorted(name for name in os.environ if name.startswith("DIFFEDIT_") and name not in known)


def read() -> dict[str, Any]:
    """Long option names without dashes in front -> values. Raises UsageError for a file that cannot be used."""
    own, found = _of_files()
    return own | found


def _of_files() -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user's file says, and the working folder's. Raises UsageError."""
    users, here = users_file(), Path(FILE_NAME)
    own, found = _read(users), _read(here)
    if found and not (own and here.samefile(users)):
        _check_strangers(found, f"set that in your own, {paths.shown_path(users)}, or on the command line.")
    return own, found


def _check_strangers(found: dict[str, Any], advice: str) -> None:
    """Raises UsageError for what the file of a folder may not say."""
    if beyond := sorted(found.keys() - options.EDITING):
        raise UsageError(
            f"{FILE_NAME} in this folder sets {', '.join(beyond)}; the file of a folder only says how a picture is "
            f"edited, so {advice}"
        )
    for name in sorted(found.keys() & MOST.keys()):
        if _number(found[name]) > MOST[name]:
            raise UsageError(
                f"{FILE_NAME} in this folder sets {name} to {str(found[name])[:80]}; the file of a folder may say "
                f"{MOST[name]} at most, so {advice}"
            )


def _number(value: Any) -> float:
    """What a setting counts; 0 for a word, or what no number is, as its option says."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0


def _read(path: Path) -> dict[str, Any]:
    """What one file says, if it is there."""
    try:
        if not paths.is_file(path):
            return {}
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        found = tomllib.loads(paths.read(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"The settings in {path} cannot be read: {error}; fix or remove the file.") from error
    for name, value in found.items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise UsageError(f"The setting {name} in {path} must be a single value; see diffedit edit --help.")
    if unknown := sorted(found.keys() - options.DECLARED):
        raise UsageError(f"{path} sets {', '.join(unknown)}, which no command has; see diffedit edit --help.")
    return found


def effective(name: str, default: str) -> str:
    """What a command takes for `--NAME` when it is not given."""
    return os.environ.get(variable(name)) or str(read().get(name, default))


def change(name: str, value: str | None) -> Path:
    """Sets one option in the user's file, or takes it out, all else as it was. Raises OutputError or UsageError."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = files.resolved(users_file())  # of a link what it points to
    paths.need_home(path, "keep settings in")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = tomlkit.parse(paths.read(path).decode("utf-8-sig") if paths.is_there(path) else "")
    except (TOMLKitError, ValueError) as error:
        raise UsageError(f"The settings in {path} cannot be read: {error}; fix or remove the file.") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; check its permissions.") from error
    if value is None:
        document.pop(name, None)
    else:
        document[name] = value
    try:
        data = tomlkit.dumps(document).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{value!r} cannot stand in the settings, which are UTF-8: {error.reason}.") from error
    files.publish(path, data)
    return path
