"""`diffedit run`: many pictures into a folder, started again as often as wanted."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffedit_cli import files, launch, naming, shards
from diffedit_cli import options as o
from diffedit_cli.errors import INTERRUPTED, DiffEditError, UsageError, exit_code
from diffedit_cli.options import takes

if TYPE_CHECKING:
    from diffedit_cli.places import Place
    from diffedit_cli.remote import Fetched
    from diffedit_cli.report import Reporter, Result
    from diffedit_cli.sources import Row


@takes(
    o.SOURCES, o.PROMPTS, o.TEXT, o.OUTPUT_FOLDER, o.RUN, o.EDIT, o.MASK, o.ZOOM, o.SEED, o.INVERSION, o.FRAMES,
    o.PRESET, o.STEPS, o.MODEL, o.PREVIEW, o.METADATA, o.COMMON,
)  # fmt: skip
def run(**given: Any) -> None:
    """Edit many pictures into a folder, the model loaded once, each result a line in results.jsonl.

    Started again it passes over what is done, redoes what changed, and tries again what failed.
    """
    from diffedit_cli import fleet, places, running, sources
    from diffedit_cli.ownership import Ownership
    from diffedit_cli.remote import Fetched
    from diffedit_cli.report import Reporter, Result

    naming.check(given["name"])
    shard = shards.chosen(given["shard"])
    at_once = launch.count("--batch", given["batch"], "pictures")
    most = 1 if given["fail_fast"] else given["limit_failures"]
    if most is not None and most < 1:
        raise UsageError(f"--limit-failures {most} is no number of pictures; give 1 or more, or leave it out.")
    place = places.place(given["out"])
    with Reporter(as_json=given["json"], quiet=given["quiet"]) as reporter, Fetched() as fetched:
        listed, streams = _sources(given, place, fetched)
        if shard.launched and files.STANDARD_STREAM in streams:
            raise UsageError("Processes that are started together cannot share a list on standard input; give a file.")
        launched = _launched(given, reporter, listed, known=not streams)
        owner = Ownership(force=given["force"], inputs=[*launched.files, *streams])
        owner.reads(path for row in chain(listed, sources.foretold(streams)) for path in row.reads)
        place.protect(listed)
        with (
            fleet.hired(given["ray"], given) as workers,
            place,
            place.ledger(shard, owner) as ledger,
            _finishing(reporter.say) as stopping,
        ):
            streamed = sources.streamed(streams, null=given["null"])
            rows = chain(listed, (row for row in streamed if row.given or not place.contains(row)))
            claimed = running.claimed(rows, launch.for_rows(given), place, given["name"], ledger, owner, shard.has)
            told = functools.partial(running.told, fetched=fetched, place=place)

            def record(result: Result) -> Result:
                if result.status != "skipped":
                    ledger.write(result.json())
                    place.keep(ledger)
                return result

            if workers:
                mine = (told(one) if isinstance(one, Result) else one for one in claimed)
                edited = fleet.edited(mine, workers, record=record, stopping=stopping)
            else:
                edited = running.overlapped(
                    running.due(claimed, fetched, place, lambda: launched.about),
                    launched.open,
                    on_bug=reporter.error if given["verbose"] else lambda _: None,
                    record=lambda result: record(told(result)),
                    stopping=stopping,
                    at_once=at_once,
                )
            reporter.many(None if streams else shard.of(len(listed)))
            codes, ended = _reported(edited, reporter, most)
            stopped = stopping()
            place.keep(ledger, last=True)
            page = None
            try:
                page = place.write_page(ledger, owner)
            except DiffEditError as error:  # of what is done nothing is lost
                reporter.say(f"warning: {error}")
            reporter.summary(page)
    if ended and not stopped:
        shard.wait_for_the_others()
    if code := INTERRUPTED if stopped else exit_code(codes):
        raise typer.Exit(code)


def _launched(given: dict[str, Any], reporter: Reporter, listed: list[Row], *, known: bool) -> launch.Launch:
    """The models, once all that can be checked before any work is; `known`: every row is listed. Raises DiffEditError.

    With --json each picture is told to have failed by it.
    """
    from diffedit_cli import running

    try:
        if known:
            _check(listed, given)
        return launch.Launch(given, reporter)
    except DiffEditError as error:
        if given["json"]:
            for row in listed:
                sys.stdout.write(running.refused(row, error).json() + "\n")
        raise


def _reported(edited: Generator[Result, None, None], reporter: Reporter, most: int | None) -> tuple[Counter[int], bool]:
    """How many results there were of each exit code, and whether they came to their end.

    At so many failures, if any number is too many, it does not wait for the others.
    """
    codes: Counter[int] = Counter()
    with contextlib.closing(edited):
        for result in edited:
            reporter.result(result)
            codes[result.error["code"] if result.error else 0] += 1
            if most and codes.total() - codes[0] >= most:
                reporter.error(f"Stopped, as {most} of the pictures failed; mend what it says, and run again.")
                return codes, False
    return codes, True


def _sources(given: dict[str, Any], place: Place, fetched: Fetched) -> tuple[list[Row], list[Path]]:
    """The pictures whose names are known before any work, and the files that are read as they come.

    Of a folder what diffedit made is left out; of a URL's, as that cannot be seen from outside, what lies in `--out`.
    Raises InputError for a source without any picture, UsageError for a URL of no known file system.
    """
    from diffedit_cli import artefacts, ledger, remote, sources, thumbnails

    results = ledger.Results()

    def made(path: Path) -> bool:
        return thumbnails.is_one(path) or artefacts.made_by_us(path) or results.tell_of(path)

    named = [remote.local(source) for source in given["sources"]]
    known = [source for source in named if not sources.is_streamed(Path(source))]
    streams = [
        fetched.get(source) if remote.is_url(source) else Path(source) for source in named if source not in known
    ]
    listed = sources.listed(known, recursive=given["recursive"], skip=made)
    if given["out"].rstrip("/") in {source.rstrip("/") for source in known}:
        return list(listed), streams
    return [row for row in listed if not row.url or row.url in known or not place.contains(row)], streams


def _check(rows: Sequence[Row], given: dict[str, Any]) -> None:
    """Raises for options that do not go together, and for two pictures of one name, before any work."""
    from diffedit_cli import jobs, remote, running
    from diffedit_cli.ownership import Ownership

    shared, out = launch.shared(given, needs=launch.NEEDS), Path(remote.local(given["out"]))
    shared["ownership"] = Ownership()
    planned = [running.job_of(row, lambda _: shared, out, given["name"]) for row in rows]
    jobs.check_options(planned)
    jobs.claim_all(planned, "edit", [row.name for row in rows], "tell them apart with --name")


@contextlib.contextmanager
def _finishing(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets what is in hand be finished, a second one stops at once; says whether it was pressed."""
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        say("Finishing what is in hand; press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
