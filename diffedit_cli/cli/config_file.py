"""Reads the settings files `diffedit.toml` of the working folder and of the user; the former takes precedence.

A working folder may be a download from a stranger, so its file may only set how a picture is edited.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.cli import options, settings_file
from diffedit_cli.cli.settings_file import FILE_NAME, users_file
from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.storage import files, paths

OTHER_VARIABLES = {"DIFFEDIT_TRAINING_DIR"}  # in the environment, without an option
_COUNTS = ("maps", "variants", "reg-steps", "auto-corr-rolls", "fixed-point", "expand")
MOST = {"steps": 1000, **dict.fromkeys(_COUNTS, 100)}
"""Upper limits in a working folder's file for options that multiply work: above any real use, below all memory."""


def read_from() -> tuple[Path, Path]:
    """Returns the settings files, whether they exist or not, in ascending order of precedence."""
    return users_file(), Path(FILE_NAME)


@dataclass(frozen=True)
class Layer:
    """A source of settings, whether it exists, and its values by long option names without leading dashes."""

    where: str
    there: bool
    values: dict[str, Any]


def layers() -> list[Layer]:
    """Returns all sources of settings in ascending order of precedence, without the command line, which is above them.

    Raises UsageError as `read` does.
    """
    named = zip(read_from(), _of_files(), strict=True)
    files_ = [Layer(paths.shown_path(path), paths.is_file(path), values) for path, values in named]
    names = sorted(options.DECLARED)
    told = _older_variables() | {name: os.environ[variable(name)] for name in names if variable(name) in os.environ}
    return [*files_, Layer("the environment (DIFFEDIT_...)", True, told)]


def variable(name: str) -> str:
    """Returns the environment variable of an option: `mask-strength` -> `DIFFEDIT_MASK_STRENGTH`."""
    return f"DIFFEDIT_{name.replace('-', '_').upper()}"


def guess_setting(name: str, spelling: Callable[[str], str] = str) -> str:
    """Returns the end of a message about an unknown setting: the known one that is most like it, in that spelling."""
    import difflib

    meant = difflib.get_close_matches(name, options.DECLARED, 1)
    return f"did you mean {spelling(meant[0])}?" if meant else "see diffedit edit --help-all."


def unknown_variables() -> list[str]:
    """Returns the names of environment variables that look like settings but are not, such as DIFFEDIT_STEP."""
    known = {variable(name) for name in options.DECLARED | options.OLDER.keys()} | OTHER_VARIABLES
    return sorted(name for name in os.environ if name.startswith("DIFFEDIT_") and name not in known)


def read() -> dict[str, Any]:
    """Returns the values of both files, and of variables with former names, by long option names without dashes.

    Raises UsageError for a file that cannot be read, or that sets an option it may not set.
    """
    own, found = _of_files()
    return own | found | _older_variables()


def _older_variables() -> dict[str, Any]:
    """Returns the values of environment variables that are named by former names of options."""
    return {name: os.environ[variable(one)] for one, name in options.OLDER.items() if variable(one) in os.environ}


def _of_files() -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings of the user's file and those of the working folder's. Raises UsageError."""
    users, here = users_file(), Path(FILE_NAME)
    own, found = _read(users), _read(here)
    if found and not (own and here.samefile(users)):
        _check_strangers(
            found, f"set that in your own settings file, {paths.shown_path(users)}, or on the command line."
        )
    return own, found


def _check_strangers(found: dict[str, Any], advice: str) -> None:
    """Raises UsageError for an option or a value that the file of a working folder may not set."""
    if beyond := sorted(found.keys() - options.EDITING):
        raise UsageError(
            f"{FILE_NAME} in this folder sets {', '.join(beyond)}; the file of a working folder may only set how a "
            f"picture is edited, so {advice}"
        )
    for name in sorted(found.keys() & MOST.keys()):
        if _number(found[name]) > MOST[name]:
            raise UsageError(
                f"{FILE_NAME} in this folder sets {name} to {str(found[name])[:80]}; the file of a working folder "
                f"may set {MOST[name]} at most, so {advice}"
            )


def _number(value: Any) -> float:
    """Returns a setting as a number; 0 for any other value, which the option itself accepts or reports."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0


def _read(path: Path) -> dict[str, Any]:
    """Returns the settings of one file, none if it does not exist. Raises UsageError."""
    try:
        found = settings_file.read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"The settings in {path} cannot be read: {error}; fix or remove the file.") from error
    for name, value in found.items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise UsageError(f"The setting {name} in {path} must be a single value; see diffedit edit --help.")
    found = {name: found[one] for one, name in options.OLDER.items() if one in found} | {
        name: value for name, value in found.items() if name not in options.OLDER
    }
    if unknown := sorted(found.keys() - options.DECLARED):
        guess = guess_setting(unknown[0])
        raise UsageError(f"{path} sets {', '.join(unknown)}, which no command has as an option; {guess}")
    return found


def effective(name: str, default: str) -> str:
    """Returns the value that a command uses for `--NAME` if the command line does not set it."""
    return os.environ.get(variable(name)) or str(read().get(name, default))


def change(name: str, value: str | None) -> Path:
    """Sets an option in the user's settings file and keeps the rest as it is; returns the path of the file.

    A `value` of None removes the option. Raises UsageError for a file or a value that cannot be used, OutputError for a
    file that cannot be written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = files.resolve(users_file())  # the target of a link, so that the link stays
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
        raise UsageError(f"{value!r} cannot be stored in the settings, which are UTF-8: {error.reason}.") from error
    files.publish(path, data)
    return path
