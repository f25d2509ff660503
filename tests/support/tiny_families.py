"""Writers of a tiny random model of every family, by the family's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformers

WRITERS: dict[str, Callable[[Path], Path]] = {
    "sd": tiny.write_model,
    "sdxl": tiny.write_sdxl,
    "sd3": tiny.write_sd3,
    "flux2": tiny_transformers.write_flux2,
    "z-image": tiny_transformers.write_z_image,
    "flux": tiny_transformers.write_flux,
    "chroma": tiny_transformers.write_chroma,
    "qwen-image": tiny_transformers.write_qwen_image,
    "pixart": tiny_transformers.write_pixart,
}

FIRST_ALWAYS: list[Any] = [
    pytest.param(name, marks=() if name == "sd" else pytest.mark.thorough, id=name) for name in WRITERS
]
"""The families as parameters of tests that take seconds each: the first one is tested each time, the others by
`make test-all`."""
