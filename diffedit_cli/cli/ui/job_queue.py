"""The line of jobs: one runs at a time, the others wait; every tab of the page hears how they go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffedit_cli.errors import DiffEditError, UsageError

MOST_WAITING = 100
KEPT = 100  # ended jobs that tabs may still ask for
Status = Literal["waiting", "running", "done", "failed", "stopped"]
ENDED = ("done", "failed", "stopped")


@dataclass
class Job:
    """A mask to find or an edit to paint, and how far it is."""

    id: str
    kind: str
    tab: str
    request: Mapping[str, Any]
    status: Status = "waiting"
    stage: str | None = None
    done: int = 0
    total: int = 0
    error: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    stopping: bool = False  # a person pressed Stop while it ran
    changed: Callable[[], None] = lambda: None

    def step(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total
        self.changed()

    def fail(self, code: int, message: str) -> None:
        self.status, self.error = "failed", {"code": code, "message": message}


class JobQueue:
    """Jobs in the order in which they came. All methods run in the event loop's thread."""

    def __init__(self, work: Callable[[Job], Awaitable[None]], interrupt: Callable[[], Awaitable[None]]) -> None:
        """`work` does a job and sets its status; `interrupt` ends the job that runs."""
        self._work, self._interrupt = work, interrupt
        self.jobs: dict[str, Job] = {}
        self._numbers, self._arrived = itertools.count(1), asyncio.Event()
        self._listeners: set[asyncio.Event] = set()

    def add(self, kind: str, tab: str, request: Mapping[str, Any]) -> Job:
        """Puts a job at the end of the line; a mask replaces the waiting mask of its tab. Raises UsageError."""
        waiting = [job for job in self.jobs.values() if job.status == "waiting"]
        for job in waiting:
            if kind == job.kind == "mask" and job.tab == tab:
                job.status = "stopped"
        if len(waiting) >= MOST_WAITING:
            raise UsageError(f"{MOST_WAITING} jobs wait already; stop some of them, or wait.")
        job = Job(str(next(self._numbers)), kind, tab, request, changed=self.changed)
        self.jobs[job.id] = job
        ended = [job.id for job in self.jobs.values() if job.status in ENDED]
        for old in ended[:-KEPT]:
            del self.jobs[old]
        self._arrived.set()
        self.changed()
        return job

    async def stop(self, job: Job) -> None:
        """Takes a waiting job out of the line, or interrupts it; a job that has ended stays as it is."""
        if job.status == "waiting":
            job.status = "stopped"
            self.changed()
        elif job.status == "running":
            job.stopping = True
            await self._interrupt()

    async def run(self) -> None:
        """Does the jobs one after the other, forever."""
        while True:
            job = next((job for job in self.jobs.values() if job.status == "waiting"), None)
            if job is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            job.status = "running"
            self.changed()
            try:
                await self._work(job)
            except DiffEditError as error:
                job.fail(error.code, str(error))
            except Exception as error:  # the line goes on, whatever a job meets
                job.fail(DiffEditError.code, f"An internal error occurred ({type(error).__name__}: {error}).")
            if job.status == "running":
                job.status = "stopped"
            self.changed()

    def record(self) -> list[dict[str, Any]]:
        """Returns all jobs as the page needs them, with the number of jobs before each that waits."""
        found, ahead = [], 0
        for job in self.jobs.values():
            said = {name: getattr(job, name) for name in _TOLD} | {"picture": job.request.get("picture")}
            found.append({**said, "ahead": ahead if job.status == "waiting" else 0})
            ahead += job.status in ("waiting", "running")
        return found

    def changed(self) -> None:
        """Tells all listeners that something changed."""
        for event in self._listeners:
            event.set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[asyncio.Event]:
        """Yields an event that is set at each change."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)


_TOLD = ("id", "kind", "tab", "status", "stage", "done", "total", "error", "mask", "result")
