"""How much an edit may cost: defaults in place of those of `Params`, chosen by SceneBench (docs/tuning.md)."""

from __future__ import annotations

from typing import Any

from diffedit_cli.errors import UsageError

BALANCED = "balanced"
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"steps": 12, "maps": 2},
    BALANCED: {},
    "best": {"steps": 40, "maps": 10},
}
"""By name; whatever else is given for one of these parameters counts more."""


def preset(name: str) -> dict[str, Any]:
    """The parameters of a preset. Raises UsageError for a name that there is not."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name} is unknown; use {', '.join(PRESETS)}.")
    return PRESETS[name]
