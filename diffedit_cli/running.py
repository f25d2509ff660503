"""The jobs of a run: planned from rows, passed over when done, read ahead of the network and written behind it."""

from __future__ import annotations

import functools
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli import batch, digests, errors, files, jobs, naming, paths
from diffedit_cli.batch import Opened, OpenWorkbench
from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.jobs import Job
from diffedit_cli.ledger import Ledger
from diffedit_cli.made import Made, touch
from diffedit_cli.ownership import Ownership
from diffedit_cli.result import Result
from diffedit_cli.rows import Row
from diffedit_cli.together import Together

if TYPE_CHECKING:
    from torch import Tensor

    from diffedit_cli.engine.model import Rows
    from diffedit_cli.places import Place
    from diffedit_cli.remote import Fetched

AHEAD = 2  # pictures that are read while another is edited
SCHEMA = 1  # of identities
READ = {"input": "picture", "mask": "mask", "latents": "latents file", "within": "mask", "exclude": "mask"}
"""The files of a job, and what each is."""

Command = Callable[[Job, OpenWorkbench], Result]
Share = Callable[[Row], dict[str, Any]]  # what a row's job has beside input and outputs


def job_of(row: Row, share: Share, out: Path, template: str) -> Job:
    """Raises the row's problem, InputError or UsageError for what it says and cannot be, and what `share` raises."""
    if row.problem:
        raise row.problem
    if not row.url and (wrong := paths.flaw(row.input)):
        raise InputError(f"There can be no picture {str(row.input)!r}: {wrong}; check the name.")
    if row.input == files.STANDARD_STREAM:
        raise UsageError("A row of a run is a picture's path; use diffedit edit for a picture on standard input.")
    shared = share(row)
    if (said := row.given.get("output")) is not None:
        if not isinstance(said, str | int | float):
            raise UsageError("output is no path; give one below the folder that --out names.")
        place = naming.below(Path(str(said)))
    else:
        place = naming.named(template, row.place, jobs.written_extension(row.input), shared["params"])
    label = str(place).removesuffix(".png")  # a.jpg and a.png have two masks
    mask = out / f"{label}.mask.png"
    return Job(input=row.input, output=out / place, mask_output=mask, label=label, chosen_by="--out", **shared)


def identity(job: Job, about: dict[str, Any]) -> str:
    """Of all that the results depend on: the content of each file that is read, every option, and `about` the rest.

    Raises InputError for a file that cannot be read.
    """
    read = {name: _content(getattr(job, name), what) for name, what in READ.items()}
    rest = {"box": job.box, "point": job.point, "metadata": job.metadata, "schema": SCHEMA}
    rest |= {"strip-metadata": True} if job.strip_metadata else {}
    return digests.of_record({**job.params.record(), **read, **rest, **about})


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
            return batch.undone_result(replace(job, output=outputs[0]), "skipped")
        result = work(job, workbench)
        made.note([Path(path) for path in result.outputs], str(job.identity))
        return result

    return command


def claimed(
    rows: Iterable[Row],
    share: Share,
    place: Place,
    template: str,
    ledger: Ledger,
    owner: Ownership,
    mine: Callable[[int], bool],
    on_bug: Callable[[str], Any] = lambda _: None,
) -> Iterator[tuple[Row, Job] | Result]:
    """A job for each row whose position is `mine`, or its failure where it cannot be done; `owner` is of all of them.

    Rows that other processes do take their outputs' names nevertheless: two of one name are noticed wherever they are.
    """  # fmt: skip
    for position, row in enumerate(rows):
        try:
            job = replace(job_of(row, share, place.path, template), ownership=owner)
            jobs.claim_all([job], "edit", [row.name], "give each a name of its own")
            if mine(position):
                before = ledger.identity_of(job.written[0])
                whole = before is not None and all(map(place.holds, job.written))
                yield row, replace(job, before=before if whole else None)
        except Exception as error:
            if mine(position):
                yield refused(row, _explained(error, on_bug))


def due(
    claimed: Iterator[tuple[Row, Job] | Result],
    fetched: Fetched,
    place: Place,
    about: Callable[[], dict[str, Any]],
    on_bug: Callable[[str], Any] = lambda _: None,
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
            if _is_done(job):
                yield batch.undone_result(job, "skipped")
                continue
            place.prepare(job, row.url)
            yield job
        except Exception as error:
            yield refused(row, _explained(error, on_bug))


def foreseen(
    claimed: Iterator[tuple[Row, Job] | Result],
    about: Callable[[], dict[str, Any]],
    check: Callable[[Job], object],
    on_bug: Callable[[str], Any] = lambda _: None,
) -> Generator[Result, None, None]:
    """What would become of each job, by its files, and by what its model tells of it unloaded.

    Nothing is fetched: what comes from a URL is planned, done or not.
    """
    for one in claimed:
        if isinstance(one, Result):
            yield one
            continue
        row, job = one
        try:
            if not row.url:
                job = replace(job, identity=identity(job, about()))
            done = _is_done(job)
            if not (row.url or done):
                check(job)
                batch.foresee_edit(job)
            result = batch.undone_result(job, "skipped" if done else "planned")
            yield replace(result, input=row.name)
        except Exception as error:
            yield refused(row, _explained(error, on_bug))


def _is_done(job: Job) -> bool:
    return job.identity is not None and job.before == job.identity and not job.force


def _explained(error: Exception, on_bug: Callable[[str], Any]) -> DiffEditError:
    """Whatever it is, it fails one row. Bugs go to `on_bug`, too."""
    if isinstance(error, DiffEditError):
        return error
    if known := errors.of_surroundings(error):
        return known
    on_bug(traceback.format_exc())
    return DiffEditError(batch.bug_message(error))


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
    planned: Iterable[Job | Result],
    workbench: OpenWorkbench,
    *,
    on_bug: Callable[[str], Any],
    record: Callable[[Result], Result],
    stopping: Callable[[], bool] = lambda: False,
    at_once: int | None = 1,
) -> Generator[Result, None, None]:
    """As `batch.each` of edits, in order, but pictures are read and written while others are edited.

    So many are edited at once, their calls of the network joined; None: as many as is best where they are edited.
    `record` is told of each result as soon as it is written, whatever is done meanwhile, and returns it as it is to be
    told. After `stopping` says so no other picture is begun. Whoever closes it, or is interrupted, leaves those undone
    that are not painted yet.
    """
    most = at_once or 1

    def settled(made: Callable[[], Result] | Result) -> Result:
        return record(made if isinstance(made, Result) else made())

    def begun(job: Job, opening: Future[Opened | Result]) -> Future[Future[Result]]:
        nonlocal most
        opened = opening.result()
        if isinstance(opened, Result):
            return ended(opened)
        bench = batch.attempted(job, workbench, on_bug)
        if isinstance(bench, Result):
            return ended(bench)
        most = at_once or bench.runtime.at_once
        if most == 1:
            return ended(_painted(job, opened, lambda: bench, on_bug))
        own = bench.beside(together.ask, together.wait)
        return together.begin(lambda: writer.submit(settled, _painted(job, opened, lambda: own, on_bug)))

    def ended(made: Callable[[], Result] | Result) -> Future[Future[Result]]:
        done: Future[Future[Result]] = Future()
        done.set_result(writer.submit(settled, made))
        return done

    with (
        ThreadPoolExecutor(AHEAD, "reading") as readers,
        ThreadPoolExecutor(1, "writing") as writer,  # one, so that they are recorded in the order in which they end
        _together(workbench) as together,
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


def _together(workbench: OpenWorkbench) -> Together[Rows, Tensor]:
    return Together(lambda asked: workbench().runtime.ask_together(asked))


def _opened(job: Job, on_bug: Callable[[str], Any]) -> Opened | Result:
    return batch.attempted(job, lambda: batch.open_edit(job), on_bug)


def _painted(
    job: Job, opened: Opened, workbench: OpenWorkbench, on_bug: Callable[[str], Any]
) -> Callable[[], Result] | Result:
    save = batch.attempted(job, lambda: batch.paint(job, opened, workbench), on_bug)
    return save if isinstance(save, Result) else lambda: batch.attempted(job, save, on_bug)


def _content(path: Path | None, what: str) -> str | None:
    if path is None:
        return None
    files.check_readable(path, what)
    try:
        return digests.of_content(path)
    except OSError as error:
        raise files.unread(path, what, error) from error


def refused(row: Row, error: DiffEditError) -> Result:
    said = {"code": error.code, "message": f"{row.where}: {error}" if row.where and not row.problem else str(error)}
    return Result(status="failed", input=row.name, error=said)
