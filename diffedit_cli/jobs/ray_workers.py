"""The jobs of a run on Ray: each worker holds one model; Ray starts workers that are lost again, and their pictures."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diffedit_cli.errors import DeviceError, DiffEditError, UsageError
from diffedit_cli.jobs import destinations, outcomes, plan, runner
from diffedit_cli.jobs.job import Job
from diffedit_cli.jobs.rows import Row
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.results.result import Result
from diffedit_cli.results.results_log import ResultsLog
from diffedit_cli.storage.ownership import Ownership
from diffedit_cli.storage.remote import Fetched

if TYPE_CHECKING:
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline

TRIES = 2  # more, for a picture whose worker was lost
LEAST = 80 * 2**20  # bytes, the smallest store of objects that Ray has: rows and results are small
LIBRARIES = ("HF_", "TRANSFORMERS_", "DIFFUSERS_")  # whose variables the workers are to have, too


class Session(Protocol):
    """What a worker asks of a command line's models and options."""

    @property
    def about(self) -> dict[str, Any]: ...

    def open(self) -> EditPipeline: ...

    def share(self, row: Row) -> dict[str, Any]: ...

    def trace(self, text: str) -> None: ...


class Worker:
    """Edits one picture at a time, in the same folder and by the same options as the process that started the run."""

    def __init__(
        self,
        given: dict[str, Any],
        folder: Path,
        environment: dict[str, str],
        launch: Callable[[dict[str, Any]], Session],
    ) -> None:
        """`launch` makes the session from `given`; Ray pickles it by its name."""
        os.environ.update(environment)
        self._given, self._folder, self._launch = given, folder, launch

    @functools.cached_property
    def _session(self) -> Session:
        return self._launch(self._given)

    @functools.cached_property
    def _place(self) -> destinations.Place:
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise UsageError(
                f"The folder {self._folder} is not on every machine of Ray ({error.strerror}); share it, or give URLs."
            ) from None
        return destinations.place(self._given["out"]).__enter__()

    @functools.cached_property
    def _results_log(self) -> ResultsLog:
        return self._place.results_log(None, Ownership())

    def edit(self, row: Row, before: str | None, spared: set[str]) -> Result:
        """The result, its files where they belong; skipped if what is there is of the same identity, `before`.

        Whether they replace an input is known where all rows are, which is asked before; `spared` is as in `Place`.
        """
        job = None
        try:
            place = self._place
            place.spared = spared
            job = plan.job_of(row, self._session.share, place.path, self._given["name"])
            owner = Ownership(force=job.force)
            owner.book = self._results_log
            job = replace(job, before=before, ownership=owner)
            with Fetched() as fetched:
                jobs = plan.pending(iter([(row, job)]), fetched, place, lambda: self._session.about)
                told = functools.partial(runner.publish_result, fetched=fetched, place=place)
                return next(runner.run_pipelined(jobs, self._session.open, on_bug=self._session.trace, record=told))
        except DiffEditError as error:
            return plan.refusal(row, error, job)


def edit_on_workers(
    claimed: Iterator[tuple[Row, Job] | Result],
    workers: list[Any],
    spared: set[str],
    *,
    record: Callable[[Result], Result],
    stopping: Callable[[], bool],
) -> Generator[Result, None, None]:
    """Results as they come, each first told to `record`. After `stopping` says so no other picture is begun.

    One that took its worker with it each time has failed.
    """
    import ray

    idle, busy = list(workers), {}
    while True:
        while idle and not stopping() and (one := next(claimed, None)) is not None:
            if isinstance(one, Result):
                yield record(one)
                continue
            row, job = one
            worker = idle.pop()
            busy[worker.edit.remote(row, job.before, spared)] = worker, row, job
        if not busy:
            return
        [ended], _ = ray.wait(list(busy), num_returns=1)
        worker, row, job = busy.pop(ended)
        idle.append(worker)
        try:
            result = ray.get(ended)
        except ray.exceptions.RayActorError as error:
            lost = f"The worker of this picture was lost {TRIES + 1} times ({type(error).__name__}); is memory short?"
            result = plan.refusal(row, DeviceError(lost), job)
        except ray.exceptions.RayError as error:
            result = plan.refusal(row, DiffEditError(outcomes.bug_message(error)), job)
        yield record(result)


@contextlib.contextmanager
def hire(count: int | None, given: dict[str, Any], launch: Callable[[dict[str, Any]], Session]) -> Iterator[list[Any]]:
    """So many workers, for None as many as Ray has GPUs, else processors; each with one of these of its own.

    Of the Ray that runs, as RAY_ADDRESS or this machine has it, else of one that is started here and ends with this.
    Raises UsageError, also where Ray is not installed or has too few.
    """
    count = count or 0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_worker_niceness", "0")  # the workers of a Ray that is started here are the run itself
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray; install it with: pip install 'diffedit-cli[ray]'.") from None
    with contextlib.redirect_stdout(sys.stderr):  # where Ray says what becomes of workers
        _start(count, verbose=given["verbose"])
        try:
            yield _workers(count, given, launch)
        finally:
            ray.shutdown()


def _start(count: int, *, verbose: bool) -> None:
    import ray

    said = {"log_to_driver": verbose, "logging_level": "ERROR"}
    try:
        ray.init(address=AUTO, **said)
    except ConnectionError:
        processors = max(count, os.cpu_count() or 1)
        ray.init(num_cpus=processors, object_store_memory=LEAST, include_dashboard=False, **said)


def _workers(count: int, given: dict[str, Any], launch: Callable[[dict[str, Any]], Session]) -> list[Any]:
    import ray

    here = ray.cluster_resources()
    needed = "GPU" if here.get("GPU") and given["device"].split(":")[0] in (AUTO, "cuda") else "CPU"
    room = int(here.get(needed, 0))
    if not count <= room:
        raise UsageError(f"--ray {count} is more than Ray has room for, one on each of {room} {needed}s; ask for less.")
    options = {"num_cpus": 1, "num_gpus": int(needed == "GPU"), "max_restarts": -1, "max_task_retries": TRIES}
    environment = {name: value for name, value in os.environ.items() if name.startswith(LIBRARIES)}
    hire = ray.remote(**options)(Worker).remote
    return [hire(given, Path.cwd(), environment, launch) for _ in range(count or room)]
