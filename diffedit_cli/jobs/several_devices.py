"""Runs the jobs of a run on several devices in one process: a thread with a model of its own for each."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from diffedit_cli.engine.networks import fast_imports
from diffedit_cli.jobs import runner
from diffedit_cli.jobs.cooperative import TaskCancelled
from diffedit_cli.jobs.job import Job, OpenPipeline
from diffedit_cli.results.result import Result

if TYPE_CHECKING:
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline


class _Work:
    """Jobs that the workers share: each takes the next one when it has room, and one at a time records a result."""

    def __init__(
        self,
        planned: Iterable[Job | Result],
        record: Callable[[Result], Result],
        stopping: Callable[[], bool],
        pipelined: Callable[..., Generator[Result, None, None]],
    ) -> None:
        self._planned = enumerate(planned)
        self._record, self._stopping, self._pipelined = record, stopping, pipelined
        self._taking, self._recording, self._opening, self._telling = Lock(), Lock(), Lock(), Lock()
        self.cancelled = False
        self.ended: SimpleQueue[tuple[int, Result] | BaseException | None] = SimpleQueue()

    def do(self, open_pipeline: OpenPipeline) -> None:
        """Puts the results of one worker into `ended`, each with the number of its job, and None or an error last."""
        taken: deque[int] = deque()
        try:
            results = self._pipelined(
                self._jobs(taken),
                functools.partial(self._opened, functools.cache(open_pipeline)),
                record=self._recorded,
                stopping=lambda: self.cancelled or self._stopping(),
            )
            with contextlib.closing(results):
                for result in results:
                    self.ended.put((taken.popleft(), result))
                    if self.cancelled:
                        raise TaskCancelled
            self.ended.put(None)
        except BaseException as error:  # also Ctrl-C, which a library may report here
            self.ended.put(error)

    def _jobs(self, taken: deque[int]) -> Iterator[Job | Result]:
        while True:
            with self._taking:
                number, one = next(self._planned, (-1, None))
                if one is None:
                    return
                taken.append(number)
            yield one

    def _opened(self, open_pipeline: OpenPipeline) -> EditPipeline:
        with self._opening:  # the libraries are imported once
            pipeline = open_pipeline()
        own = copy.copy(pipeline)
        own.context = replace(pipeline.context, progress=functools.partial(self._told, pipeline.context.progress))
        return own

    def _told(self, progress: Callable[..., object], *said: Any) -> None:
        if self.cancelled:
            raise TaskCancelled
        with self._telling:
            progress(*said)

    def _recorded(self, result: Result) -> Result:
        with self._recording:
            return self._record(result)


def run_on_each(
    planned: Iterable[Job | Result],
    workers: Sequence[OpenPipeline],
    *,
    on_bug: Callable[[str], Any],
    record: Callable[[Result], Result],
    stopping: Callable[[], bool] = lambda: False,
    at_once: int | None = 1,
) -> Generator[Result, None, None]:
    """Yields the results of edits in order, as `runner.run_pipelined` does, of one worker for each of the pipelines.

    A result does not depend on the worker. They are recorded as they end. When the generator is closed or interrupted,
    edits in progress are discarded at their next step.
    """
    several_before, fast_imports.several = fast_imports.several, len(workers) > 1
    pipelined = functools.partial(runner.run_pipelined, on_bug=on_bug, at_once=at_once)
    work = _Work(planned, record, stopping, pipelined)
    threads = [Thread(target=work.do, args=[one], name=f"device {number}") for number, one in enumerate(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from _in_order(work.ended, len(threads))
    finally:
        work.cancelled = True
        for thread in threads:
            thread.join()
        fast_imports.several = several_before


def _in_order(
    ended: SimpleQueue[tuple[int, Result] | BaseException | None], working: int
) -> Generator[Result, None, None]:
    """Yields results in the order of their numbers until all workers have ended. Raises the error of a worker."""
    found: dict[int, Result] = {}
    following = 0
    while working:
        one = ended.get()
        if one is None:
            working -= 1
        elif isinstance(one, BaseException):
            raise one
        else:
            found[one[0]] = one[1]
        while following in found:
            yield found.pop(following)
            following += 1
    yield from (found[number] for number in sorted(found))  # after a stop some jobs were taken and not begun
