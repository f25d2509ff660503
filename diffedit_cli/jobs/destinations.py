"""Destinations of a run's results: a folder, or a URL to which the files of a temporary folder are sent."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from diffedit_cli.errors import OutputError
from diffedit_cli.jobs.job import Job
from diffedit_cli.jobs.rows import Row
from diffedit_cli.jobs.sharding import Shard
from diffedit_cli.results import page, results_log, thumbnails
from diffedit_cli.results.result import Result
from diffedit_cli.results.results_log import ResultsLog
from diffedit_cli.storage import atomic, files, paths, remote
from diffedit_cli.storage.ownership import Ownership

ANOTHER = "choose another folder with --out"
REST, PACE = 2.0, 20.0  # results.jsonl is sent again after REST seconds, or PACE times the last transfer if longer
PICTURE, MASK = thumbnails.of_picture, thumbnails.of_mask


class Destination:
    """A local folder for the results of a run; a `dry` run writes nothing into it."""

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path, self._resolved, self._dry = path, files.resolve(path), dry
        self.protected_thumbnails: set[str] = (
            set()
        )  # names of remote thumbnails that the run reads, which are not replaced

    def __enter__(self) -> Destination:
        """Creates the folder; in a dry run only checks an existing one. Raises OutputError."""
        if not self._dry or os.path.lexists(self.path):
            files.make_folder(self.path, "--out")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes temporary files; may be called without entering the context."""

    def results_log(self, shard: Shard | None, owner: Ownership) -> ResultsLog:  # noqa: ARG002  # all parts share one
        """Opens the results log for a part of the run, or for a worker if `shard` is None. Raises OutputError."""
        owner.check_input(self.path / results_log.NAME, ANOTHER)
        return ResultsLog(self.path, writes=not self._dry)

    def contains(self, row: Row) -> bool:
        """Whether a row's picture lies in this folder."""
        return not row.url and self._resolved in files.resolve(row.input).parents

    def holds(self, path: Path) -> bool:
        """Whether an output exists at the destination."""
        return paths.is_file(path)

    def protect(self, url: str, owner: Ownership) -> None:
        """Registers an input of the run if it is a URL; called before anything is written at the destination."""

    def check_inputs(self, job: Job) -> None:
        """Raises OutputError if an output, at its destination, is an input of the run; called after claiming them."""

    def prepare(self, job: Job) -> None:
        """Creates the folder of a job's outputs. Raises OutputError."""
        files.make_folder(job.output_paths[0].parent, "--out")

    def take(self, result: Result, source: str) -> Result:  # noqa: ARG002
        """Delivers a result's files and returns the result with their final names; `source` is its picture's origin."""
        return result

    def keep(self, written: ResultsLog, *, last: bool = False) -> None:
        """Saves the results log at the destination; called after each line, and at the end. Raises OutputError."""

    def write_page(self, written: ResultsLog, owner: Ownership) -> str:
        """Writes the report page and returns its path or URL. Raises InputError, OutputError."""
        with written.exclusively():
            return str(page.write(self.path, owner))


class RemoteDestination(Destination):
    """A folder at a URL, and a local temporary folder in which files are written before they are sent.

    Each part of a run has its own results file there, because an object store cannot append.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._left = contextlib.ExitStack()
        self._names: set[str] = set()  # relative paths of the files when the URL was last listed
        self._next = 0.0
        super().__init__(self._left.enter_context(atomic.elsewhere()) / "out")

    def __enter__(self) -> RemoteDestination:
        super().__enter__()
        (self.path / thumbnails.FOLDER).mkdir(exist_ok=True)
        self._names = remote.names(self.url)
        return self

    def close(self) -> None:
        self._left.close()

    def results_log(self, shard: Shard | None, owner: Ownership) -> ResultsLog:
        self._fetch_results(but=None)
        if shard is None:
            return ResultsLog(self.path, url=self.url, writes=False)
        name = results_log.part_name(shard.number, shard.count)
        owner.check_url(f"{self.url}/{name}", ANOTHER)
        found = ResultsLog(self.path, name, self.url)
        found.announced = lambda: self._send([found.announcements] if found.announcements else [])
        return found

    def protect(self, url: str, owner: Ownership) -> None:
        if remote.is_url(url):
            owner.reads_url(url)
            folder, _, name = url.rpartition("/")
            if folder.endswith(f"/{thumbnails.FOLDER}"):
                self.protected_thumbnails.add(name)

    def check_inputs(self, job: Job) -> None:
        self.protect(job.url, job.ownership)
        for path in job.output_paths:
            job.ownership.check_url(self._url(path), "choose another with --out")

    def contains(self, row: Row) -> bool:
        return row.url.startswith(self.url + "/")

    def holds(self, path: Path) -> bool:
        if not path.is_relative_to(self.path):
            return paths.is_file(path)
        return path.relative_to(self.path).as_posix() in self._names

    def prepare(self, job: Job) -> None:
        """Creates the local folder, and fetches existing outputs to check whether diffedit wrote them."""
        super().prepare(job)
        if not job.force:
            for path in job.output_paths:
                self._fetch(path)

    def take(self, result: Result, source: str) -> Result:
        written = [Path(path) for path in (*result.outputs, result.mask) if path and self.path in Path(path).parents]
        named = replace(
            result,
            output=self._named(result.output) if result.output else None,
            outputs=tuple(map(self._named, result.outputs)),
            digests={self._named(path): digest for path, digest in result.digests.items()},
            mask=self._named(result.mask) if result.mask else None,
            error={**result.error, "message": self._named(result.error["message"])} if result.error else None,
        )
        if result.status == "skipped":
            return named
        shown = [(result.input, source, PICTURE)]
        shown += [(path, self._named(path), PICTURE) for path in result.outputs]
        shown += [(result.mask, self._named(result.mask), MASK)] if result.mask else []
        made = {self.path / thumbnails.path_of(url, make): (Path(path), make) for path, url, make in shown}
        small = {path: how for path, how in made.items() if path.name not in self.protected_thumbnails}
        try:
            thumbnails.make_all(((path, *how) for path, how in small.items()), len(small), Ownership(), lambda *_: None)
            self._send([*(path for path in small if paths.is_file(path)), *written])
        except OutputError as error:
            said = {"code": error.code, "message": str(error)}
            return replace(named, status="failed", error=said, output=None, outputs=(), digests={}, mask=None)
        finally:
            for path in (*small, *written):
                path.unlink(missing_ok=True)
        return named

    def keep(self, written: ResultsLog, *, last: bool = False) -> None:
        if not last and time.monotonic() < self._next:
            return
        started = time.monotonic()
        with contextlib.nullcontext() if last else contextlib.suppress(OutputError):  # sent again with a later line
            self._send([written.path])
        self._next = time.monotonic() + max(REST, PACE * (time.monotonic() - started))

    def write_page(self, written: ResultsLog, owner: Ownership) -> str:
        self._names = remote.names(self.url)
        self._fetch_results(but=written.path.name)
        self._fetch(self.path / page.PAGE)
        made = page.write(self.path, owner, holds=self.holds)
        self._send([made])
        return self._url(made)

    def _fetch_results(self, but: str | None) -> None:
        for name in self._names:
            if (results_log.is_part(name) or results_log.BEGUN_PART.fullmatch(name)) and name != but:
                remote.fetch(f"{self.url}/{name}", self.path / name)

    def _fetch(self, path: Path) -> None:
        if self.holds(path):
            remote.fetch(self._url(path), path)

    def _send(self, paths: Iterable[Path]) -> None:
        for path in paths:
            remote.send(path, self._url(path))

    def _url(self, path: Path) -> str:
        return f"{self.url}/{path.relative_to(self.path).as_posix()}"

    def _named(self, text: str) -> str:
        return text.replace(str(self.path), self.url)


def destination_of(out: str, *, dry: bool = False) -> Destination:
    """Returns the destination of `--out`, a path or a URL; `dry` for a run that writes nothing.

    Raises UsageError for a URL of an unknown scheme, InputError if the URL cannot be reached.
    """
    if not remote.is_url(out := remote.local(out)):
        return Destination(Path(out), dry=dry)
    remote.open_url(out)
    return RemoteDestination(out)
