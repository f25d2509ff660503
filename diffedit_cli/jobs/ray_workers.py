"""Runs jobs on Ray: each worker holds one model, and Ray restarts a lost worker together with its picture."""

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
from diffedit_cli.storage.remote import DownloadedFiles

if TYPE_CHECKING:
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline
    from diffedit_cli.pipeline.params import Params

TRIES = 2  # retries of a picture whose worker was lost
LEAST = 80 * 2**20  # bytes, the smallest object store that Ray allows: rows and results are small
LIBRARIES = ("HF_", "TRANSFORMERS_", "DIFFUSERS_")  # prefixes of environment variables that workers also get


class Session(Protocol):
    """The models and options of a command line, as a worker uses them."""

    def about(self, params: Params) -> dict[str, Any]: ...

    def open(self) -> EditPipeline: ...

    def share(self, row: Row) -> dict[str, Any]: ...

    def trace(self, text: str) -> None: ...


class Worker:
    """Edits one picture at a time, in the same folder and with the same options as the process that started the run."""

    def __init__(
        self,
        given: dict[str, Any],
        folder: Path,
        environment: dict[str, str],
        launch: Callable[[dict[str, Any]], Session],
    ) -> None:
        """Sets the environment; `launch` creates the session from `given` at the first edit. Ray pickles it by name."""
        os.environ.update(environment)
        self._given, self._folder, self._launch = given, folder, launch

    @functools.cached_property
    def _session(self) -> Session:
        return self._launch(self._given)

    @functools.cached_property
    def _place(self) -> destinations.Destination:
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise UsageError(
                f"The folder {self._folder} is not on every machine of Ray ({error.strerror}); share it, or give URLs."
            ) from None
        return destinations.destination_of(self._given["out"]).__enter__()

    @functools.cached_property
    def _results_log(self) -> ResultsLog:
        return self._place.results_log(None, Ownership())

    def edit(self, row: Row, before: str | None, protected_thumbnails: set[str]) -> Result:
        """Edits the picture of a row and returns its result; skipped if the existing outputs have the same identity.

        `before` is the identity of the existing outputs, `protected_thumbnails` is as in `Destination`. Whether an
        output would replace an input was checked before by the process that knows all rows.
        """
        job = None
        try:
            place = self._place
            place.protected_thumbnails = protected_thumbnails
            job = plan.job_of(row, self._session.share, place.path, self._given["name"])
            owner = Ownership(force=job.force)
            owner.book = self._results_log
            job = replace(job, before=before, ownership=owner)
            with DownloadedFiles() as fetched:
                jobs = plan.pending(iter([(row, job)]), fetched, place, self._session.about)
                told = functools.partial(runner.publish_result, fetched=fetched, place=place)
                return next(runner.run_pipelined(jobs, self._session.open, on_bug=self._session.trace, record=told))
        except DiffEditError as error:
            return plan.refusal(row, error, job)


def edit_on_workers(
    claimed: Iterator[tuple[Row, Job] | Result],
    workers: list[Any],
    protected_thumbnails: set[str],
    *,
    record: Callable[[Result], Result],
    stopping: Callable[[], bool],
) -> Generator[Result, None, None]:
    """Yields results as they end, each after a call of `record`. Once `stopping` returns True, no other picture starts.

    A picture whose worker is lost at every try has failed.
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
            busy[worker.edit.remote(row, job.before, protected_thumbnails)] = worker, row, job
        if not busy:
            return
        [ended], _ = ray.wait(list(busy), num_returns=1)
        worker, row, job = busy.pop(ended)
        idle.append(worker)
        try:
            result = ray.get(ended)
        except ray.exceptions.RayActorError as error:
            kind = type(error).__name__
            remedy = "check whether its machine has enough memory"
            lost = f"The worker of this picture was lost {TRIES + 1} times ({kind}); {remedy}."
            result = plan.refusal(row, DeviceError(lost), job)
        except ray.exceptions.RayError as error:
            result = plan.refusal(row, DiffEditError(outcomes.bug_message(error)), job)
        yield record(result)


@contextlib.contextmanager
def hire(count: int | None, given: dict[str, Any], launch: Callable[[dict[str, Any]], Session]) -> Iterator[list[Any]]:
    """Yields `count` workers, each with a GPU of its own, or a CPU if Ray has no GPUs or --device is another device.

    None means as many workers as Ray has GPUs or CPUs. Connects to a running Ray, of RAY_ADDRESS or of this machine,
    else starts one that ends with the context. Raises UsageError, also if Ray is not installed or has too few of them.
    """
    count = count or 0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    # Ray lowers the priority of its workers, but the workers of a Ray started here are the run itself.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray; install it with: pip install 'diffedit-cli[ray]'.") from None
    with contextlib.redirect_stdout(sys.stderr):  # Ray reports on workers on standard output
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
        raise UsageError(
            f"--ray {count} is more than Ray has room for: one worker on each of {room} {needed}s; ask for fewer."
        )
    options = {"num_cpus": 1, "num_gpus": int(needed == "GPU"), "max_restarts": -1, "max_task_retries": TRIES}
    environment = {name: value for name, value in os.environ.items() if name.startswith(LIBRARIES)}
    hire = ray.remote(**options)(Worker).remote
    return [hire(given, Path.cwd(), environment, launch) for _ in range(count or room)]
