"""Gives the self-attention of an edit the values of its source.

Values carry what each place looks like, queries and keys decide which places belong together. An edit that takes the
values of the source keeps its texture and identity while --to decides its layout (MasaCtrl, arXiv:2304.08465, section
3.2, which also takes the keys; DirectEdit, arXiv:2605.02417, which takes the values alone).
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from diffedit_cli.engine.interfaces import Embedding, ModelInput, Values
from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.errors import UsageError

ALL = slice(None)


class ValueLayer(NamedTuple):
    """A layer whose output (B, N, K) holds the values of the picture's tokens, in some of its tokens and channels."""

    layer: nn.Module
    tokens: slice = ALL
    channels: slice = ALL


class SourceValues:
    """Values of the picture's tokens of one row, by the number of the layer.

    While it is not `complete`, a row that it is assigned to is recorded; afterwards such rows take its values.
    """

    def __init__(self) -> None:
        self.of_layers: dict[int, Tensor] = {}
        self.complete = False


class ValueKeeping(ABC):
    """Records the values of a model's self-attention, and gives them back to it (`interfaces.ValueKeeper`)."""

    name: str
    _watch: Any

    @abstractmethod
    def predict(self, x_t: Tensor, at: Level, text: Embedding) -> Prediction: ...

    def source_values(self, x_t: Tensor, at: Level, text: Embedding) -> SourceValues:
        values = SourceValues()
        with self.keeping(values):
            self.predict(x_t, at, text)
        if not values.of_layers:
            raise UsageError(
                f"The model {self.name} has no self-attention in its decoder, whose values --keep takes; leave it out."
            )
        values.complete = True
        return values

    @contextlib.contextmanager
    def keeping(self, values: Values) -> Iterator[None]:
        self._watch = values
        try:
            yield
        finally:
            self._watch = None


@contextlib.contextmanager
def exchange(layers: Callable[[], Sequence[ValueLayer]], inputs: ModelInput) -> Iterator[None]:
    """Context for one call of a network that records the values of some rows, and replaces those of others.

    Which rows, `ModelInput.watches` says. Rows without `SourceValues` do not change.
    """
    rows = [(row, source) for row, source in enumerate(inputs.watches) if isinstance(source, SourceValues)]

    def after(number: int, at: ValueLayer, _layer: nn.Module, _given: Any, values: Tensor) -> Tensor:
        for row, source in rows:
            own = values[row, at.tokens, at.channels]
            if source.complete:
                own.copy_(source.of_layers[number])
            else:
                source.of_layers[number] = own.clone()
        return values

    found = layers() if rows else ()
    hooks = [at.layer.register_forward_hook(partial(after, number, at)) for number, at in enumerate(found)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
