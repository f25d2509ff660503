"""Captures a network's evaluations as CUDA graphs: a GPU then runs them without waiting for the CPU to launch kernels.

An input is evaluated as usual the first time, which warms up what libraries prepare once, captured the second time, and
replayed from then on: with other numbers, but the same shapes, memory layouts and watched rows. A replay runs the
kernels of the evaluation that was captured, on the same layouts, so that its results are the same bits.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks.cross_attention import Watch, rows_by_watch
from diffedit_cli.errors import is_out_of_memory, reason

MOST = 16  # graphs: an edit has some five (rows, prompts, attention watched or not)
AGAIN = 64  # evaluations of an input whose graph was refused until another attempt
ROOM = 0.1  # share of the device's memory that is free, or nothing is captured
LOG = logging.getLogger(__name__)

Compute = Callable[[], list[Tensor]]
Replay = Callable[[], object]
Tensors = Sequence[Tensor | None]


class Recorder(Protocol):
    """What captures and replays on a device."""

    def aside(self, compute: Callable[[], Tensor]) -> Tensor:
        """Returns what `compute` returns, computed where captures are made."""
        ...

    def capture(self, compute: Compute) -> tuple[list[Tensor], Replay]:
        """Returns the tensors of `compute`, and what fills them again; they hold nothing before the first replay."""
        ...

    def has_room(self) -> bool:
        """Whether there is memory for one more graph."""
        ...

    def wait(self) -> None:
        """Waits until no graph is being replayed."""
        ...

    def release(self) -> None:
        """Gives the memory of graphs back that are no longer referred to."""
        ...


class CudaRecorder:
    """Captures on a stream of its own, in a pool of memory that all graphs share.

    They may share it in any order, because each replay's results are copied before the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def aside(self, compute: Callable[[], Tensor]) -> Tensor:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)  # so that memory of this stream is not used again before it is read
        with torch.cuda.stream(self._stream):
            made = compute()
        here.wait_stream(self._stream)
        return made

    def capture(self, compute: Compute) -> tuple[list[Tensor], Replay]:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
        ):
            made = compute()
        return made, graph.replay

    def has_room(self) -> bool:
        free, total = torch.cuda.mem_get_info(self._device)
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return free + unused >= ROOM * total

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def release(self) -> None:
        torch.cuda.empty_cache()
        self._pool = torch.cuda.graph_pool_handle()


@dataclass(frozen=True)
class FixedText(Embedding):
    """Prompt embeddings that stay where they are, with the mask on the device too."""

    shown: Tensor | None = None

    @property
    def padding_mask(self) -> Tensor | None:
        return self.shown


class Graph(NamedTuple):
    """A captured evaluation: the tensors that it reads and writes, and what runs it."""

    inputs: Tensors
    twins: Sequence[Watch]
    made: Sequence[Tensor]
    replay: Replay


class CudaGraphs:
    """Evaluates a network as `compute` does, by graphs where it can, at most MOST of them."""

    def __init__(self, compute: Callable[[ModelInput], Tensor], recorder: Recorder) -> None:
        self._compute, self._recorder = compute, recorder
        self._graphs: dict[Any, Graph] = {}  # the one that was used last is the last one
        self._seen: set[Any] = set()
        self._refused: dict[Any, int] = {}  # for lack of memory -> evaluations until another attempt
        self.enabled = True

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, rows: ModelInput) -> Tensor:
        """Returns the network output (B, C, h, w). Raises what the network raises."""
        if not self.enabled or not torch.is_inference_mode_enabled() or not _is_foreseeable(rows):
            return self._compute(rows)
        given, watched = _tensors(rows), rows_by_watch(rows)
        key = _key(rows, given, watched)
        if key not in self._graphs and key in self._seen and self._may_capture(key):
            self._capture(key, rows, given, watched)
        graph = self._graphs.pop(key, None)
        self._seen.add(key)
        if graph is None:
            return self._plain(rows)
        self._graphs[key] = graph
        try:
            return _replayed(graph, given, list(watched))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        del graph
        return self._plain(rows)

    def graph_of(self, rows: ModelInput) -> Graph | None:
        """Returns the graph that evaluates an input; None if it was not captured."""
        return self._graphs.get(_key(rows, _tensors(rows), rows_by_watch(rows)))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which nothing is captured or replayed; the weights may be others afterwards."""
        self.forget()
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def forget(self) -> None:
        """Drops all graphs and their memory."""
        self._seen.clear()
        self._drop(list(self._graphs))
        self._recorder.release()

    def _plain(self, rows: ModelInput) -> Tensor:
        """Returns the output without a graph; if memory ends, the graphs are dropped first."""
        try:
            return self._recorder.aside(lambda: self._compute(rows))
        except (RuntimeError, MemoryError) as error:
            if not self._graphs or not is_out_of_memory(error):
                raise
        self.forget()  # after the except block: the error held the call's memory
        return self._compute(rows)

    def _may_capture(self, key: Any) -> bool:
        """Whether an input may get a graph: not soon after memory was too short for it, nor while it still is."""
        left = self._refused.get(key)
        if left is None:
            return True
        self._refused[key] = left - 1 if left else AGAIN
        return not left and self._recorder.has_room()

    def _capture(self, key: Any, rows: ModelInput, given: Tensors, watched: dict[Watch, list[int]]) -> None:
        """Captures an evaluation, if it can be: a failure costs the graph, not the evaluation."""
        if len(self._graphs) == MOST:
            self._drop([next(iter(self._graphs))])
        if not self._recorder.has_room():
            self.forget()
        try:
            if self._recorder.has_room():
                self._graphs[key] = _captured(self._compute, self._recorder, rows, given, watched)
                self._refused.pop(key, None)
                return
        except Exception as error:
            if not is_out_of_memory(error):
                self.enabled = False  # what cannot be captured once never can
                LOG.info("no CUDA graphs: %s", reason(error))
                self.forget()
                return
        self._refused[key] = AGAIN
        self.forget()
        LOG.info("no CUDA graph for %s rows: memory is short", len(rows))

    def _drop(self, keys: Sequence[Any]) -> None:
        if keys:
            self._recorder.wait()
        for key in keys:
            del self._graphs[key]
            self._seen.discard(key)  # where more are asked for in turn than are kept, not each call captures


def _captured(
    compute: Callable[[ModelInput], Tensor],
    recorder: Recorder,
    rows: ModelInput,
    given: Tensors,
    watched: dict[Watch, list[int]],
) -> Graph:
    twins: dict[Any, Watch] = {watch: watch.twin() for watch in watched}
    for watch, own in watched.items():
        twins[watch].index(own)  # made here, as a list cannot be copied to the device in a capture
    inputs: list[Any] = [None if one is None else _like(one) for one in given]
    _fill(inputs, given)
    x_t, timesteps, tokens, pooled, guidance, shown = inputs
    text = FixedText(tokens, pooled, rows.text.mask, guidance, rows.text.key, shown)
    fixed = ModelInput(x_t, timesteps, text, [twins.get(watch) for watch in rows.watches])

    def run() -> list[Tensor]:
        for twin in twins.values():
            twin.looks.clear()
        return [compute(fixed), *(look for twin in twins.values() for look in twin.looks)]

    made, replay = recorder.capture(run)
    return Graph(inputs, list(twins.values()), made, replay)


def _replayed(graph: Graph, given: Tensors, watches: Sequence[Watch]) -> Tensor:
    """Returns the output of a graph for other numbers, and adds what the twins of the `watches` saw to them."""
    _fill(graph.inputs, given)
    for watch, twin in zip(watches, graph.twins, strict=True):
        twin.places.copy_(watch.places)
    graph.replay()
    output, *looks = (made.clone() for made in graph.made)
    layers = len(looks) // max(1, len(watches))
    for number, watch in enumerate(watches):
        for look in looks[number * layers : (number + 1) * layers]:
            watch.add(look)
    return output


def _key(rows: ModelInput, given: Tensors, watched: dict[Watch, list[int]]) -> Any:
    """Returns what two inputs have in common that the same graph can evaluate."""
    layouts = tuple(None if one is None else (one.shape, one.stride(), one.dtype) for one in given)
    lengths = None if rows.text.mask is None else tuple(rows.text.lengths)  # some networks cut the prompts there
    seen = tuple((type(watch), tuple(own), watch.length, len(watch.places)) for watch, own in watched.items())
    return layouts, lengths, seen


def _tensors(rows: ModelInput) -> Tensors:
    """Returns the tensors of an input that are on the device, in the order of `_captured`."""
    text = rows.text
    return [rows.x_t, rows.timesteps, text.tokens, text.pooled, text.guidance, text.padding_mask]


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _fill(inputs: Tensors, given: Tensors) -> None:
    for fixed, one in zip(inputs, given, strict=True):
        if fixed is not None and one is not None:
            _once(fixed).copy_(_once(one))


def _once(tensor: Tensor) -> Tensor:
    """Returns a tensor without its repetitions, such as those of one prompt for all rows, which cannot be written."""
    for side, stride in enumerate(tensor.stride()):
        if stride == 0:
            tensor = tensor.narrow(side, 0, 1)
    return tensor


def _is_foreseeable(rows: ModelInput) -> bool:
    """Whether the host knows what is done beside the network.

    Source values are exchanged by hooks, and which rows hold a prompt without a key only the device could say.
    """
    watches = [watch for watch in rows.watches if watch is not None]
    known = all(isinstance(watch, Watch) and watch.key is not None for watch in watches)
    return known and not (watches and rows.text.key is None)
