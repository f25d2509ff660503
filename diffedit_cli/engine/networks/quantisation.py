"""Quantises the linear layers of large networks: fp8 by diffusers, int8 by torchao, nf4 by bitsandbytes.

Only the layers inside of repeated blocks change: they hold nearly all weights, and the layers before and after them
have the most influence on the result. nf4 is QLoRA's format (arXiv:2305.14314).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffedit_cli.engine.networks import fast_imports
from diffedit_cli.engine.networks.model_formats import INSTALL, LIBRARIES, fits_nf4, is_quantised_weight
from diffedit_cli.errors import DiffEditError, ModelError

FP8 = torch.float8_e4m3fn
INT8_PARTS = ("qdata", "scale", "zero_point")  # tensors of torchao's Int8Tensor
STATE = ".quant_state.bitsandbytes__"  # end of the name of a tensor with bitsandbytes' settings of a weight
FOUR_BITS = ("nf4", "fp4")
MOST_BLOCK = 4096  # weights that share a scale
SUFFIX = ".safetensors"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantisation:
    """How networks are quantised while they are loaded.

    Attributes:
        kind: fp8, int8 or nf4.
        parts: Parts of the model that are quantised.
        stored: Folder with their quantised weights, written by `write` earlier. None: they are made.
        keep: Called with the quantised networks that were made, by part.
    """

    kind: str
    parts: tuple[str, ...]
    stored: Path | None = None
    keep: Callable[[Mapping[str, nn.Module]], object] = lambda _: None
    _made: list[str] = field(default_factory=list)

    def copy(self, part: str, empty: Callable[[], nn.Module], dtype: torch.dtype, device: str) -> nn.Module | None:
        """Returns a part with its stored weights; None if they are to be made, because there are none or are damaged.

        `empty` returns the network without weights.
        """
        if self.stored is None or part not in self.parts:
            return None
        try:
            return read(empty(), self.stored / (part + SUFFIX), dtype, device)
        except (torch.OutOfMemoryError, DiffEditError):
            raise
        except Exception:  # readers raise many types
            LOG.info(f"the quantised weights in {self.stored} are damaged, and made again")
            return None

    def apply(self, part: str, network: Any, dtype: torch.dtype | None, device: str) -> None:
        """Quantises a network in place if its part is one of `parts`, and it has no quantised weights yet."""
        if dtype is not None and part in self.parts and not is_quantised(network):
            quantise(network, self.kind, dtype, device)
            self._made.append(part)

    def done(self, networks: Mapping[str, nn.Module]) -> None:
        """Passes on the networks of `parts` if any of them was quantised just now."""
        if self._made:
            self.keep({part: networks[part] for part in self.parts if part in networks})


class TorchaoLinear(nn.Linear):
    """Linear layer with a weight of torchao that moves between devices also while inference mode is on."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchaoLinear:
        weight: Any = self._parameters.pop("weight")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(weight._apply_fn_to_data(fn), requires_grad=False)
        return self


def require(kind: str, device: str) -> None:
    """Raises ModelError if --quantize cannot do this here."""
    library = LIBRARIES.get(kind)
    if library and not fast_imports.is_installed(library):
        raise ModelError(f"--quantize {kind} needs {library}, which is not installed; {INSTALL}.")
    if kind == "fp8" and device.startswith("mps"):
        raise ModelError("--quantize fp8 does not work on mps, which has no such numbers; use --quantize int8.")


def quantise(network: nn.Module, kind: str, compute: torch.dtype, device: str) -> None:
    """Quantises the weights of a network in place; those of int8 and nf4 are on the device afterwards.

    Args:
        network: Network with its weights.
        kind: fp8, int8 or nf4.
        compute: Number format in which the layers compute.
        device: Torch device.
    """
    change = {"fp8": _to_fp8, "int8": _to_int8, "nf4": _to_nf4}[kind]
    with fast_imports.with_quantisers():
        for name in [name for name, _ in network.named_modules()]:  # names only: replaced layers must not be kept
            layer = network.get_submodule(name)
            if type(layer) is nn.Linear and _may_change(network, name) and _fits(layer, kind):
                change(network, name, layer, compute, device)
    for tensor in (*network.parameters(), *network.buffers()):
        if is_plain(tensor):
            tensor.data = tensor.data.clone()  # as `read` does


def is_quantised(network: nn.Module) -> bool:
    """Whether a network has quantised weights, those of fp8 included."""
    return any(not is_plain(weight) for weight in network.parameters())


def is_fp8(network: nn.Module) -> bool:
    """Whether all quantised weights of a network are float8, which moves between devices like any other number."""
    return all(type(weight) is nn.Parameter for weight in network.parameters()) and is_quantised(network)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one of at least 16 bits, or of integers in a buffer."""
    ordinary = type(tensor) in (Tensor, nn.Parameter)
    return ordinary and not (tensor.is_floating_point() and tensor.dtype.itemsize == 1)


def computing(network: nn.Module) -> Iterator[Any]:
    """Yields what holds the number format `compute_dtype` of each layer of fp8 or nf4; int8 takes that of its input."""
    for layer in network.modules():
        registry = getattr(layer, "_diffusers_hook", None)
        if registry is not None and (hook := registry.get_hook("layerwise_casting")) is not None:
            yield hook
        elif "compute_dtype" in vars(layer):
            yield layer


def size(network: nn.Module) -> int:
    """Returns the bytes of the weights and buffers of a network."""
    return sum(tensor.nbytes for _, tensor in _tensors(network))


def write(network: nn.Module, path: Path) -> None:
    """Writes the weights and buffers of a network whose layers are int8 or nf4, for `read`."""
    save_file({name: tensor.detach().contiguous() for name, tensor in _tensors(network)}, path)


def read(network: nn.Module, path: Path, dtype: torch.dtype, device: str) -> nn.Module:
    """Fills a network without weights by those of a file that `write` made. Raises ValueError if any is missing."""
    with fast_imports.with_quantisers():
        # Copies lie where an allocation does: the last bits of a result depend on the alignment of the weights.
        loaded = load_file(path, device=device)
        found = {name: loaded.pop(name).clone() for name in [*loaded]}
        fill(network, found, dtype, device)
    return network


def fill(network: nn.Module, found: dict[str, Tensor], dtype: torch.dtype, device: str) -> None:
    """Fills a network without weights, and makes the layers quantised whose weights are.

    Args:
        network: Network on the meta device, changed in place.
        found: Weights and buffers by name; those of bitsandbytes and torchao as several tensors.
        dtype: Number format in which the quantised layers compute.
        device: Torch device of the weights.

    Raises:
        ValueError: If a weight is missing or has another shape.
    """
    for name in [name for name in found if STATE in name]:
        weight, _, kind = name.partition(STATE)
        stats = {key: found.pop(key) for key in list(found) if key.startswith(f"{weight}.")}
        _fill_four_bits(network, weight, found.pop(weight), stats, kind, dtype, device)
    for name in [name for name in found if name.endswith(".qdata")]:
        _fill_int8(network, name.removesuffix(".qdata"), found, dtype)
    for name, tensor in found.items():
        head, _, tail = name.rpartition(".")
        module = network.get_submodule(head)
        old = module._parameters.get(tail) if tail in module._parameters else module._buffers.get(tail)
        if old is None or old.shape != tensor.shape:
            raise ValueError(f"its weight {name} does not fit the settings")
        if tail in module._parameters:
            module._parameters[tail] = nn.Parameter(tensor, requires_grad=False)
            if type(module) is nn.Linear and not is_plain(tensor):
                module.__class__ = TorchaoLinear
        else:
            module._buffers[tail] = tensor
    tie: Any = getattr(network, "tie_weights", None)
    if tie is not None:
        tie()  # weights with two names are stored once
    if absent := [name for name, weight in network.named_parameters() if weight.device.type == "meta"]:
        raise ValueError(f"{len(absent)} weights are missing, {min(absent)} first")


def _may_change(network: nn.Module, name: str) -> bool:
    kept = getattr(network, "_keep_in_fp32_modules", None) or ()
    return is_quantised_weight(f"{name}.weight") and not any(part in kept for part in name.split("."))


def _fits(layer: nn.Linear, kind: str) -> bool:
    """Whether a layer has a size that kernels of this kind compute; those of large models have one."""
    return kind != "nf4" or fits_nf4(layer.out_features, layer.in_features)


def _to_fp8(_network: nn.Module, _name: str, layer: nn.Linear, compute: torch.dtype, _device: str) -> None:
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting_hook

    apply_layerwise_casting_hook(layer, FP8, compute, non_blocking=False)


def _to_int8(_network: nn.Module, _name: str, layer: nn.Linear, _compute: torch.dtype, device: str) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer.to(device), Int8WeightOnlyConfig(set_inductor_config=False))
    layer.__class__ = TorchaoLinear


def _to_nf4(network: nn.Module, name: str, layer: nn.Linear, compute: torch.dtype, device: str) -> None:
    from bitsandbytes.nn import Params4bit

    new = _linear4bit(layer, compute)
    new.weight = Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4", module=new
    ).to(device)
    new.bias = layer.bias
    _replace(network, name, new)


def _linear4bit(layer: nn.Linear, compute: torch.dtype) -> Any:
    from bitsandbytes.nn import Linear4bit

    return Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=compute,
        compress_statistics=False, quant_type="nf4", device="meta",
    ).eval().requires_grad_(False)  # fmt: skip


def _replace(network: nn.Module, name: str, new: nn.Module) -> None:
    head, _, tail = name.rpartition(".")
    setattr(network.get_submodule(head), tail, new)


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights and buffers, also those that state_dict leaves out, and the tensors inside of quantised ones.

    A weight with two names is yielded once.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            yield name, tensor.data
            yield from ((f"{name}.{key}", one) for key, one in state.as_dict(packed=True).items())
        elif hasattr(tensor, "qdata"):
            yield from ((f"{name}.{key}", one) for key in INT8_PARTS if (one := getattr(tensor, key)) is not None)
        else:
            yield name, tensor


def _fill_int8(network: nn.Module, name: str, found: dict[str, Tensor], dtype: torch.dtype) -> None:
    from torchao.quantization import Int8Tensor

    layer = network.get_submodule(name.rpartition(".")[0])
    qdata, scale, zero = (found.pop(f"{name}.{key}", None) for key in INT8_PARTS)
    if not isinstance(layer, nn.Linear) or qdata is None or scale is None or qdata.shape != layer.weight.shape:
        raise ValueError(f"its weight {name} does not fit the settings")
    rows = Int8Tensor(qdata, scale, [1, qdata.shape[1]], dtype, zero_point=zero)
    layer.weight = nn.Parameter(rows, requires_grad=False)
    layer.__class__ = TorchaoLinear


def _fill_four_bits(
    network: nn.Module, name: str, data: Tensor, stats: dict[str, Tensor], kind: str, dtype: torch.dtype, device: str
) -> None:
    from bitsandbytes.nn import Params4bit

    layer_name = name.rpartition(".")[0]
    layer = network.get_submodule(layer_name)
    if not isinstance(layer, nn.Linear) or kind not in FOUR_BITS:
        raise ValueError(f"its weight {name} does not fit the settings")
    new = _linear4bit(layer, dtype)
    weight = Params4bit.from_prequantized(data, stats, device=device, module=new)
    check_four_bits(name, layer, weight)
    if not _fits(layer, "nf4"):
        from bitsandbytes.functional import dequantize_4bit

        layer.weight = nn.Parameter(dequantize_4bit(weight.data, weight.quant_state).to(dtype), requires_grad=False)
        return
    new.weight, new._parameters["bias"] = weight, layer.bias
    _replace(network, layer_name, new)


def check_four_bits(name: str, layer: nn.Linear, weight: Any) -> None:
    """Raises ValueError unless the tensors of a 4-bit weight have the lengths that its kernels read and write.

    Args:
        name: Name of the weight.
        layer: Layer with its numbers of inputs and outputs.
        weight: Weight of bitsandbytes.
    """
    state, count = weight.quant_state, layer.in_features * layer.out_features
    sound = tuple(state.shape or ()) == (layer.out_features, layer.in_features) and state.code.numel() == 16
    sound = sound and state.quant_type in FOUR_BITS and _are_blocks(state, count)
    sound = sound and weight.data.nbytes == (count + 1) // 2
    if state.nested:
        inner = state.state2
        sound = sound and inner.code.numel() == 256 and _are_blocks(inner, state.absmax.numel())
        sound = sound and state.absmax.dtype == torch.uint8
    if not sound:
        raise ValueError(f"the quantised weight {name} does not fit the settings")


def _are_blocks(state: Any, count: int) -> bool:
    """Whether there is a scale for each block of `count` values."""
    block = state.blocksize
    return type(block) is int and 1 <= block <= MOST_BLOCK and state.absmax.numel() == -(-count // block)
