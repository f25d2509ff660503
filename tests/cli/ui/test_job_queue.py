"""The line of jobs: one at a time, in order, whatever happens to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from diffedit_cli.cli.ui.job_queue import KEPT, MOST_WAITING, Job, JobQueue
from diffedit_cli.errors import InputError, UsageError


class Line:
    """A line whose jobs end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self.fault: Exception | None = None
        self.interrupted = 0
        self.queue = JobQueue(self.work, self.interrupt)

    async def work(self, job: Job) -> None:
        self.begun.append(job.id)
        await self.gate.wait()
        self.gate.clear()
        if self.fault:
            raise self.fault
        if not job.stopping:
            job.status = "done"

    async def interrupt(self) -> None:
        self.interrupted += 1
        self.gate.set()

    @property
    def states(self) -> list[str]:
        return [job.status for job in self.queue.jobs.values()]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def end_one(self) -> None:
        self.gate.set()
        await self.settle()


def in_line(test: Callable[[Line], Awaitable[None]]) -> None:
    async def run() -> None:
        line = Line()
        task = asyncio.create_task(line.queue.run())
        await test(line)
        task.cancel()

    asyncio.run(run())


def test_one_at_a_time_in_order() -> None:
    async def test(line: Line) -> None:
        for tab in ("a", "b", "c"):
            line.queue.add("edit", tab, {"picture": tab})
        await line.settle()
        assert line.states == ["running", "waiting", "waiting"]
        assert [one["ahead"] for one in line.queue.record()] == [0, 1, 2]
        assert [one["picture"] for one in line.queue.record()] == ["a", "b", "c"]
        await line.end_one()
        assert line.states == ["done", "running", "waiting"]
        assert [one["ahead"] for one in line.queue.record()] == [0, 0, 1]
        await line.end_one()
        await line.end_one()
        assert (line.states, line.begun) == (["done"] * 3, ["1", "2", "3"])

    in_line(test)


def test_a_new_mask_replaces_the_waiting_one_of_its_tab_only() -> None:
    async def test(line: Line) -> None:
        line.queue.add("mask", "a", {})
        await line.settle()
        for kind, tab in (("mask", "a"), ("mask", "b"), ("edit", "a"), ("mask", "a")):
            line.queue.add(kind, tab, {})
        assert line.states == ["running", "stopped", "waiting", "waiting", "waiting"]

    in_line(test)


def test_a_job_is_stopped_in_the_line_or_at_work() -> None:
    async def test(line: Line) -> None:
        first, second = (line.queue.add("edit", "a", {}) for _ in range(2))
        await line.settle()
        await line.queue.stop(second)
        assert (line.states, line.interrupted) == (["running", "stopped"], 0)
        await line.queue.stop(first)
        await line.settle()
        assert (line.states, line.interrupted) == (["stopped", "stopped"], 1)
        await line.queue.stop(first)
        assert line.interrupted == 1
        third = line.queue.add("edit", "a", {})
        await line.settle()
        await line.end_one()
        assert third.status == "done"

    in_line(test)


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [(InputError("No cat."), 3, "No cat."), (ValueError("what"), 1, "An internal error occurred (ValueError: what).")],
)
def test_the_line_goes_on_after_an_error(fault: Exception, code: int, message: str) -> None:
    async def test(line: Line) -> None:
        first, second = (line.queue.add("edit", "a", {}) for _ in range(2))
        await line.settle()
        line.fault = fault
        await line.end_one()
        line.fault = None
        assert (first.status, first.error) == ("failed", {"code": code, "message": message})
        await line.end_one()
        assert second.status == "done"

    in_line(test)


def test_the_line_has_an_end() -> None:
    async def test(line: Line) -> None:
        for _ in range(MOST_WAITING + 1):
            line.queue.add("edit", "a", {})
            await line.settle()
        with pytest.raises(UsageError, match="jobs wait already"):
            line.queue.add("edit", "a", {})
        for _ in range(MOST_WAITING + 1):
            await line.end_one()
        line.queue.add("edit", "a", {})
        assert len(line.queue.jobs) == KEPT + 1

    in_line(test)


def test_every_change_is_heard() -> None:
    async def test(line: Line) -> None:
        async with line.queue.listening() as one, line.queue.listening() as other:
            line.queue.add("edit", "a", {})
            assert one.is_set()
            assert other.is_set()
            await line.settle()
            one.clear()
            line.queue.jobs["1"].step("edit", 3, 16)
            assert one.is_set()
            assert line.queue.record()[0]["done"] == 3
            one.clear()
            await line.end_one()
            assert one.is_set()
        one.clear()
        line.queue.add("edit", "a", {})
        assert not one.is_set()

    in_line(test)
