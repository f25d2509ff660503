"""`diffedit run --review`: looks at the masks of a run before anything is painted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffedit_cli.cli import options as o
from diffedit_cli.cli import session
from diffedit_cli.cli.ui import command_lines
from diffedit_cli.cli.ui.app import application
from diffedit_cli.cli.ui.review import Card, Review, ReviewWork
from diffedit_cli.cli.ui.review_page import ReviewPage
from diffedit_cli.cli.ui.security import Guard
from diffedit_cli.cli.ui.serving import private_folder, serve
from diffedit_cli.cli.ui.worker import Worker
from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.jobs import plan
from diffedit_cli.jobs.review_decisions import ReviewDecisions
from diffedit_cli.jobs.rows import Row
from diffedit_cli.storage import files, remote
from diffedit_cli.storage.ownership import Ownership

OF_MASKS = (o.PROMPTS, o.TEXT, o.MASK, o.ZOOM, o.SEED, o.GUIDANCE, o.STEPS, o.MODEL, o.CACHE_DIR)
OF_RUNS = (
    o.PROMPTS_FOR_EDIT, o.TEXT, o.EDIT, o.MASK, o.ZOOM, o.SEED, o.INVERSION, o.FRAMES, o.STEPS, o.MODEL, o.PREVIEW,
    o.METADATA, o.CACHE_DIR, o.SAVE_EMBEDS, o.FORCE,
)  # fmt: skip
LIMITS = ("within", "exclude")
"""Options for a file of each picture, which its row names."""


def review(given: Mapping[str, Any], rows: Sequence[Row], owner: Ownership) -> None:
    """Serves the page of a review until Ctrl-C. Raises DiffEditError if it cannot begin."""
    if any(row.url for row in rows) or remote.is_url(given["out"]):
        raise UsageError("--review works with pictures and a folder on this machine; fetch those at URLs first.")
    out = Path(given["out"])
    files.make_folder(out, "--out")
    cards = _cards(given, rows)
    words = [command_lines.model_words(given, groups) for groups in (OF_MASKS, OF_RUNS)]
    of_masks, of_runs = (
        [word for name, said in found.items() if name not in LIMITS for word in said] for found in words
    )
    with private_folder() as private:
        decisions = ReviewDecisions(out, owner)
        at_once = command_lines.option("batch", given["batch"]) if given["batch"] != "auto" else []
        found, worker = Review(out, cards, decisions, given["max_pixels"]), Worker(private)
        found.learn()
        work = ReviewWork(found, worker, of_masks, [*of_runs, *at_once])
        page = ReviewPage(work, [str(given["from_"]), str(given["to"])])

        @contextlib.asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            task = asyncio.create_task(work.work())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await worker.close()

        def closing() -> None:
            page.closing = True
            page.changed()

        address = {**given, "port": 0, "browser": True}
        serve(
            lambda port, token: Guard(application(page.routes(), lifespan), port=port, token=token),
            address, closing, "/review",
        )  # fmt: skip


def _cards(given: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Card]:
    """Returns a card for each row, failed ones with their message. Raises the first row's error if all fail."""
    share, cards, problems = session.row_options(dict(given)), {}, []
    for number, row in enumerate(rows, start=1):
        try:
            job = plan.job_of(row, share, Path(), given["name"])
            assert job.output is not None
            limits = {name: str(path) for name in LIMITS if (path := getattr(job, name))}
            card = Card(f"c{number}", row.input, job.output, {**row.given, **limits})
        except DiffEditError as error:
            problems.append(error)
            card = Card(f"c{number}", row.input, Path(row.place), row.given, state="failed", message=str(error))
        cards[card.id] = card
    if len(problems) == len(rows):
        raise problems[0] if problems else InputError("There are no pictures to review.")
    return cards
