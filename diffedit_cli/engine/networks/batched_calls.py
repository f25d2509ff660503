"""Network calls that join the inputs of several pictures, in batches that fit into the device's memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.errors import is_out_of_memory

PAIR = 2  # rows of a guided evaluation: a joined call has at most this number for each input


class Calls:
    """Calls of one network, in batches that get smaller for good after the memory was full."""

    def __init__(self, network: Callable[[ModelInput], Tensor]) -> None:
        """Initialises the calls of a `network` that returns the output (B, C, h, w) for an input of B rows."""
        self._network = network
        self._most: float = math.inf

    def ask(self, rows: ModelInput) -> Tensor:
        """Returns the network output (B, C, h, w) for one input. Raises what the network raises."""
        return self._output(rows, len(rows))

    def ask_together(self, asked: Sequence[ModelInput], as_one: bool = False) -> list[Tensor | Exception]:
        """Returns for each input the network output (B, C, h, w), or the exception that it raised for this input.

        Inputs of the same shape are joined in one call. If that fails, each is evaluated by itself, unless `as_one`:
        then all of them failed, and later calls are as large as before.
        """
        answers: dict[int, Tensor | Exception] = {}
        for shape in dict.fromkeys(rows.shape for rows in asked):
            alike = [number for number, rows in enumerate(asked) if rows.shape == shape]
            answers |= zip(alike, self._answers([asked[number] for number in alike], as_one), strict=True)
        return [answers[number] for number in range(len(asked))]

    def _answers(self, asked: Sequence[ModelInput], as_one: bool) -> Sequence[Tensor | Exception]:
        lengths = [len(rows) for rows in asked]
        try:
            rows = functools.reduce(ModelInput.followed_by, asked)
            output = self._network(rows) if as_one else self._output(rows, max(PAIR * len(asked), *lengths))
            return torch.split(output, lengths)
        except Exception as error:
            if as_one or len(asked) == 1:
                return [error] * len(asked)
        return [answer for rows in asked for answer in self._answers([rows], as_one)]

    def _output(self, rows: ModelInput, most: int) -> Tensor:
        """Returns the network output from calls of at most `most` rows, halved where memory is full."""
        if len(rows) <= min(most, self._most):
            try:
                return self._network(rows)
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    raise
            self._most = math.ceil(len(rows) / 2)  # after the except block: the error held the call's memory
        return torch.cat([self._output(half, most) for half in rows.halves()])
