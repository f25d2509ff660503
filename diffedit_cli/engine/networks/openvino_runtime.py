"""Evaluates a denoising network with OpenVINO, which computes on processors faster than torch does.

The network is converted and compiled once for each size of its inputs, and the compiled network is stored. Large
networks are compiled for one row, as more rows at once save nothing; small ones for each of SMALL_ROWS, as they do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from diffedit_cli.engine.networks import precision
from diffedit_cli.engine.networks.model_formats import SMALL_NETWORK
from diffedit_cli.errors import ModelError, reason

TELEMETRY = "openvino_telemetry"
"""What OpenVINO reports its imports with to its makers, unless it is missing: diffedit never connects unasked."""
SMALL_ROWS = (4, 2, 1)
SETTINGS = {"PERFORMANCE_HINT": "LATENCY"}
PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16"}
INSTEAD = "--runtime torch"
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference from torch's own output, as a share of its largest value; the built-in network's is 1e-5."""


LOG = logging.getLogger(__name__)


class Store(Protocol):
    """Keeps compiled networks of one model, by the shapes of their inputs."""

    def find(self, shapes: str) -> tuple[Path, object] | None:
        """Returns the file of a compiled network with an object that keeps it there, or None if there is none."""
        ...

    def keep(self, shapes: str, compiled: memoryview) -> object:
        """Keeps a compiled network, if there is room, in place of one that could not be used."""
        ...


class Output(NamedTuple):
    """Output of a network, under the name that diffusers gives it: (B, C, h, w)."""

    sample: Tensor


@dataclass(frozen=True)
class _Call:
    """Arguments of a call: the tensors among its leaves, and all leaves, of which those tensors are only places."""

    tensors: Sequence[Tensor]
    leaves: Sequence[Any]
    form: pytree.TreeSpec

    @classmethod
    def of(cls, given: Sequence[Any], named: Mapping[str, Any]) -> _Call:
        leaves, form = pytree.tree_flatten((tuple(given), dict(named)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return cls(tensors, [_PLACE if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network: that of the latents, which are the first tensor."""
        return self.tensors[0].dtype

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors in float32, whatever the compiled network computes in."""
        return tuple((one.float() if one.is_floating_point() else one).contiguous() for one in self.tensors)

    @property
    def shapes(self) -> str:
        """What a compiled network depends on: shapes, number formats and the other arguments."""
        return f"{[(str(one.dtype), *one.shape) for one in self.tensors]} {self.leaves} {self.form}"

    def rows(self, first: int, count: int) -> _Call:
        return _Call([one[first : first + count] for one in self.tensors], self.leaves, self.form)

    def filled(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Returns the arguments with other tensors of the same shapes."""
        each = iter(tensors)
        given, named = pytree.tree_unflatten([next(each) if one is _PLACE else one for one in self.leaves], self.form)
        return given, named


_PLACE = "tensor"


class _Compiled:
    """A compiled network, ready to compute, and what keeps the file there that its weights are in."""

    def __init__(self, network: Any, *file: object) -> None:
        self._request, self._file = network.create_infer_request(), file

    def __call__(self, call: _Call) -> list[Tensor]:
        found = self._request.infer([one.numpy() for one in call.inputs], share_inputs=True)
        return [torch.from_numpy(found[number]) for number in range(len(found))]


class OpenVinoForward:
    """Takes the place of the `forward` of a network; torch's own computes where hooks change what it computes."""

    def __init__(self, network: nn.Module, watched: Sequence[nn.Module], store: Store | None = None) -> None:
        """Prepares a network, whose tensor arguments all have one row for each row of the batch.

        Args:
            network: Denoising network in float32 or bfloat16, on the processor.
            watched: Attention layers to which hooks may listen, with the hidden states and prompt embeddings they get.
            store: Where compiled networks are kept. Default: nowhere.
        """
        self._network, self._forward, self._watched, self._store = network, network.forward, list(watched), store
        small = sum(weights.nbytes for weights in network.parameters()) <= SMALL_NETWORK
        self._rows = SMALL_ROWS if small else (1,)
        self._inside = [layer for layer in network.modules() if layer is not network]
        self._ready: dict[str, _Compiled] = {}
        self._turn = threading.Lock()

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self._is_changed():
            return self._forward(*given, **named)
        call, parts = _Call.of(given, named), []
        first, rows = 0, len(call.tensors[0])
        while first < rows:
            count = next(count for count in self._rows if count <= rows - first)
            parts.append(self._evaluate(call.rows(first, count)))
            first += count
        output, *looks = zip(*parts, strict=True)

        def whole(tensors: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(tensors).to(call.dtype)

        for layer, hidden, told in zip(self._watched, looks[::2], looks[1::2], strict=True):
            for listen in layer._forward_pre_hooks.values():
                listen(layer, (whole(hidden),), {"encoder_hidden_states": whole(told)})
        return Output(whole(output))

    def _is_changed(self) -> bool:
        return any(
            layer._forward_hooks or (layer._forward_pre_hooks and layer not in self._watched) for layer in self._inside
        )

    def _evaluate(self, call: _Call) -> list[Tensor]:
        """Returns the output, then hidden states and prompt embeddings of each watched layer, for some rows."""
        with self._turn:
            if call.shapes not in self._ready:
                if len(self._ready) == len(self._rows):  # of another size of pictures: each takes a network's memory
                    self._ready.clear()
                self._ready[call.shapes] = self._stored(call) or self._made(call)
            return self._ready[call.shapes](call)

    def _stored(self, call: _Call) -> _Compiled | None:
        """Returns the stored network, or None if there is none that can be used."""
        found = self._store.find(self._made_for(call)) if self._store else None
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # damaged: it is made again
            if found is not None:
                file = np.memmap(found[0], dtype=np.uint8, mode="c")
                mapped = library().Tensor(file, shared_memory=True)
                return _Compiled(library().Core().import_model(mapped, "CPU", _settings(call)), file, found[1])
        return None

    def _made(self, call: _Call) -> _Compiled:
        """Returns the network converted, compiled and stored. Raises ModelError if it cannot take its place."""
        LOG.info("OpenVINO compiles the network for inputs of this size, once")
        with self._as_it_was():
            looking = _Looking(self._network, self._watched, call)
            expected = looking(*call.inputs)[0]
            with _failures("compute this network"):
                network = library().Core().compile_model(_converted(looking, call), "CPU", _settings(call))
                made = _Compiled(network)
                found = made(call)[0]
        if not (found - expected).abs().max() <= NEAR[call.dtype] * expected.abs().max():
            raise ModelError(f"OpenVINO computes this network otherwise than torch; use {INSTEAD}.")
        if self._store is not None:
            with _failures("export this network"):
                exported = network.export_model().getbuffer()
            self._store.keep(self._made_for(call), exported)
        return made

    def _made_for(self, call: _Call) -> str:
        with _failures("describe this processor"):
            core = library().Core()
            processor = [core.get_property("CPU", said) for said in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        return f"{call.shapes} {processor}"

    @contextlib.contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Context in which the network has its own `forward`, in float32, and nothing listens to it."""
        mine, hooks = self._network.forward, [layer._forward_pre_hooks for layer in self._watched]
        self._network.forward = self._forward
        for layer in self._watched:
            layer._forward_pre_hooks = OrderedDict()
        try:
            with precision.in_float32([self._network]):
                yield
        finally:
            self._network.forward = mine
            for layer, before in zip(self._watched, hooks, strict=True):
                layer._forward_pre_hooks = before


class _Looking(nn.Module):
    """A network that also returns what its watched layers get."""

    def __init__(self, network: nn.Module, watched: Sequence[nn.Module], call: _Call) -> None:
        super().__init__()
        self.network, self.watched, self.call = network, watched, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        looks: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def look(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
            looks[layer] = given[0], named["encoder_hidden_states"]

        hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in self.watched]
        given, named = self.call.filled(tensors)
        output = self.network(*given, **named).sample
        for hook in hooks:
            hook.remove()
        return output, *(one for layer in self.watched for one in looks[layer])


def _converted(looking: _Looking, call: _Call) -> Any:
    """Returns the network in OpenVINO's format, for inputs of the shapes of a call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about decisions by shapes, which are the same in every call
        script = torch.jit.trace(looking, call.inputs, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        made = library().convert_model(script, example_input=call.inputs)
    made.reshape({port: list(one.shape) for port, one in zip(made.inputs, call.inputs, strict=True)})
    return made


@contextlib.contextmanager
def _failures(done: str) -> Iterator[None]:
    """Context for calls of OpenVINO: raises ModelError in place of its exceptions, which are of many types."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"OpenVINO cannot {done} ({reason(error)}); use {INSTEAD}.") from error


@functools.cache
def library() -> Any:
    """Returns OpenVINO, which gets no chance to report its use. Raises ModelError if it cannot be imported."""
    absent = TELEMETRY not in sys.modules
    if absent:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's mark for a module to refuse
    try:
        with _failures("be imported"):
            importlib.import_module("openvino.tools.ovc.convert_impl")  # which would look for it later
            return importlib.import_module("openvino")
    finally:
        if absent:
            del sys.modules[TELEMETRY]


def _settings(call: _Call) -> dict[str, Any]:
    return {
        **SETTINGS,
        "INFERENCE_PRECISION_HINT": PRECISION[call.dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }


def take_over(network: nn.Module, watched: Sequence[nn.Module], store: Store | None) -> None:
    """Makes OpenVINO evaluate a network, as `OpenVinoForward` says."""
    network.forward = OpenVinoForward(network, watched, store)
