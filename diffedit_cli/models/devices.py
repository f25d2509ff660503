"""Chooses the devices and dtype of the networks, limits threads, and explains failures of the device."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffedit_cli.errors import DeviceError, is_of_device, is_out_of_memory
from diffedit_cli.models import device_names
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import format_on

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

TRIED = {
    "cpu": "tested",
    "cuda": "edits tested on one NVIDIA H200; several GPUs and --offload not tested",
    "rocm": "AMD's GPUs are not tested",
    "xpu": "Intel's GPUs are not tested",
    "mps": "Apple's GPUs are not tested",
}
"""What was tested on real devices of each kind."""

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
    available, UsageError if its name is none.
    """
    [name] = device_names.named(name)
    here = available()
    if name == "auto":
        own = f"{here[0]}:{os.environ.get('LOCAL_RANK', '')}"
        return own if own in here else here[0]
    if name not in here:
        raise DeviceError(f"The device {name} is not available here; use --device {' or '.join(here)}.")
    return name


def choose_devices(name: str) -> list[str]:
    """Returns the names of the devices of a run: those of a list with commas, and with `auto` every GPU of one kind.

    A process that a launcher gave a GPU has that one alone. Raises what `choose_device` raises.
    """
    if name == "auto" and "LOCAL_RANK" not in os.environ:
        here = available()
        several = [one for one in here if one.startswith(f"{here[0]}:")]
        return several if len(several) > 1 else [here[0]]
    return [choose_device(one) for one in device_names.named(name, several=True)]


def available() -> list[str]:
    """Returns the names of the devices of this machine, the best kind first: "cuda", "cuda:0", "cuda:1", "cpu"."""
    here = []
    for kind in ("cuda", "xpu"):
        backend: Any = getattr(torch, kind)
        if backend.is_available():
            here += [kind, *(f"{kind}:{number}" for number in range(backend.device_count()))]
    return [*here, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def described(device: str) -> str:
    """Returns the name of an available device for people."""
    kind = device.split(":")[0]
    if kind == "cpu":
        return f"{torch.get_num_threads()} threads, {'with' if has_bfloat16() else 'without'} bfloat16"
    return str(getattr(torch, kind).get_device_name(device)) if kind in ("cuda", "xpu") else "Apple GPU"


def tried(device: str) -> str:
    """Returns what of diffedit was tested on real devices of this kind."""
    kind = device.split(":")[0]
    return TRIED["rocm" if kind == "cuda" and torch.version.hip else kind]


def emulates(device: str, dtype: str) -> bool:
    """Whether a device would only emulate a number format; quantised models compute in it anyway."""
    return dtype == "bfloat16" and device == "cpu" and not has_bfloat16()


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16; others convert each number to float32 and back, which is slower."""
    if platform.machine() not in ("x86_64", "AMD64"):
        library: Any = torch.backends.mkldnn
        return library.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert"))


def format_in_use(folder: ModelFolder, device: str, dtype: str, quantize: str) -> tuple[str, bool]:
    """Returns the number format that a model computes in on a device, and whether it replaces one that is emulated.

    Args:
        folder: Model.
        device: Torch device.
        dtype: auto, float32, float16 or bfloat16.
        quantize: How its weights are quantised, or none.
    """
    asked = format_on(device, dtype, folder.format.half)
    emulated = quantize == "none" and not folder.is_quantised and emulates(device, asked)
    return "float32" if emulated else asked, emulated


@contextlib.contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Makes a GPU the current one; raises DeviceError in place of torch's own error if it fails or is out of memory."""
    try:
        with _current(device):
            yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeviceError(_OUT_OF_MEMORY.format(device)) from error
        if is_of_device(error):
            reason = str(error).splitlines()[0]
            raise DeviceError(f"The device {device} failed: {reason}; try --device cpu.") from error
        raise


def _current(device: str) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which streams are those of this GPU, if the device is one of several."""
    kind, _, number = device.partition(":")
    return getattr(torch, kind).device(device) if number else contextlib.nullcontext()


_OUT_OF_MEMORY = "Out of memory on {}; use a smaller model, --dtype float16, or --device cpu."
