"""Output of commands for people and scripts: progress bars, result lines, tables and JSON."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

from diffedit_cli.cli import console
from diffedit_cli.cli.options import BARS, LINES
from diffedit_cli.errors import printable
from diffedit_cli.results.result import Result

LOADING = "load"
LOG = logging.getLogger("diffedit_cli")
ENDS = {"done": "done", "skipped": "skipped", "failed": "failed", "withheld": "withheld", "planned": "to do"}
REGION_TITLES = {
    "object": "another object",
    "attribute": "another look",
    "background": "another background",
    "everything": "all of it",
    "add": "something added",
    "remove": "something removed",
}
STAGE_TITLES = {"mask": "finding the mask", "invert": "inverting", "edit": "repainting", "frames": "decoding"}


class Bars(Progress):
    """Progress bars on a terminal, removed at the end; elsewhere nothing is shown."""

    def __init__(self, *columns: ProgressColumn, console: Console, quiet: bool) -> None:
        super().__init__(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)

    def stop(self) -> None:
        if not self.disable:  # before Rich 15, disabled bars print an empty line when they stop
            super().stop()


WIDTH = 80  # columns of a terminal that does not report its width


class Reporter:
    """Reports stages and results: bars on a terminal, plain lines elsewhere, JSON if asked for.

    Results in JSON go to standard output, progress in JSON (`progress="json"`) to standard error.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False, progress: str = BARS
    ) -> None:
        self._tells_steps = progress == LINES and not quiet
        self._as_json, self._quiet, self._verbose, self._output = as_json, quiet, verbose, sys.stdout
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        if not self._console.width:  # COLUMNS=0, which some programs set for unknown: rich would print nothing
            self._console.width = WIDTH
        self._bars = Bars(
            TextColumn("{task.description:>16}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            quiet=quiet or progress == LINES,
        )
        self._tasks: dict[object, TaskID] = {}
        self._pace: Pace | None = None
        self._warned: tuple[str, ...] = ()
        self._remarks = Remarks(self)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Reporter:
        """Returns the reporter that a command line asks for."""
        return cls(as_json=given["json"], **{name: given[name] for name in ("quiet", "verbose", "progress")})

    def __enter__(self) -> Reporter:
        self._bars.start()
        if self._verbose:
            LOG.addHandler(self._remarks)
            LOG.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOG.removeHandler(self._remarks)
        self._bars.stop()

    def many(self, total: int | None) -> None:
        """Counts results from now on; `total` is the number of pictures, or None if it is not known."""
        self._pace = Pace(total)
        self._overall = self._bars.add_task("pictures", total=total)

    def loading(self, model: str) -> None:
        """Shows that libraries and the model are being loaded, until the first step of a stage."""
        self._tasks[LOADING] = self._bars.add_task(printable(f"loading {model}"), total=None)
        self._tell_step(LOADING, 0, 1)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of `total` steps of a stage are done."""
        self._remove(LOADING)
        title = STAGE_TITLES[stage]
        if self._tells_steps:
            self._tell_step(stage, done, total)
            return
        if not self._console.is_terminal:
            if done == 1:
                self.say(f"{title} ({f'up to {total} maps' if stage == 'mask' else f'{total} steps'})")
            return
        mine = threading.get_ident()  # each of several pictures edited at once has its own thread
        bar = stage, mine
        if bar not in self._tasks or done == 1:
            for other in STAGE_TITLES:  # the mask stage may end before its last map
                self._remove((other, mine))
            self._tasks[bar] = self._bars.add_task(title, total=total)
        self._bars.update(self._tasks[bar], completed=done)
        if done == total:
            self._remove(bar)

    def _tell_step(self, stage: str, done: int, total: int) -> None:
        if self._tells_steps:
            console.tell(json.dumps({"stage": stage, "done": done, "total": total}))

    def result(self, result: Result) -> None:
        """Reports the result of one picture."""
        for bar in list(self._tasks):
            self._remove(bar)
        if self._pace is not None:
            self._pace.count(result)
            self._bars.update(self._overall, completed=self._pace.total_done, description=self._pace.rate or "pictures")
        if self._as_json:
            more = {} if self._pace is None else {"progress": self._pace.record()}
            console.write(self._output, result.json(**more))
            self._output.flush()
        for warning in result.warnings:
            if warning not in self._warned:  # a warning that each picture of a run gives is shown once
                self.say(f"warning: {warning}")
        self._warned = result.warnings
        if result.error is not None:
            self.error(result.error["message"])
        else:
            self.say(
                result_line(result) + (f"  ({self._pace})" if self._pace and not self._console.is_terminal else "")
            )
            for line in costs(result) if self._verbose else ():
                self.say(f"  {line}")
            if result.preview not in (None, "-") and not self._quiet:
                self._show(str(result.preview))

    def summary(self, page: str | None) -> None:
        """Reports how many pictures of a run ended with each status, and the location of its page, if there is one."""
        if self._pace is not None:
            self.say("  ".join(filter(None, (self._pace.summary, page))))

    def _show(self, path: str) -> None:
        """Shows a preview file, if the terminal supports colours and block characters."""
        if self._console.is_terminal and self._console.color_system and not self._console.options.ascii_only:
            from diffedit_cli.cli import terminal_preview

            self._console.print(terminal_preview.strip(path, self._console.width), soft_wrap=True)

    def say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(printable(line), markup=False)

    def error(self, message: str) -> None:
        """Shows an error message, also when quiet."""
        self._console.print(printable(f"diffedit: {message}"), markup=False)

    def trace(self, text: str) -> None:
        """Shows the traceback of a bug, in several lines."""
        self._console.print(printable(f"diffedit: {text}", lines=True), markup=False)

    def _remove(self, bar: object) -> None:
        if bar in self._tasks:
            self._bars.remove_task(self._tasks.pop(bar))


class Remarks(logging.Handler):
    """Says what the package logs, such as an optimisation that this machine does not have."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.say(f"  {record.getMessage()}")


class Pace:
    """Counts the finished pictures of a run, and estimates its speed and the time left."""

    def __init__(self, total: int | None) -> None:
        self.total, self._counted, self._started = total, dict.fromkeys(ENDS, 0), time.monotonic()

    def count(self, result: Result) -> None:
        self._counted[result.status] += 1

    @property
    def total_done(self) -> int:
        return sum(self._counted.values())

    @property
    def summary(self) -> str:
        """Number of pictures by status, such as `3 done, 1 failed`."""
        said = [f"{number} {ENDS[status]}" for status, number in self._counted.items() if number]
        return ", ".join(said) or "no pictures"

    @property
    def rate(self) -> str:
        """Pictures per minute and time left, such as `14.2 a minute, 0:13:52 left`; empty before the first edit."""
        if not self._edited:
            return ""
        left = self._seconds_left
        return f"{self._a_minute:.1f} a minute" + (f", {datetime.timedelta(seconds=left)} left" if left else "")

    def __str__(self) -> str:
        """Returns the progress, such as `3 of 200, 14.2 a minute, 0:13:52 left`."""
        counted = str(self.total_done) if self.total is None else f"{self.total_done} of {self.total}"
        return ", ".join(filter(None, (counted, self.rate)))

    def record(self) -> dict[str, float | None]:
        """Returns the progress for programs; values that are not known are None."""
        a_minute = round(self._a_minute, 1) if self._edited else None
        return {
            "finished": self.total_done,
            "total": self.total,
            "a_minute": a_minute,
            "seconds_left": self._seconds_left,
        }

    @property
    def _seconds_left(self) -> int | None:
        if self.total is None or not (self._edited or self.total_done == self.total):
            return None
        return round(60 * (self.total - self.total_done) / self._a_minute) if self.total_done < self.total else 0

    @property
    def _edited(self) -> int:
        """Number of pictures that took the time of an edit; most failures are quick and do not count."""
        return self._counted["done"] + self._counted["withheld"]

    @property
    def _a_minute(self) -> float:
        return 60 * self._edited / max(1e-3, time.monotonic() - self._started)


def result_line(result: Result) -> str:
    """Returns the line of a result: output file, masked share, time, model and painter."""
    parts = ["standard output" if result.output == "-" else ", ".join(result.outputs)]
    if result.status == "skipped":
        return f"{parts[0]}  is up to date"
    if result.status == "planned":
        return f"{parts[0]}  would be made from {result.input}"
    if result.mask_area is not None:
        parts.append(f"{share(result.mask_area)} masked")
    if result.region is not None:
        parts.append(REGION_TITLES[result.region])
    cached = [stage for stage, state in result.cache.items() if state == "hit"]
    if cached:
        parts.append(f"{' and '.join(cached)} from the cache")
    parts.append(f"{sum(result.seconds.values()):.1f} s")
    parts.append(f"{' and '.join(filter(None, (result.model, result.painter)))} on {result.device}")
    return "  ".join([parts[0], " · ".join(parts[1:])])


def costs(result: Result) -> list[str]:
    """Returns a line on the cost of each stage; for an edited picture the seed and the evidence of --from follow.

    The evidence says how well --from explains the mask's region; it is shown if it was measured. The list is empty
    unless the status is done.
    """
    lines = []
    for stage in dict.fromkeys((*result.seconds, *result.evaluations)):
        said = [f"{result.seconds[stage]:.2f} s"] if stage in result.seconds else []
        said += [f"{count} network evaluations"] if (count := result.evaluations.get(stage, 0)) else []
        said += ["from the cache"] if result.cache.get(stage) == "hit" else []
        lines.append(f"{STAGE_TITLES.get(stage, stage)}: {', '.join(said)}")
    seen = [] if result.evidence is None else [f"evidence of --from: {result.evidence:+.3f}"]
    return [*lines, f"seed {result.seed}", *seen] if result.status == "done" else []


def share(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def write_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Writes a table in aligned columns to standard output, for people and for `cut`."""
    widths = _widths(headings, rows)
    for row in [headings, *rows]:
        _write_row(row, widths)


def write_groups(headings: tuple[str, ...], groups: Mapping[str, Sequence[tuple[str, ...]]]) -> None:
    """Writes such a table in groups: the title of each, then its rows, which are indented."""
    indented = {title: [(f"  {row[0]}", *row[1:]) for row in rows] for title, rows in groups.items()}
    widths = _widths(headings, [row for rows in indented.values() for row in rows])
    _write_row(headings, widths)
    for title, rows in indented.items():
        console.answer(title)
        for row in rows:
            _write_row(row, widths)


def _widths(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]


def _write_row(row: tuple[str, ...], widths: Sequence[int]) -> None:
    console.answer("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
