"""Cost and warnings of the work on one picture."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

LOAD = "load"


@dataclass
class EditStats:
    """Network evaluations, cache hits and seconds of one picture by stage, and its warnings."""

    evaluations: dict[str, int] = field(default_factory=dict)
    cache: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    region: str | None = None
    """The kind of the edit."""
    gain: float | None = None
    """How well --from explains the region that was found (engine.evidence); None if it was not measured."""

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def warn_all(self, texts: Iterable[str]) -> None:
        """Adds several warnings."""
        for text in texts:
            self.warn(text)

    def spent(self, stage: str, evaluations: int) -> None:
        """Adds the evaluations of a stage, which may run several times."""
        self.evaluations[stage] = self.evaluations.get(stage, 0) + evaluations

    @contextlib.contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Measures the seconds of a stage, without those for loading the model within it."""
        started, loading = time.perf_counter(), self.seconds.get(LOAD, 0.0)
        yield
        loading = self.seconds.get(LOAD, 0.0) - loading
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started - loading
