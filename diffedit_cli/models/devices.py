"""Which device and number format the networks run in, and what to say when the device fails."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from diffedit_cli.errors import DeviceError, UsageError, is_out_of_memory

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

CGROUPS = Path("/sys/fs/cgroup")


def fit_threads() -> None:
    """No more threads than processors that a container may use, where its quota is less than the machine has.

    Torch knows of a process's affinity, not of quotas, and threads that wait for time hold up the others. What the
    environment says (OMP_NUM_THREADS) counts more.
    """
    allowed = quota(CGROUPS)
    if allowed < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(math.ceil(allowed))


def quota(groups: Path) -> float:
    """How many processors the control group in this folder may keep busy, of version 2 or 1; inf for all there are."""
    try:
        if (groups / "cpu.max").exists():
            most, period = (groups / "cpu.max").read_text(encoding="ascii").split()
        else:
            most, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else math.inf
    except (OSError, ValueError):  # "max" is no number
        return math.inf


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
