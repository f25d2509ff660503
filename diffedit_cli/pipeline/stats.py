"""What the work on one picture costs, and what is worth saying about it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

LOAD = "load"


@dataclass
class EditStats:
    """What one picture cost, by stage."""

    evaluations: dict[str, int] = field(default_factory=dict)
    cache: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    region: str | None = None
    """The kind of the edit."""
    gain: float | None = None
    """How well --from explains the region that was found (engine.evidence)."""

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def spent(self, stage: str, evaluations: int) -> None:
        """A stage may come several times."""
        self.evaluations[stage] = self.evaluations.get(stage, 0) + evaluations

    @contextlib.contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Times a stage, but not the loading of the model that may fall into it."""
        started, loading = time.perf_counter(), self.seconds.get(LOAD, 0.0)
        yield
        loading = self.seconds.get(LOAD, 0.0) - loading
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started - loading
