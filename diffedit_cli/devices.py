"""Which device and number format the networks run in, and what to say when the device fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from diffedit_cli.errors import DeviceError, UsageError, is_out_of_memory

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> str:
    """`auto` is the best device here; of several GPUs, that of this process among those it was started with.

    Raises DeviceError or UsageError.
    """
    here = ["cpu"]
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    if torch.backends.mps.is_available():
        here = ["mps", *here]
    if name == "auto":
        own = f"cuda:{os.environ.get('LOCAL_RANK', '')}"
        return own if own in here else here[0]
    if name.split(":")[0] not in ("cuda", "mps", "cpu"):
        raise UsageError(f"--device {name} is unknown; use auto, {', '.join(here)}.")
    if name not in here:
        raise DeviceError(f"The device {name} is not available here; use --device {' or '.join(here)}.")
    return name


@contextlib.contextmanager
def device_errors(device: str) -> Iterator[None]:
    """What torch says of a device that fails or is full. Raises DeviceError in its place."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeviceError(_OUT_OF_MEMORY.format(device)) from error
        if "CUDA error" in str(error) or "MPS" in str(error):
            reason = str(error).splitlines()[0]
            raise DeviceError(f"The device {device} failed: {reason}; try --device cpu.") from error
        raise


_OUT_OF_MEMORY = "Out of memory on {}; use a smaller model, --dtype float16, or --device cpu."
