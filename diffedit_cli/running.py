"""The jobs of a run: planned from rows, passed over when done, read ahead of the network and written behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffedit_cli import batch, digests, files, naming
from diffedit_cli.batch import Job, Opened, OpenWorkbench
from diffedit_cli.errors import DiffEditError, UsageError
from diffedit_cli.ledger import Ledger
from diffedit_cli.made import Made, touch
from diffedit_cli.params import digest
from diffedit_cli.places import Place
from diffedit_cli.remote import Fetched
from diffedit_cli.report import Result
from diffedit_cli.sources import Row

AHEAD = 2  # pictures that are read while another is edited
SCHEMA = 1  # of identities

Command = Callable[[Job, OpenWorkbench], Result]
Share = Callable[[Row], dict[str, Any]]  # what a row's job has beside input and outputs


def job_of(row: Row, share: Share, out: Path, template: str) -> Job:
    """Raises UsageError for a row that says something impossible, and what `share` raises."""
    if row.problem:
        raise UsageError(row.problem)
    if row.input == files.STANDARD_STREAM:
        raise UsageError("A row of a run is a picture's path; use diffedit edit for a picture on standard input.")
    shared = share(row)
    if "output" in row.given:
        place = naming.below(Path(str(row.given["output"])))
    else:
        place = naming.named(template, row.place, batch.written_extension(row.input), shared["params"])
    output = out / place
    return Job(input=row.input, output=output, mask_output=output.with_name(f"{output.stem}.mask.png"), **shared)


def identity(job: Job, about: dict[str, Any]) -> str:
    """Of all that the results depend on: the content of each file that is read, every option, and `about` the rest.

    Raises InputError for a file that cannot be read.
    """
    read = {name: _content(getattr(job, name)) for name in ("input", "mask", "latents", "within", "exclude")}
    rest = {"box": job.box, "point": job.point, "metadata": job.metadata, "schema": SCHEMA}
    return digest({**job.params.record(), **read, **rest, **about})


def once(work: Command, made: Made, expected: Callable[[Job], list[Path]], about: dict[str, Any]) -> Command:
    """The same work, but not where its outputs are there already, whole and from the same: they are only touched."""

    def command(job: Job, workbench: OpenWorkbench) -> Result:
        alone = not (job.shows or job.frames or job.save_embeds) and files.STANDARD_STREAM not in job.inputs
        outputs = expected(job)
        if not alone or files.STANDARD_STREAM in outputs:
            return work(job, workbench)
        job = replace(job, identity=identity(job, about))
        if made.is_up_to_date(outputs, str(job.identity)):
            touch(outputs)
            return batch.skipped_result(replace(job, output=outputs[0]))
        result = work(job, workbench)
        made.note([Path(path) for path in result.outputs], str(job.identity))
        return result

    return command


def claimed(
    rows: Iterable[Row], share: Share, place: Place, template: str, ledger: Ledger, mine: Callable[[int], bool]
) -> Iterator[tuple[Row, Job] | Result]:
    """A job for each row whose position is `mine`, or its failure where it cannot be done.

    Rows that other processes do take their outputs' names nevertheless: two of one name are noticed wherever they are.
    """
    for position, row in enumerate(rows):
        try:
            job = job_of(row, share, place.path, template)
            if taken := ledger.claim(job.written, row.name):
                path, other = taken
                raise UsageError(f"{other} and {row.name} would both write {path}; give each a name of its own.")
            if mine(position):
                before = ledger.identity_of(job.written[0])
                whole = before is not None and all(map(place.holds, job.written))
                yield row, replace(job, before=before if whole else None, written_before=before is not None)
        except DiffEditError as error:
            if mine(position):
                yield refused(row, error)


def due(
    claimed: Iterator[tuple[Row, Job] | Result], fetched: Fetched, place: Place, about: Callable[[], dict[str, Any]]
) -> Iterator[Job | Result]:
    """Each job that has to be done, or its result where it was done before, from the same and by the same."""
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
            job = replace(job, identity=identity(job, about()))
            if job.before == job.identity:
                yield batch.skipped_result(job)
                continue
            place.prepare(job)
            yield job
        except DiffEditError as error:
            yield refused(row, error)


def told(result: Result, fetched: Fetched, place: Place) -> Result:
    """A result with its files where they belong, and under the names that these have there."""
    source = fetched.url(result.input)
    error, warnings = result.error, tuple(text.replace(result.input, source) for text in result.warnings)
    if error is not None:
        error = {**error, "message": error["message"].replace(result.input, source)}
    taken = place.take(replace(result, error=error, warnings=warnings), source)
    fetched.drop(result.input)
    return replace(taken, input=source)


def overlapped(
    jobs: Iterable[Job | Result],
    workbench: OpenWorkbench,
    *,
    on_bug: Callable[[str], Any],
    record: Callable[[Result], Result],
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """As `batch.each` of edits, in order, but pictures are read and written while others are edited.

    `record` is told of each result as soon as it is written, whatever is done meanwhile, and returns it as it is to be
    told. After `stopping` says so no other picture is begun.
    """

    def settled(made: Callable[[], Result] | Result) -> Result:
        return record(made if isinstance(made, Result) else made())

    with ThreadPoolExecutor(AHEAD, "files") as pool:
        waiting: deque[tuple[Job, Future[Opened | Result]] | Result] = deque()
        saving: Future[Result] | None = None
        remaining = iter(jobs)
        while not stopping():
            while len(waiting) < AHEAD and (job := next(remaining, None)) is not None:
                waiting.append(job if isinstance(job, Result) else (job, pool.submit(_opened, job, on_bug)))
            if not waiting:
                break
            first = waiting.popleft()
            made: Callable[[], Result] | Result
            if isinstance(first, Result):
                made = first
            else:
                job, opening = first
                opened = opening.result()
                made = opened if isinstance(opened, Result) else _painted(job, opened, workbench, on_bug)
            if saving is not None:
                yield saving.result()
            saving = pool.submit(settled, made)
        if saving is not None:
            yield saving.result()


def _opened(job: Job, on_bug: Callable[[str], Any]) -> Opened | Result:
    return batch.attempted(job, lambda: batch.open_edit(job), on_bug)


def _painted(
    job: Job, opened: Opened, workbench: OpenWorkbench, on_bug: Callable[[str], Any]
) -> Callable[[], Result] | Result:
    save = batch.attempted(job, lambda: batch.paint(job, opened, workbench), on_bug)
    return save if isinstance(save, Result) else lambda: batch.attempted(job, save, on_bug)


def _content(path: Path | None) -> str | None:
    if path is None:
        return None
    files.check_readable(path, "picture")
    return digests.of_content(path)


def refused(row: Row, error: DiffEditError) -> Result:
    said = {"code": error.code, "message": f"{row.where}: {error}" if row.where and not row.problem else str(error)}
    return Result(status="failed", input=row.name, error=said)
