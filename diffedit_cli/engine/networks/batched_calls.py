"""Calls of the network: what several ask in one, of as many rows as the device's memory takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.errors import is_out_of_memory

PAIR = 2  # rows of a guided evaluation: of several who ask, no more than so many for each go into one call


class Calls:
    """All calls of one network. What ran out of memory once is never again so large."""

    def __init__(self, network: Callable[[ModelInput], Tensor]) -> None:
        """`network` gives for B rows its output (B, C, h, w)."""
        self._network = network
        self._most: float = math.inf

    def ask(self, rows: ModelInput) -> Tensor:
        """The network's output (B, C, h, w) for one who asks. Raises what the network raises."""
        return self._output(rows, len(rows))

    def ask_together(self, asked: Sequence[ModelInput]) -> list[Tensor | Exception]:
        """For each who asks the output, or what the network raised for it alone; what has the same shape is joined."""
        answers: dict[int, Tensor | Exception] = {}
        for shape in dict.fromkeys(rows.shape for rows in asked):
            alike = [number for number, rows in enumerate(asked) if rows.shape == shape]
            answers |= zip(alike, self._answers([asked[number] for number in alike]), strict=True)
        return [answers[number] for number in range(len(asked))]

    def _answers(self, asked: Sequence[ModelInput]) -> Sequence[Tensor | Exception]:
        lengths = [len(rows) for rows in asked]
        try:
            rows = functools.reduce(ModelInput.followed_by, asked)
            return torch.split(self._output(rows, max(PAIR * len(asked), *lengths)), lengths)
        except Exception as error:
            if len(asked) == 1:
                return [error]
        return [answer for rows in asked for answer in self._answers([rows])]

    def _output(self, rows: ModelInput, most: int) -> Tensor:
        """By calls of at most so many rows, and of half of them if that is too much."""
        if len(rows) <= min(most, self._most):
            try:
                return self._network(rows)
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not is_out_of_memory(error):
                    raise
            self._most = math.ceil(len(rows) / 2)  # and only now, as the error is gone, is what the call held, too
        return torch.cat([self._output(half, most) for half in rows.halves()])
