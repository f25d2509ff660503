"""How a model is run that is larger than its device's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError

OFFLOADS = ("none", "model", "sequential")


@dataclass(frozen=True)
class Memory:
    """What waits in the computer's memory, and how the VAE is spared. Raises UsageError for an unknown `offload`."""

    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise UsageError(f"--offload {self.offload} is unknown; use {', '.join(OFFLOADS)}.")

    def record(self) -> dict[str, Any]:
        """What results depend on: tiles leave their traces, slices and offloading do not."""
        return {"vae-tiling": True} if self.vae_tiling else {}
