"""Change a picture by words: DiffEdit as a command-line program, and as a library: see `DiffEdit`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffedit_cli._version import __version__ as __version__
from diffedit_cli.errors import (
    DeviceError,
    DiffEditError,
    InputError,
    ModelError,
    NothingToEdit,
    OutputError,
    UsageError,
    Withheld,
)

if TYPE_CHECKING:
    from diffedit_cli.api import DiffEdit
    from diffedit_cli.api_results import EditResult, InversionResult, MaskResult
    from diffedit_cli.pipeline.params import Params
    from diffedit_cli.pipeline.presets import PRESETS
    from diffedit_cli.pipeline.prompts import Embeds

__all__ = [
    "PRESETS",
    "DeviceError",
    "DiffEdit",
    "DiffEditError",
    "EditResult",
    "Embeds",
    "InputError",
    "InversionResult",
    "MaskResult",
    "ModelError",
    "NothingToEdit",
    "OutputError",
    "Params",
    "UsageError",
    "Withheld",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first used."""
    if name in __all__:
        results = dict.fromkeys(("EditResult", "InversionResult", "MaskResult"), "api_results")
        others = {"Embeds": "pipeline.prompts", "PRESETS": "pipeline.presets", "Params": "pipeline.params"}
        place = (results | others).get(name, "api")
        return getattr(importlib.import_module(f"diffedit_cli.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
