"""Presets of the cost of an edit: defaults that replace those of `Params`, chosen by SceneBench (docs/tuning.md)."""

from __future__ import annotations

from typing import Any

from diffedit_cli.errors import UsageError

BALANCED = "balanced"
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"steps": 12, "maps": 2},
    BALANCED: {},
    "best": {"steps": 40, "maps": 10},
}
"""Parameters by preset name; a value that is set explicitly takes precedence."""


def preset(name: str) -> dict[str, Any]:
    """Returns the parameters of a preset. Raises UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name} is unknown; use {', '.join(PRESETS)}.")
    return PRESETS[name]
