"""Chooses what evaluates the denoising network on a processor: torch, or OpenVINO where it is installed and faster."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import replace
from importlib import metadata

from diffedit_cli.engine.networks.model_formats import SMALL_NETWORK
from diffedit_cli.errors import UsageError
from diffedit_cli.models import main_memory, memory_needed
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import AUTO, OPENVINO, TORCH, OffloadOptions

INSTALL = "pip install 'diffedit-cli[openvino]'"


def chosen(folder: ModelFolder, device: str, dtype: str, options: OffloadOptions) -> OffloadOptions:
    """Returns the options with the runtime that evaluates the network.

    `auto` is OpenVINO where it can compute the model, is faster (docs/performance.md: not for a network as small as
    the built-in one) and fits into the machine's memory beside torch's weights, which both keep. The choice depends on
    the model, the machine and what is installed, not on what else runs, so that an edit has the same result whenever it
    is repeated there.

    Raises UsageError for `openvino` where it cannot compute the model.
    """
    if options.runtime == TORCH:
        return options
    hindrance = _hindrance(folder, device, dtype, options)
    if options.runtime == OPENVINO and hindrance:
        raise UsageError(f"--runtime openvino cannot be used: {hindrance}, or use --runtime torch.")
    by_openvino = replace(options, runtime=OPENVINO)
    if hindrance or (options.runtime == AUTO and not _is_better(folder, device, dtype, by_openvino)):
        return replace(options, runtime=TORCH)
    return by_openvino


def is_installed() -> bool:
    """Whether the library is there with its version, which compiled networks are kept by."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return importlib.util.find_spec(OPENVINO) is not None and bool(metadata.version(OPENVINO))
    return False


def _hindrance(folder: ModelFolder, device: str, dtype: str, options: OffloadOptions) -> str:
    """Returns why OpenVINO cannot compute a model, and what to do; empty if it can."""
    if not is_installed():
        return f"OpenVINO is not installed; install it with {INSTALL}"
    if device != "cpu":
        return f"it computes on processors and the device is {device}; use --device cpu"
    if not folder.format.rowwise:
        return f"it does not compute models of the kind {folder.format.title}; use another model"
    if dtype == "float16":
        return "it computes in float32 and bfloat16; use --dtype float32"
    if options.quantize != "none" or folder.is_quantised:
        return "the network is quantised; use the full model without --quantize"
    return ""


def _is_better(folder: ModelFolder, device: str, dtype: str, options: OffloadOptions) -> bool:
    need = memory_needed.needed(folder, device, dtype, options)
    is_large = need.weights.get(folder.format.denoiser, 0) > SMALL_NETWORK
    return is_large and not folder.loras and need.total <= main_memory.whole() // 2
