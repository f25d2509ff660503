"""`diffedit.toml`: options from the working folder's file, then from the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import platformdirs

from diffedit_cli import files
from diffedit_cli.errors import OutputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "diffedit.toml"


def users_file() -> Path:
    return platformdirs.user_config_path("diffedit", appauthor=False) / FILE_NAME


def read() -> dict[str, Any]:
    """Long option names without dashes in front -> values. Raises UsageError for a file that cannot be used."""
    settings: dict[str, Any] = {}
    for path in (users_file(), Path(FILE_NAME)):
        if not path.is_file():
            continue
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"The settings in {path} cannot be read: {error}; mend or remove the file.") from error
        for name, value in found.items():
            if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
                raise UsageError(f"The setting {name} in {path} must be a single value; see diffedit edit --help.")
        settings |= found
    return settings


def effective(name: str, default: str) -> str:
    """What a command takes for `--NAME` when it is not given."""
    return os.environ.get(f"DIFFEDIT_{name.upper()}") or str(read().get(name, default))


def change(name: str, value: str) -> Path:
    """Sets one option in the user's file, all else in it as it was. Raises OutputError or UsageError."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = users_file().resolve()  # of a link what it points to
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = tomlkit.parse(path.read_bytes() if path.exists() else b"")
    except (TOMLKitError, ValueError) as error:
        raise UsageError(f"The settings in {path} cannot be read: {error}; mend or remove the file.") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; check its permissions.") from error
    document[name] = value
    files.publish(path, tomlkit.dumps(document).encode())
    return path
