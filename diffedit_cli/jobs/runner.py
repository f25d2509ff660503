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

    So many are edited at once, their calls of the network joined; None: as many as is best where they are edited.
    `record` is told of each result as soon as it is written, whatever is done meanwhile, and returns it as it is to be
    told. After `stopping` says so no other picture is begun. Whoever closes it, or is interrupted, leaves those undone
    that are not painted yet.
    """
    most = at_once or 1

    def settled(made: Callable[[], Result] | Result) -> Result:
        return record(made if isinstance(made, Result) else made())

    def begun(job: Job, opening: Future[EditInputs | Result]) -> Future[Future[Result]]:
        nonlocal most
        opened = opening.result()
        if isinstance(opened, Result):
            return ended(opened)
        pipeline = outcomes.attempt(job, open_pipeline, on_bug)
        if isinstance(pipeline, Result):
            return ended(pipeline)
        most = at_once or pipeline.session.at_once
        if most == 1:
            return ended(_painted(job, opened, lambda: pipeline, on_bug))
        own = pipeline.beside(together.ask, together.wait)
        return together.begin(lambda: writer.submit(settled, _painted(job, opened, lambda: own, on_bug)))

    def ended(made: Callable[[], Result] | Result) -> Future[Future[Result]]:
        done: Future[Future[Result]] = Future()
        done.set_result(writer.submit(settled, made))
        return done

    with (
        ThreadPoolExecutor(AHEAD, "reading") as readers,
        ThreadPoolExecutor(1, "writing") as writer,  # one, so that they are recorded in the order in which they end
        _together(open_pipeline) as together,
    ):
        remaining = iter(planned)
        waiting: deque[Callable[[], Future[Future[Result]]]] = deque()
        unsaid: deque[Future[Future[Result]]] = deque()  # painted, then written
        while True:
            while not stopping() and len(waiting) < max(AHEAD, most) and (job := next(remaining, None)) is not None:
                if isinstance(job, Result):
                    waiting.append(functools.partial(ended, job))
                else:
                    waiting.append(functools.partial(begun, job, readers.submit(_opened, job, on_bug)))
            if waiting and together.count < most and len(unsaid) < 2 * most and not stopping():
                unsaid.append(waiting.popleft()())
            elif together.count:
                together.round()
            elif unsaid:
                wait([unsaid[0].result()])
            else:
                break
            while unsaid and unsaid[0].done() and unsaid[0].result().done():
                yield unsaid.popleft().result().result()


def _together(open_pipeline: OpenPipeline) -> CooperativeBatcher[ModelInput, Tensor]:
    return CooperativeBatcher(lambda asked: open_pipeline().session.ask_together(asked))


def _opened(job: Job, on_bug: Callable[[str], Any]) -> EditInputs | Result:
    return outcomes.attempt(job, lambda: execute.read_inputs(job), on_bug)


def _painted(
    job: Job, opened: EditInputs, open_pipeline: OpenPipeline, on_bug: Callable[[str], Any]
) -> Callable[[], Result] | Result:
    save = outcomes.attempt(job, lambda: execute.paint(job, opened, open_pipeline), on_bug)
    return save if isinstance(save, Result) else lambda: outcomes.attempt(job, save, on_bug)
