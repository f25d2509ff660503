"""Stands in for the capture of CUDA graphs on a processor: an input or result that is not copied is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FakeRecorder:
    """Runs an evaluation again for each replay, on the tensors that it was captured with, into those that it made.

    A capture computes nothing, as on a GPU: what it made is not a number until it is replayed. `fails` is raised by
    captures that `refuses` says, by number.
    """

    def __init__(self, fails: Exception | None = None, refuses: Callable[[int], bool] = lambda _: True) -> None:
        self.fails, self.refuses = fails, refuses
        self.room: list[bool] = []
        self.captured = self.replayed = self.released = 0

    def aside(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()

    def capture(self, compute: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], Any]]:
        self.captured += 1
        if self.fails is not None and self.refuses(self.captured):
            raise self.fails
        made = compute()
        for one in made:
            one.fill_(torch.nan)

        def replay() -> None:
            self.replayed += 1
            for one, again in zip(made, compute(), strict=True):
                one.copy_(again)

        return made, replay

    def has_room(self) -> bool:
        return self.room.pop(0) if self.room else True

    def wait(self) -> None:
        pass

    def release(self) -> None:
        self.released += 1
