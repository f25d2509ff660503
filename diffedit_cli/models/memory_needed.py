"""Says what memory an edit needs, from the headers of the weights and a formula for what the networks compute.

The formula counts what is alive at once while a picture of native size is edited. It was fitted to the counts of
`python -m benchmarks.activations`: the VAE needs `Family.vae_maps` maps of its first width for each pixel, exactly; a
transformer 14 to 29 vectors of its width for each token. docs/models.md states the errors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks import gguf_header
from diffedit_cli.engine.networks.gguf_header import GgufTensor
from diffedit_cli.engine.networks.model_formats import fits_nf4, is_kept_in_full, is_quantised_weight
from diffedit_cli.errors import DeviceError, ModelError
from diffedit_cli.models import main_memory, weights
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import MOVABLE, OFFLOADS, OPENVINO, TORCH, OffloadOptions
from diffedit_cli.storage.files import amount

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
STORED = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
VECTORS = 24  # alive for each token or cell of the denoiser, of its width
ROWS = 2  # of a network call: with and without the prompt, or two draws of noise
TOKENS = 512  # of a prompt, which a transformer reads beside those of the picture
PATCH = 2  # side in cells of a token of a transformer
LAYERS = {"group": 2, "sequential": 1}  # on the device at once by --offload: the one that computes, and the next
LIBRARIES = 500_000_000  # bytes: PyTorch and the others, or what a GPU's driver takes


@dataclass(frozen=True)
class MemoryNeeded:
    """Bytes that an edit needs.

    Attributes:
        weights: Bytes of each network's weights, in the format that they are loaded in.
        largest: Bytes of the largest single weight.
        computing: About how many bytes are needed beside the weights.
        offload: Which weights wait in main memory while they are not used.
    """

    weights: dict[str, int]
    largest: int
    computing: int
    offload: str

    @property
    def resident(self) -> int:
        """The bytes of weights that are on the device at once."""
        if self.offload in LAYERS:
            return LAYERS[self.offload] * self.largest
        return max(self.weights.values()) if self.offload == "model" else sum(self.weights.values())

    @property
    def total(self) -> int:
        """About how many bytes of the device's memory an edit needs."""
        return self.resident + self.computing


def refuse_quantised_files(folder: ModelFolder, memory: OffloadOptions) -> None:
    """Raises ModelError for a .gguf file that is to be quantised."""
    quantised = [path for path in folder.elsewhere.values() if gguf_header.is_gguf(path)]
    if quantised and memory.quantize != "none":
        raise ModelError(
            f"--quantize {memory.quantize} cannot be used with {quantised[0]}, which is quantised already; leave out "
            "that option."
        )


def needed(folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions) -> MemoryNeeded:
    """Returns what an edit of a picture of native size needs on a device.

    Args:
        folder: Model.
        device: Torch device.
        dtype: float32, float16 or bfloat16.
        memory: Quantisation and offloading.

    Raises:
        ModelError: If the settings are damaged.
    """
    family = folder.format
    sizes: dict[str, int] = {}
    largest = 0
    for path, place in folder.placed_files():
        part, _, file = place.partition("/")
        if part not in family.networks + family.optional or not (file == "" or weights.is_weights(file)):
            continue  # the safety checker is loaded when there is something to check
        kind = memory.quantize if part in family.quantised else "none"
        for size in _sizes(path, dtype, kind, folder.stores_quantised(part)):
            sizes[part], largest = sizes.get(part, 0) + size, max(largest, size)
    if memory.runtime == OPENVINO:
        # while it is compiled there are two more copies, in float32
        sizes[OPENVINO] = 2 * sizes.get(family.denoiser, 0) * BYTES["float32"] // BYTES[dtype]
    offload = "none" if device == "cpu" else memory.offload
    computing = max(decoding(folder, dtype, memory.vae_tiling), denoising(folder, dtype))
    return MemoryNeeded(sizes, largest, computing + LIBRARIES, offload)


def _sizes(path: Path, dtype: str, kind: str, stored: bool) -> list[int]:
    """Returns the bytes of each weight of a file after it was loaded.

    A damaged file counts as one weight of its size; loading it reports the damage.
    """
    try:
        if gguf_header.is_gguf(path):
            return [_loaded_gguf(tensor, dtype) for tensor in weights.gguf_tensors(path).values()]
        return [_loaded(name, tensor, dtype, kind, stored) for name, tensor in weights.header(path).items()]
    except ModelError:
        return [path.stat().st_size]


def _loaded_gguf(tensor: GgufTensor, dtype: str) -> int:
    """Returns the bytes of a weight of a .gguf file, of which matrices of quantised values stay as they are."""
    numbers, (block, size) = math.prod(tensor.shape), gguf_header.FORMATS[tensor.kind]
    return numbers // block * size if block > 1 and len(tensor.shape) == 2 else numbers * BYTES[dtype]


def _loaded(name: str, tensor: dict[str, Any], dtype: str, kind: str, stored: bool) -> int:
    """Returns the bytes of a weight after it was loaded, and quantised if it is one of a linear layer in a block."""
    numbers, shape = math.prod(tensor["shape"]), tensor["shape"]
    floating = tensor["dtype"].startswith(("F", "BF"))
    if not floating or (stored and tensor["dtype"].startswith("F8")):
        return int(numbers * STORED.get(tensor["dtype"], 1))
    if stored or kind == "none" or len(shape) != 2 or not is_quantised_weight(name):
        in_full = dtype == "float16" and is_kept_in_full(name)
        return int(numbers * (4 if in_full else BYTES[dtype]))
    if kind == "nf4":
        return int(numbers // 2 + numbers // 64 * 4) if fits_nf4(*shape) else int(numbers * BYTES[dtype])
    return int(numbers + (5 * shape[0] if kind == "int8" else 0))  # a scale and a zero for each row


def decoding(folder: ModelFolder, dtype: str, tiled: bool) -> int:
    """Returns about how many bytes the VAE needs beside the weights."""
    vae, side = folder.settings("vae"), folder.native_size
    widths = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or [vae.get("base_dim", 96)]
    tile = min(side, int(vae.get("sample_size") or 512)) if tiled else side
    in_full = dtype == "float16" and folder.format.upcasts_vae and vae.get("force_upcast", True)
    return int(folder.format.vae_maps * max(widths[0], 1) * tile**2 * BYTES["float32" if in_full else dtype])


def denoising(folder: ModelFolder, dtype: str) -> int:
    """Returns about how many bytes the denoiser needs beside the weights, for each picture of a call."""
    family, cells = folder.format, folder.native_size // folder.factor
    network = folder.settings(family.denoiser)
    if family.denoiser == "unet":
        tokens, width = cells**2, (network.get("block_out_channels") or [320])[0]
    else:
        tokens = (cells // PATCH) ** 2 + TOKENS
        heads, size = network.get("num_attention_heads", 1), network.get("attention_head_dim", 1)
        width = network.get("dim") or int(heads or 1) * int(size or 1)
    return int(VECTORS * ROWS * tokens * width * BYTES[dtype])


def free(device: str) -> tuple[int, int]:
    """Returns the free bytes of a device's memory, and the same with what the system can move to the disk."""
    if device == "cpu":
        return main_memory.free()
    import torch

    if device.startswith("cuda"):
        left = torch.cuda.mem_get_info(device)[0]
    elif device.startswith("xpu"):
        try:
            left = torch.xpu.mem_get_info(device)[0]
        except RuntimeError:  # some drivers do not tell
            left = torch.xpu.get_device_properties(device).total_memory - torch.xpu.memory_reserved(device)
    else:
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return left, left


def usual_device() -> str:
    """Returns "cpu", without importing PyTorch, where there is no sign of a GPU; else "auto"."""
    signs = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/dev/dri/renderD128")
    return "auto" if sys.platform in ("darwin", "win32") or any(Path(sign).exists() for sign in signs) else "cpu"


def check(folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions, warn: Callable[[str], object]) -> None:
    """Says before a model is loaded that it will not fit, and what would.

    Args:
        folder: Model.
        device: Torch device.
        dtype: float32, float16 or bfloat16.
        memory: Quantisation and offloading.
        warn: Called with a message if the model probably does not fit.

    Raises:
        DeviceError: If its weights alone are larger than the memory.
    """
    need = needed(folder, device, dtype, memory)
    left, most = free(device)
    if need.total <= left:
        return
    said = f"{folder.name} needs about {amount(need.total)} and {device} has {amount(left)} free; "
    said += _advice(folder, device, dtype, memory, left)
    if need.resident > most:
        raise DeviceError(said)
    warn(said)


def _advice(folder: ModelFolder, device: str, dtype: str, memory: OffloadOptions, left: int) -> str:
    """Returns which options would make the model fit."""
    from diffedit_cli.models import devices  # which imports PyTorch

    tried: dict[str, tuple[str, OffloadOptions]] = {}
    if dtype == "float32" and not devices.emulates(device, "bfloat16"):
        tried["--dtype bfloat16"] = "bfloat16", memory
    if memory.runtime == OPENVINO:
        tried["--runtime torch"] = dtype, replace(memory, runtime=TORCH)
    if memory.quantize == "none" and not folder.is_quantised and memory.runtime != OPENVINO:
        for kind in ("int8", "nf4"):
            offload = memory.offload if kind in MOVABLE[memory.offload] else "model"
            quantised = replace(memory, quantize=kind, offload=offload)
            tried[f"--quantize {kind}"] = dtype, quantised
            if dtype == "float32":
                tried[f"--quantize {kind} --dtype bfloat16"] = "bfloat16", quantised
    if device != "cpu":
        for offload in OFFLOADS[OFFLOADS.index(memory.offload) + 1 :]:
            if memory.quantize in MOVABLE[offload] and not (folder.is_quantised and offload in LAYERS):
                tried[f"--offload {offload}"] = dtype, replace(memory, offload=offload)
    totals = {words: needed(folder, device, *options).total for words, options in tried.items()}
    fitting = [f"{words} (about {amount(total)})" for words, total in totals.items() if total <= left]
    return f"use {' or '.join(fitting[:2])}." if fitting else "use a smaller model, or close other programs."
