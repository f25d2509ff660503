"""Chooses the device and dtype of the networks, limits threads, and explains failures of the device."""

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
    """Limits torch's threads to a container's processor quota, if that is less than the machine has.

    Torch knows a process's affinity but not its quota, and threads that wait for processor time hold up the others. The
    environment variable OMP_NUM_THREADS takes precedence.
    """
    allowed = quota(CGROUPS)
    if allowed < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(math.ceil(allowed))


def quota(groups: Path) -> float:
    """Returns how many processors the control group (version 2 or 1) in a folder may use; inf without a limit."""
    try:
        if (groups / "cpu.max").exists():
            most, period = (groups / "cpu.max").read_text(encoding="ascii").split()
        else:
            most, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else math.inf
    except (OSError, ValueError):  # "max", for no limit, is not a number
        return math.inf


def choose_device(name: str) -> str:
    """Returns the name of an available device; `auto` is the best one.

    With several GPUs `auto` is the one of this process, by LOCAL_RANK. Raises DeviceError if the device is not
    available, UsageError if its name is unknown.
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
    """Raises DeviceError in place of torch's own error if the device fails or is out of memory."""
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
