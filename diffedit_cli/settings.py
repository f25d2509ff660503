"""`diffedit.toml`: options from the working folder's file, then from the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import platformdirs

from diffedit_cli.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "diffedit.toml"


def read() -> dict[str, Any]:
    """Long option names without dashes in front -> values. Raises UsageError for a file that cannot be used."""
    settings: dict[str, Any] = {}
    for path in (platformdirs.user_config_path("diffedit", appauthor=False) / FILE_NAME, Path(FILE_NAME)):
        if not path.is_file():
            continue
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"The settings in {path} cannot be read: {error}; mend or remove the file.") from error
        for name, value in found.items():
            if isinstance(value, (dict, list)):
                raise UsageError(f"The setting {name} in {path} must be a single value; see diffedit edit --help.")
        settings |= found
    return settings
