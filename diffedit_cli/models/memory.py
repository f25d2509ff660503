"""Options that decide how much memory of the device a model takes: dtype, quantisation, offloading, VAE tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError

OFFLOADS = ("none", "model", "group", "sequential")
QUANTIZES = ("none", "fp8", "int8", "nf4")
MOVABLE = dict.fromkeys(OFFLOADS, QUANTIZES) | {"group": ("none", "fp8"), "sequential": ("none",)}
AUTO, TORCH, OPENVINO = RUNTIMES = ("auto", "torch", "openvino")
NUMBER_FORMATS = ("auto", "float32", "float16", "bfloat16")
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def number_format(option: str, name: str) -> str:
    """Returns one of NUMBER_FORMATS by its full or short name. Raises UsageError that names the `option`."""
    found = SHORT.get(name, name)
    if found not in NUMBER_FORMATS:
        raise UsageError(f"{option} {name} is unknown; use {', '.join(NUMBER_FORMATS[:-1])} or {NUMBER_FORMATS[-1]}.")
    return found


def format_on(device: str, dtype: str, half: str) -> str:
    """Returns the number format of networks on a device: with `auto` on a GPU `half`, that of the family.

    On `mps` `auto` is float32.
    """
    return dtype if dtype != "auto" else (half if device.startswith(("cuda", "xpu")) else "float32")


@dataclass(frozen=True)
class OffloadOptions:
    """Which weights wait in the computer's memory, how they are quantised and evaluated, and how the VAE saves memory.

    Raises UsageError for an unknown `offload`, `quantize` or `runtime`, and for two that exclude each other.
    """

    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    quantize: str = "none"
    runtime: str = TORCH

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise UsageError(f"--offload {self.offload} is unknown; use {', '.join(OFFLOADS)}.")
        if self.quantize not in QUANTIZES:
            raise UsageError(f"--quantize {self.quantize} is unknown; use {', '.join(QUANTIZES)}.")
        if self.runtime not in RUNTIMES:
            raise UsageError(f"--runtime {self.runtime} is unknown; use {', '.join(RUNTIMES)}.")
        if self.quantize not in MOVABLE[self.offload]:
            raise UsageError(
                f"--offload {self.offload} cannot move the layers of --quantize {self.quantize}; use --offload model."
            )

    def record(self) -> dict[str, Any]:
        """Returns the options that change results, as slices and offloading do not."""
        tiling = {"vae-tiling": True} if self.vae_tiling else {}
        quantised = {"quantize": self.quantize} if self.quantize != "none" else {}
        return tiling | quantised | ({"runtime": OPENVINO} if self.runtime == OPENVINO else {})
