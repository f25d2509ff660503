"""Plans the jobs of a run from rows, and skips the jobs that are done."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli import errors
from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.jobs import checks, execute, outcomes, output_names
from diffedit_cli.jobs.job import Job
from diffedit_cli.jobs.rows import Row
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.params import Params
from diffedit_cli.results.result import Result
from diffedit_cli.results.results_log import ResultsLog
from diffedit_cli.storage import atomic, files, hashing, paths
from diffedit_cli.storage.ownership import Ownership

if TYPE_CHECKING:
    from diffedit_cli.jobs.destinations import Destination
    from diffedit_cli.storage.remote import DownloadedFiles


SCHEMA = 1  # version of the identity's content
READ = {"input": "picture", "mask": "mask", "latents": "latents file", "within": "mask", "exclude": "mask"}
"""The input files of a job, by field, and what messages call them."""
Share = Callable[[Row], dict[str, Any]]  # returns the fields of a row's job other than its input and outputs
About = Callable[[Params], dict[str, Any]]  # returns what results with these parameters depend on besides


def job_of(row: Row, share: Share, out: Path, template: str) -> Job:
    """Returns the job of a row; `template` names its output below the folder `out`.

    Raises the row's problem, InputError or UsageError for invalid values of the row, and what `share` raises.
    """
    if row.problem:
        raise row.problem
    if not row.url and (wrong := paths.flaw(row.input)):
        raise InputError(f"The picture {str(row.input)!r} is not a valid file name: {wrong}; check the name.")
    if row.input == files.STANDARD_STREAM:
        raise UsageError(
            "A row of a run cannot be - (standard input); use diffedit edit for a picture on standard input."
        )
    shared = share(row)
    if (said := row.given.get("output")) is not None:
        if not isinstance(said, str | int | float):
            raise UsageError("output must be a path below the folder that --out names.")
        place = output_names.check_below(Path(str(said)))
    else:
        place = output_names.result_path(
            template, row.place, output_names.written_extension(row.input), shared["params"]
        )
    label = str(place).removesuffix(".png")  # a.jpg and a.png need different mask names
    mask = out / f"{label}.mask.png"
    return Job(
        input=row.input, url=row.url, output=out / place, mask_output=mask, label=label, chosen_by="--out",
        mask_chosen_by="--out", where=row.where, **shared,
    )  # fmt: skip


def identity(job: Job, about: dict[str, Any]) -> str:
    """Returns the SHA-256 (hex) of everything the results depend on: the content of all input files and all options.

    `about` is the rest for the job's parameters, such as the digest of the model. Raises InputError for a file that
    cannot be read.
    """
    read = {name: _content(getattr(job, name), what) for name, what in READ.items()}
    rest = {"box": job.box, "point": job.point, "metadata": job.metadata, "schema": SCHEMA}
    rest |= {"strip-metadata": True} if job.strip_metadata else {}
    return hashing.of_record({**cache_keys.all_parameters(job.params), **read, **rest, **about})


def plan_jobs(
    rows: Iterable[Row],
    share: Share,
    place: Destination,
    template: str,
    results_log: ResultsLog,
    owner: Ownership,
    mine: Callable[[int], bool],
    on_bug: Callable[[str], Any] = lambda _: None,
) -> Iterator[tuple[Row, Job] | Result]:
    """Yields the job of each row whose position is `mine`, or a failed result; `owner` is shared by all jobs.

    The outputs of other processes' rows are claimed as well, so that a name collision between shards is detected.
    """  # fmt: skip
    for position, row in enumerate(rows):
        try:
            job = replace(job_of(row, share, place.path, template), ownership=owner)
            checks.claim_all([job], "edit", [row.name], "give each a name of its own")
            place.check_inputs(job)
            if mine(position):
                before = results_log.identity_of(job.output_paths[0])
                whole = before is not None and all(map(place.holds, job.output_paths))
                yield row, replace(job, before=before if whole else None)
        except Exception as error:
            if mine(position):
                yield refusal(row, _explained(error, on_bug))


def pending(
    claimed: Iterator[tuple[Row, Job] | Result],
    fetched: DownloadedFiles,
    place: Destination,
    about: About,
    on_bug: Callable[[str], Any] = lambda _: None,
) -> Iterator[Job | Result]:
    """Yields each job still to do, or a skipped result for a job whose outputs exist with the same identity.

    Inputs at URLs are fetched ahead. A job that cannot be done yields a failed result.
    """
    wanted = (("" if isinstance(one, Result) else one[0].url, one) for one in claimed)
    for path, one in fetched.ahead(wanted):
        if isinstance(one, Result):
            yield one
            continue
        row, job = one
        try:
            if isinstance(path, DiffEditError):
                raise path
            job = replace(job, input=path or job.input)
            job = replace(job, identity=identity(job, about(job.params)))
            if _is_done(job):
                atomic.sweep(job.output_paths[0].parent)  # where nothing is written now
                yield outcomes.undone_result(job, "skipped")
                continue
            place.prepare(job)
            yield job
        except Exception as error:
            yield refusal(row, _explained(error, on_bug), job)


def forecast(
    claimed: Iterator[tuple[Row, Job] | Result],
    about: About,
    check: Callable[[Job], object],
    on_bug: Callable[[str], Any] = lambda _: None,
) -> Generator[Result, None, None]:
    """Yields the expected result of each job, from its files and from `check`, without loading the model.

    Nothing is fetched: a job whose input is at a URL counts as planned, even if it is done.
    """
    for one in claimed:
        if isinstance(one, Result):
            yield one
            continue
        row, job = one
        try:
            if not row.url:
                job = replace(job, identity=identity(job, about(job.params)))
            done = _is_done(job)
            if not (row.url or done):
                check(job)
                execute.foresee_edit(job)
            result = outcomes.undone_result(job, "skipped" if done else "planned")
            yield replace(result, input=row.name)
        except Exception as error:
            yield refusal(row, _explained(error, on_bug), job)


def _is_done(job: Job) -> bool:
    return job.identity is not None and job.before == job.identity and not job.force


def _explained(error: Exception, on_bug: Callable[[str], Any]) -> DiffEditError:
    """Returns the DiffEditError with which any error fails one row. `on_bug` receives the traceback of a bug."""
    if isinstance(error, DiffEditError):
        return error
    if known := errors.of_surroundings(error):
        return known
    on_bug(traceback.format_exc())
    return DiffEditError(outcomes.bug_message(error))


def _content(path: Path | None, what: str) -> str | None:
    if path is None:
        return None
    files.check_readable(path, what)
    try:
        return hashing.of_content(path)
    except OSError as error:
        raise files.unread(path, what, error) from error


def refusal(row: Row, error: DiffEditError, job: Job | None = None) -> Result:
    """Returns the failed result of a row, with the prompts of its job, or of the row if it has no job."""
    told = {"code": error.code, "message": f"{row.where}: {error}" if row.where and not row.problem else str(error)}
    if job is not None:
        return Result(status="failed", input=row.name, error=told, seed=job.params.seed, **outcomes.prompts(job))
    source, target = (said if isinstance(said := row.given.get(name), str) else None for name in ("from", "to"))
    return Result(status="failed", input=row.name, error=told, from_=source, to=target)
