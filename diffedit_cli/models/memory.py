"""Options that decide how much memory of the device a model takes: dtype, offloading, and VAE slices or tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError

OFFLOADS = ("none", "model", "sequential")
NUMBER_FORMATS = ("auto", "float32", "float16", "bfloat16")
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def number_format(option: str, name: str) -> str:
    """Returns one of NUMBER_FORMATS by its full or short name. Raises UsageError that names the `option`."""
    found = SHORT.get(name, name)
    if found not in NUMBER_FORMATS:
        raise UsageError(f"{option} {name} is unknown; use {', '.join(NUMBER_FORMATS[:-1])} or {NUMBER_FORMATS[-1]}.")
    return found


@dataclass(frozen=True)
class OffloadOptions:
    """Which weights wait in the computer's memory, and how the VAE saves memory.

    Raises UsageError for an unknown `offload`.
    """

    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise UsageError(f"--offload {self.offload} is unknown; use {', '.join(OFFLOADS)}.")

    def record(self) -> dict[str, Any]:
        """Returns the options that change results: tiles leave traces, slices and offloading do not."""
        return {"vae-tiling": True} if self.vae_tiling else {}
