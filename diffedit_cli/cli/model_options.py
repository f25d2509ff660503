"""Interprets the options that name the model, its LoRAs and textual inversions, and the cache folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli.errors import UsageError

if TYPE_CHECKING:
    from diffedit_cli.models.folder import ModelFolder


def cache_root(given: dict[str, Any]) -> Path:
    """Returns the cache folder of this command line and sets its size limit from --cache-limit. Raises UsageError."""
    from diffedit_cli.storage import cache, cache_folder

    root = Path(given["cache_dir"] or cache.default_root())
    cache_folder.keep_to(root, _size("--cache-limit", given["cache_limit"]) if given["cache_limit"] else None)
    return root


def _size(flag: str, text: str) -> int:
    """Returns the bytes of a size: a number of MB, or a number with a unit (B, kB, 20GB, 1GiB). Raises UsageError."""
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(?:([kMGT]?)(i?)B?)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"{flag} {text} is not a size; give a number of MB, or a number with its unit, such as 20GB.")
    number, unit, binary = found.groups()
    power = "kmgt".index(unit.lower()) + 1 if unit else 0 if text.strip()[-1] in "bB" else 2
    return int(Decimal(number) * (1024 if binary else 1000) ** power)


def choose_model(given: dict[str, Any], say: Callable[[str], None]) -> ModelFolder:
    """Returns the model of this command line with its LoRAs and textual inversions. Raises ModelError or UsageError."""
    from diffedit_cli.models import adapters
    from diffedit_cli.models.profiles import AUTO
    from diffedit_cli.storage.cache_folder import DIGESTS

    root = cache_root(given)
    model = find_model(given["model"], given, say)
    return adapters.attach(model, given["lora"], given["embedding"], root / DIGESTS).as_distilled(
        given.get("distilled", AUTO)
    )


def find_model(name: str | None, given: dict[str, Any], say: Callable[[str], None]) -> ModelFolder:
    """Returns a model, the built-in one by default, with the parts of this command line. Raises ModelError."""
    from diffedit_cli.models import registry

    return registry.find(
        name or registry.BUILTIN,
        kept=cache_root(given),
        config=given["model_config"],
        say=say,
        text_encoders=given["text_encoder"],
        vae=given["vae"],
    )
