"""The format of the model in a folder: that of its family, or the one that the files of a painter tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import weights


def format_of(folder: Path, family: str) -> Family:
    """Returns the format of a folder of a family, or of the pipeline of a painter (`of_painter`)."""
    found = FAMILIES.get(family) or of_painter(folder, family)
    assert found is not None, "registry.family_of named it"
    return found


def of_painter(folder: Path, pipeline: object) -> Family | None:
    """Returns the format of a painter without a family of the table; None for any other model.

    Args:
        folder: Diffusers folder.
        pipeline: Class name from its `model_index.json`.
    """
    from diffedit_cli.engine.networks import other_painters

    if any(pipeline in known.pipelines for known in FAMILIES.values()) or not other_painters.may_paint(pipeline):
        return None
    index = _read(folder / "model_index.json")
    denoiser = other_painters.denoiser_of(index)
    settings = [_read(folder / part / "config.json") for part in (denoiser or "unet", "vae")]
    return other_painters.family(index, *settings)


def _read(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, empty if it cannot be read, as `configs.check` reports."""
    try:
        found = weights.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
