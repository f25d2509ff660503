"""Outcomes of jobs: results, and failed results for errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from diffedit_cli import errors
from diffedit_cli.errors import DiffEditError, Withheld
from diffedit_cli.images.pictures import Picture
from diffedit_cli.jobs import interrupts, output_names
from diffedit_cli.jobs.job import Job
from diffedit_cli.results.result import Result

if TYPE_CHECKING:
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline
    from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.jobs.job import OpenPipeline

T = TypeVar("T")


def each(
    jobs: Iterable[Job],
    command: Callable[[Job, OpenPipeline], Result],
    open_pipeline: OpenPipeline,
    *,
    on_bug: Callable[[str], Any],
) -> Iterator[Result]:
    """Yields the results of jobs in order. A picture that fails yields a failed result, and the next picture begins.

    `on_bug` receives the traceback of a bug.
    """
    for job in jobs:
        yield attempt(job, lambda job=job: command(job, open_pipeline), on_bug)  # type: ignore[misc]


def attempt(job: Job, call: Callable[[], T], on_bug: Callable[[str], Any]) -> T | Result:
    """Returns what `call` returns, or a failed result if it raises; `on_bug` receives the traceback of a bug."""
    try:
        return call()
    except DiffEditError as error:
        interrupts.raise_if_pressed()
        failed = failed_result(job, error.code, str(error))
        return replace(failed, status="withheld") if isinstance(error, Withheld) else failed
    except Exception as error:
        interrupts.raise_if_pressed()
        if known := errors.of_surroundings(error):
            return failed_result(job, known.code, str(known))
        on_bug(traceback.format_exc())
        return failed_result(job, DiffEditError.code, bug_message(error))


def bug_message(error: BaseException) -> str:
    return (
        f"An internal error occurred ({type(error).__name__}: {error}); "
        "run it again with --verbose and report what it prints."
    )


def done_result(
    job: Job, picture: Picture, pipeline: EditPipeline, stats: EditStats, *, output: Path, **more: Any
) -> Result:
    more = {"outputs": (str(output),), "seed": job.params.seed, **more}
    return Result(
        status="done",
        input=str(job.input),
        output=str(output),
        model=pipeline.folder.name,
        painter=pipeline.inpainting.folder.name if pipeline.inpainting else None,
        device=pipeline.device,
        preview=str(job.shows["preview"]) if job.preview else None,
        evaluations=stats.evaluations,
        cache=stats.cache,
        seconds=stats.seconds,
        warnings=(*picture.warnings, *stats.warnings),
        region=stats.region,
        evidence=None if stats.gain is None else round(stats.gain, 3),
        identity=job.identity,
        **prompts(job),
        **more,
    )


def failed_result(job: Job, code: int, message: str) -> Result:
    said = {"code": code, "message": f"{job.where}: {message}" if job.where else message}
    return Result(status="failed", input=str(job.input), seed=job.params.seed, error=said, **prompts(job))


def undone_result(job: Job, status: Literal["skipped", "planned"]) -> Result:
    """Returns the result of a job that is skipped, as an earlier run made the same outputs, or that is only planned."""
    outputs = output_names.variant_paths(job.output_paths[0], job.params)
    return Result(
        status=status,
        input=str(job.input),
        output=str(outputs[0]),
        outputs=tuple(map(str, outputs)),
        mask=str(job.mask_file) if job.mask_file else None,
        seed=job.params.seed,
        identity=job.identity,
        **prompts(job),
    )


def prompts(job: Job) -> dict[str, Any]:
    return {"from_": str(job.params.from_), "to": str(job.params.to)}
