"""The command `diffedit run`: edits many pictures into a folder, and can be restarted at any time."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from diffedit_cli.cli import options as o
from diffedit_cli.cli import session
from diffedit_cli.cli.console import answer
from diffedit_cli.cli.options import takes
from diffedit_cli.cli.ui import command as ui
from diffedit_cli.errors import INTERRUPTED, DiffEditError, InputError, UsageError, Withheld, exit_code
from diffedit_cli.jobs import interrupts, output_names, sharding
from diffedit_cli.models import device_names
from diffedit_cli.storage import files

APART = "use --name '{stem}{suffix}{ext}' if only their suffixes differ, otherwise give each its own --out"

if TYPE_CHECKING:
    from diffedit_cli.cli.progress import Reporter
    from diffedit_cli.jobs.destinations import Destination
    from diffedit_cli.jobs.job import Job
    from diffedit_cli.jobs.rows import Row
    from diffedit_cli.jobs.sources import SkippedFiles
    from diffedit_cli.results.result import Result
    from diffedit_cli.results.results_log import ResultsLog
    from diffedit_cli.storage.ownership import Ownership
    from diffedit_cli.storage.remote import DownloadedFiles


@takes(
    o.SOURCES, o.PROMPTS_FOR_EDIT, o.TEXT, o.OUTPUT_FOLDER, o.RUN, o.STAGES_OF_EACH, o.EDIT, o.MASK, o.ZOOM, o.SEED,
    o.INVERSION, o.FRAMES, o.PRESET, o.STEPS, o.MODEL, o.PREVIEW, o.METADATA, o.COMMON,
)  # fmt: skip
def run(**given: Any) -> None:
    """Edit many pictures into a folder with one loaded model; each result is a line in results.jsonl.

    A restarted run skips finished pictures, redoes those whose files or options changed, and retries failed ones.
    """
    from diffedit_cli.cli.progress import Reporter
    from diffedit_cli.jobs import destinations, plan, sources
    from diffedit_cli.storage.remote import DownloadedFiles

    shard, most = _checked(given)
    with (
        contextlib.closing(destinations.destination_of(given["out"], dry=given["dry_run"])) as place,
        Reporter.of(given) as reporter,
        DownloadedFiles() as fetched,
    ):
        passed = sources.SkippedFiles()
        listed, streams = _sources(given, place, fetched, passed)
        if said := str(passed):
            reporter.say(f"skipped: {said}")
        if shard.launched and files.STANDARD_STREAM in streams:
            raise UsageError("Processes that are started together cannot share a list on standard input; give a file.")
        opened = _opened(given, reporter, listed, known=not streams)
        owner = _owner(given, opened.files, listed, streams, fetched, place)

        def read() -> Iterator[Row]:
            streamed = sources.stream_rows(streams, null=given["null"])
            return (row for row in streamed if row.given or not place.contains(row))

        if given["review"]:
            return _review(given, chain(listed, read()), owner)
        with (
            _workers(given) as workers,
            place,
            place.results_log(shard, owner) as results_log,
            _finishing(reporter.say) as stopping,
        ):
            owner.book = results_log
            total = None if files.STANDARD_STREAM in streams else len(listed) + sum(1 for _ in read())
            claimed = plan.plan_jobs(
                chain(listed, read()), session.row_options(given), place, given["name"], results_log, owner, shard.has,
                _on_bug(given, reporter),
            )  # fmt: skip
            reporter.many(None if total is None else shard.of(total))
            results = _results(given, reporter, opened, fetched, place, results_log, claimed, workers, stopping)
            codes, ended = _reported(results, reporter, most)
            stopped = stopping()
            reporter.summary(None if given["dry_run"] else _ending(place, results_log, owner, reporter))
    if ended and not stopped:
        shard.wait_for_the_others()
    return _leave(INTERRUPTED if stopped else exit_code(codes))


def _review(given: dict[str, Any], rows: Iterable[Row], owner: Ownership) -> None:
    """Lets a person look at the masks on a page, and paints what is accepted there."""
    from diffedit_cli.cli.ui import review_command

    review_command.review(given, list(rows), owner)


def _leave(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _checked(given: dict[str, Any]) -> tuple[sharding.Shard, int | None]:
    """Returns this process's shard, and the number of failures to stop at (None: no limit).

    Checks the options that can be checked before any file is read. Raises UsageError.
    """
    output_names.check(given["name"])
    shard, most = sharding.choose_shard(given["shard"]), 1 if given["fail_fast"] else given["limit_failures"]
    if most is not None and most < 1:
        raise UsageError(f"--limit-failures {most} is not a number of pictures; give 1 or more, or leave it out.")
    session.parse_count("--batch", given["batch"], "pictures")
    if given["review"]:
        ui.check_library()
        ui.check_review(given)
    if given["ray"] is not None:
        device_names.named(given["device"])  # each worker uses one
    return shard, most


def _owner(
    given: dict[str, Any],
    read: list[Path],
    listed: list[Row],
    streams: list[Path],
    fetched: DownloadedFiles,
    place: Destination,
) -> Ownership:
    """Returns the owner of all outputs, which knows the input files `read` and those of all rows known before work."""
    from diffedit_cli.jobs import sources
    from diffedit_cli.storage.ownership import Ownership

    owner = Ownership(force=given["force"], inputs=[*read, *streams])
    reads = session.files_read_by(given)
    for row in chain(listed, sources.peek_rows(streams)):
        owner.reads(reads(row))
        place.protect(row.url, owner)
    for path in streams:
        place.protect(fetched.url(str(path)), owner)
    return owner


@contextlib.contextmanager
def _workers(given: dict[str, Any]) -> Iterator[list[Any]]:
    """Yields the Ray workers that --ray asks for; an empty list without --ray and in a dry run."""
    from diffedit_cli.jobs import ray_workers

    if given["ray"] is None or given["dry_run"]:
        yield []
        return
    with ray_workers.hire(
        session.parse_count("--ray", given["ray"], "workers"), given, session.quiet_session
    ) as workers:
        yield workers


def _on_bug(given: dict[str, Any], reporter: Reporter) -> Callable[[str], object]:
    return reporter.trace if given["verbose"] else lambda _: None


def _results(
    given: dict[str, Any],
    reporter: Reporter,
    opened: session.Session,
    fetched: DownloadedFiles,
    place: Destination,
    results_log: ResultsLog,
    claimed: Iterator[tuple[Row, Job] | Result],
    workers: list[Any],
    stopping: Callable[[], bool],
) -> Generator[Result, None, None]:
    """Returns a generator of one result per row: edited here, edited by Ray workers, or only forecast (--dry-run)."""
    from diffedit_cli.jobs import plan, ray_workers, runner, several_devices
    from diffedit_cli.results.result import Result

    on_bug = _on_bug(given, reporter)
    if given["dry_run"]:
        return plan.forecast(
            claimed,
            opened.about,
            lambda job: opened.check_words(job.params, job.stages),
            on_bug,
        )
    told = functools.partial(runner.publish_result, fetched=fetched, place=place)

    def record(result: Result) -> Result:
        if result.status != "skipped":
            results_log.write(result.json())
            place.keep(results_log)
        return result

    if workers:
        mine = (told(one) if isinstance(one, Result) else one for one in claimed)
        return ray_workers.edit_on_workers(mine, workers, place.protected_thumbnails, record=record, stopping=stopping)
    pending = plan.pending(claimed, fetched, place, opened.about, on_bug)
    how: dict[str, Any] = {
        "on_bug": on_bug, "record": lambda result: record(told(result)), "stopping": stopping,
        "at_once": session.parse_count("--batch", given["batch"], "pictures"),
    }  # fmt: skip
    if len(opened.devices) > 1:
        pipelines = [functools.partial(opened.on, device) for device in opened.devices]
        return several_devices.run_on_each(pending, pipelines, **how)
    return runner.run_pipelined(pending, opened.open, **how)


def _ending(place: Destination, results_log: ResultsLog, owner: Ownership, reporter: Reporter) -> str | None:
    """Stores the results file and writes the report page; returns the page's location, or None if writing failed."""
    place.keep(results_log, last=True)
    try:
        return place.write_page(results_log, owner)
    except DiffEditError as error:  # a missing page loses no result
        reporter.say(f"warning: {error}")
        return None


def _opened(given: dict[str, Any], reporter: Reporter, listed: list[Row], *, known: bool) -> session.Session:
    """Returns the session with the models, after all checks that are possible before work begins.

    `known` says that every row is listed, so that the rows can be checked. Raises DiffEditError; with --json, a failed
    result is written for each listed picture first.
    """
    from diffedit_cli.jobs import plan

    try:
        if known:
            _check(listed, given)
        return session.Session(given, reporter)
    except DiffEditError as error:
        if given["json"]:
            for row in listed:
                answer(plan.refusal(row, row.problem or error).json())
        raise


def _reported(edited: Generator[Result, None, None], reporter: Reporter, most: int | None) -> tuple[Counter[int], bool]:
    """Reports each result; returns the number of results per exit code, and whether all results came.

    Stops after `most` failures (None: no limit) without waiting for the remaining results.
    """
    codes: Counter[int] = Counter()
    with contextlib.closing(edited):
        for result in edited:
            reporter.result(result)
            codes[result.error["code"] if result.error else 0] += 1
            if most and codes.total() - codes[0] - codes[Withheld.code] >= most:
                failed = "a picture" if most == 1 else f"{most} pictures"
                reporter.error(f"Stopped, as {failed} failed; fix the reported errors, and run again.")
                return codes, False
    return codes, True


def _sources(
    given: dict[str, Any], place: Destination, fetched: DownloadedFiles, passed: SkippedFiles
) -> tuple[list[Row], list[Path]]:
    """Returns the rows of pictures known before work begins, and the lists and job files that are read as they come.

    In a folder, files that diffedit made are left out. In a folder at a URL they cannot be recognised, so the files
    below `--out` are left out instead. Raises UsageError and InputError, also if a list or a job file at a URL cannot
    be fetched.
    """
    from diffedit_cli.images import provenance
    from diffedit_cli.jobs import sources
    from diffedit_cli.results import results_log, thumbnails
    from diffedit_cli.storage import remote

    results = results_log.Results()

    def made(path: Path) -> bool:
        return thumbnails.is_thumbnail(path) or provenance.has_record(path) or results.is_recorded_result(path)

    def local(source: str) -> str:
        try:
            return remote.local(source)
        except UsageError:  # reported later, where the source is read
            return source

    named = list(map(local, given["sources"]))
    known = [source for source in named if not sources.is_stream(Path(source))]
    streams = [
        fetched.get(source) if remote.is_url(source) else Path(source) for source in named if source not in known
    ]
    listed = sources.list_rows(known, recursive=given["recursive"], skip=made, passed=passed)
    if given["out"].rstrip("/") in {source.rstrip("/") for source in known}:
        return list(listed), streams
    return [row for row in listed if not row.url or row.url in known or not place.contains(row)], streams


def _check(rows: Sequence[Row], given: dict[str, Any]) -> None:
    """Raises DiffEditError for options that contradict each other, two results of one name, or if no row can be edited.

    If only some rows cannot be edited, these fail later, each with its own result.
    """
    from diffedit_cli.jobs import checks, plan
    from diffedit_cli.storage import remote
    from diffedit_cli.storage.ownership import Ownership

    if not rows:
        raise InputError("All pictures lie in --out, where results go; name other pictures, or another --out.")
    share, out, owner = session.row_options(given), Path(remote.local(given["out"])), Ownership()
    planned: list[tuple[Row, Job]] = []
    refused: list[DiffEditError] = []
    for row in rows:
        try:
            planned.append((row, replace(plan.job_of(row, share, out, given["name"]), ownership=owner)))
        except DiffEditError as error:
            refused.append(error)
    jobs = [job for _, job in planned]
    checks.check_options(jobs)
    refused += checks.claim_others(jobs, "edit", [row.name for row, _ in planned], APART)
    if len(refused) == len(rows):
        raise refused[0]
    if not any(row.url or os.path.lexists(row.input) for row, _ in planned):
        files.check_readable(planned[0][0].input, "picture")


@contextlib.contextmanager
def _finishing(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Handles Ctrl-C: the first lets the edits in progress finish, the second stops at once.

    Yields a function that returns whether Ctrl-C was pressed.
    """
    pressed = False

    def press(number: int, _: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            interrupts.handle_sigint(number)
        pressed = True
        say("Finishing the pictures in progress; press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
