"""The jobs of a run at work: pictures are read ahead of the network and written behind it."""

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
    from diffedit_cli.jobs.destinations import Place
    from diffedit_cli.storage.remote import Fetched


AHEAD = 2  # pictures that are read while another is edited


def publish_result(result: Result, fetched: Fetched, place: Place) -> Result:
    """A result with its files where they belong, and under the names that these have there."""
    source = fetched.url(result.input)
    error, warnings = result.error, tuple(text.replace(result.input, source) for text in result.warnings)
    if error is not None:
        error = {**error, "message": error["message"].replace(result.input, source)}
    taken = place.take(replace(result, error=error, warnings=warnings), source)
    fetched.drop(result.input)
    return replace(taken, input=source)


class _Run:
    """Edits at work: read ahead by `readers`, painted in this thread, written behind by `writer`."""

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
        self.writer = ThreadPoolExecutor(1, "writing")  # one: results are recorded in the order in which they end
        self.batcher: CooperativeBatcher[ModelInput, Tensor] = CooperativeBatcher(
            lambda asked: open_pipeline().session.ask_together(asked)
        )

    def read(self, job: Job | Result) -> Callable[[], Future[Future[Result]]]:
        """Begins to read a job's files; what is returned paints it. What has ended already is only recorded."""
        if isinstance(job, Result):
            return functools.partial(self._end, job)
        inputs = self.readers.submit(lambda: outcomes.attempt(job, lambda: execute.read_inputs(job), self._on_bug))
        return functools.partial(self._paint, job, inputs)

    def _paint(self, job: Job, reading: Future[EditInputs | Result]) -> Future[Future[Result]]:
        """Painted, then written."""
        inputs = reading.result()
        if isinstance(inputs, Result):
            return self._end(inputs)
        pipeline = outcomes.attempt(job, self._open_pipeline, self._on_bug)
        if isinstance(pipeline, Result):
            return self._end(pipeline)
        self.most = self._at_once or pipeline.session.at_once
        if self.most == 1:
            return self._end(self._painted(job, inputs, lambda: pipeline))
        own = pipeline.beside(self.batcher.ask, self.batcher.wait)
        return self.batcher.begin(lambda: self.writer.submit(self._settle, self._painted(job, inputs, lambda: own)))

    def _painted(self, job: Job, inputs: EditInputs, open_pipeline: OpenPipeline) -> Callable[[], Result] | Result:
        """What writes the result, or the failed result."""
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
    """As `outcomes.each` of edits, in order, but pictures are read and written while others are edited.

    `at_once` are edited together, their calls of the network joined; None: as many as is best on the device. `record`
    gets each result as soon as it is written and returns it as it is shown. Once `stopping` returns True no other
    picture is begun. When the generator is closed or interrupted, edits that are not painted yet are discarded.
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
