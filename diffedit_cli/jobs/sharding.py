"""Determines which part of a run this process does, and waits for the processes of the other parts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from diffedit_cli.errors import UsageError

LAUNCHERS = (  # variables with which launchers tell a process its rank and the number of processes
    ("RANK", "WORLD_SIZE"),  # accelerate launch, torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun
    ("PMI_RANK", "PMI_SIZE"),
)
PATIENCE = 0.5  # seconds between checks whether the other processes have ended


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count`; `launched` if a launcher started the processes of all parts together."""

    number: int = 1
    count: int = 1
    launched: bool = False

    def has(self, position: int) -> bool:
        """Whether the picture at this position (from 0) belongs to this part."""
        return position % self.count == self.number - 1

    def of(self, total: int) -> int:
        """Returns how many of `total` pictures belong to this part."""
        return len(range(self.number - 1, total, self.count))

    def wait_for_the_others(self) -> None:
        """Returns when all processes have called this: torchrun kills the others when one exits with an error.

        The processes of all machines are counted in torchrun's store. If the store is gone, no process is left to wait
        for.
        """
        if not self.launched or "TORCHELASTIC_RUN_ID" not in os.environ:
            return
        from torch.distributed.rendezvous import rendezvous

        try:
            store = next(rendezvous("env://"))[0]
            store.add("diffedit", 1)
            while store.add("diffedit", 0) < self.count:
                time.sleep(PATIENCE)
        except (RuntimeError, OSError, ValueError):
            return


def choose_shard(text: str | None) -> Shard:
    """Returns the part that --shard names (`3/8`), else the launcher's part, else the whole run. Raises UsageError."""
    if text is not None:
        return _shard("--shard", text)
    for rank, size in LAUNCHERS:
        if os.environ.get(size, "1") != "1":
            number = os.environ.get(rank, "0")
            text = f"{int(number) + 1 if number.isdecimal() and len(number) < 10 else number}/{os.environ[size]}"
            return _shard(f"{rank} and {size}:", text, launched=True)
    return Shard()


def _shard(said_by: str, text: str, launched: bool = False) -> Shard:
    try:
        number, count = map(int, text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise UsageError(f"{said_by} {text} is not a part of a run; give --shard I/N, from 1/N to N/N.")
    return Shard(number, count, launched)
