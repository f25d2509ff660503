"""Runs the jobs of a run as a pipeline: pictures are read ahead of the network and written behind it."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffedit_cli.jobs import execute, outcomes
from diffedit_cli.jobs.cooperative import CooperativeBatcher
from diffedit_cli.jobs.execute import EditInputs
from diffedit_cli.jobs.job import Job, OpenPipeline
from diffedit_cli.results.result import Result

if TYPE_CHECKING:
    from torch import Tensor

    from diffedit_cli.engine.interfaces import ModelInput
    from diffedit_cli.jobs.destinations import Destination
    from diffedit_cli.storage.remote import DownloadedFiles


AHEAD = 2  # pictures read while another is edited


def publish_result(result: Result, fetched: DownloadedFiles, place: Destination) -> Result:
    """Delivers a result's files to their destination and returns the result with their final paths or URLs.

    For an input that was fetched, the URL replaces the path of the copy, also in messages, and the copy is removed.
    """
    source = fetched.url(result.input)
    error, warnings = result.error, tuple(text.replace(result.input, source) for text in result.warnings)
    if error is not None:
        error = {**error, "message": error["message"].replace(result.input, source)}
    taken = place.take(replace(result, error=error, warnings=warnings), source)
    fetched.drop(result.input)
    return replace(taken, input=source)


class _Run:
    """State of a pipelined run: `readers` read ahead, edits are computed in turn, `writer` writes behind."""

    def __init__(
        self,
        open_pipeline: OpenPipeline,
        on_bug: Callable[[str], Any],
        record: Callable[[Result], Result],
        at_once: int | None,
    ) -> None:
        self._open_pipeline, self._on_bug, self._record = open_pipeline, on_bug, record
        self._at_once, self.most = at_once, at_once or 1
        self.readers = ThreadPoolExecutor(AHEAD, "reading")
        self.writer = ThreadPoolExecutor(1, "writing")  # one thread keeps the order in which edits end
        self.batcher: CooperativeBatcher[ModelInput, Tensor] = CooperativeBatcher(
            lambda asked: open_pipeline().session.ask_together(asked)
        )

    def read(self, job: Job | Result) -> Callable[[], Future[Future[Result]]]:
        """Starts to read a job's files and returns a function that computes the edit; a `Result` is only recorded.

        The outer future ends when the edit is computed, the inner future when its result is written and recorded.
        """
        if isinstance(job, Result):
            return functools.partial(self._end, job)
        inputs = self.readers.submit(lambda: outcomes.attempt(job, lambda: execute.read_inputs(job), self._on_bug))
        return functools.partial(self._paint, job, inputs)

    def _paint(self, job: Job, reading: Future[EditInputs | Result]) -> Future[Future[Result]]:
        """Computes the edit, then queues its write."""
        inputs = reading.result()
        if isinstance(inputs, Result):
            return self._end(inputs)
        pipeline = outcomes.attempt(job, self._open_pipeline, self._on_bug)
        if isinstance(pipeline, Result):
            return self._end(pipeline)
        self.most = self._at_once or pipeline.at_once
        if self.most == 1:
            return self._end(self._painted(job, inputs, lambda: pipeline))
        own = pipeline.beside(self.batcher.ask, self.batcher.wait)
        return self.batcher.begin(lambda: self.writer.submit(self._settle, self._painted(job, inputs, lambda: own)))

    def _painted(self, job: Job, inputs: EditInputs, open_pipeline: OpenPipeline) -> Callable[[], Result] | Result:
        """Computes the edit and returns a function that writes its result, or a failed result."""
        painted = outcomes.attempt(job, lambda: execute.paint(job, inputs, open_pipeline), self._on_bug)
        if isinstance(painted, Result):
            return painted
        return lambda: outcomes.attempt(job, lambda: execute.write(job, inputs, painted), self._on_bug)

    def _end(self, made: Callable[[], Result] | Result) -> Future[Future[Result]]:
        done: Future[Future[Result]] = Future()
        done.set_result(self.writer.submit(self._settle, made))
        return done

    def _settle(self, made: Callable[[], Result] | Result) -> Result:
        return self._record(made if isinstance(made, Result) else made())


def run_pipelined(
    planned: Iterable[Job | Result],
    open_pipeline: OpenPipeline,
    *,
    on_bug: Callable[[str], Any],
    record: Callable[[Result], Result],
    stopping: Callable[[], bool] = lambda: False,
    at_once: int | None = 1,
) -> Generator[Result, None, None]:
    """Yields the results of edits in order, as `outcomes.each` does, but reads and writes pictures during other edits.

    `at_once` pictures are edited together with joined network evaluations; None chooses the best number for the device.
    `record` receives each result as soon as it is written and returns the result to yield. Once `stopping` returns
    True, no further picture starts. When the generator is closed or interrupted, edits that are not computed yet are
    discarded.
    """
    run = _Run(open_pipeline, on_bug, record, at_once)
    with run.readers, run.writer, run.batcher:
        remaining = iter(planned)
        waiting: deque[Callable[[], Future[Future[Result]]]] = deque()
        begun: deque[Future[Future[Result]]] = deque()
        while True:
            while not stopping() and len(waiting) < max(AHEAD, run.most) and (job := next(remaining, None)) is not None:
                waiting.append(run.read(job))
            if waiting and run.batcher.count < run.most and len(begun) < 2 * run.most and not stopping():
                begun.append(waiting.popleft()())
            elif run.batcher.count:
                run.batcher.round()
            elif begun:
                wait([begun[0].result()])
            else:
                break
            while begun and begun[0].done() and begun[0].result().done():
                yield begun.popleft().result().result()
