"""Notes of the outputs of single commands, so that a command that would write the same again only costs a hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from diffedit_cli.errors import OutputError
from diffedit_cli.jobs import outcomes
from diffedit_cli.jobs.job import Job, OpenPipeline
from diffedit_cli.jobs.plan import About, identity
from diffedit_cli.results.result import Result
from diffedit_cli.storage import atomic, files, hashing, paths
from diffedit_cli.storage.cache import Cache
from diffedit_cli.storage.cache_folder import MADE

Command = Callable[[Job, OpenPipeline], Result]


class OutputNotes:
    """Notes in the cache, one per command, named after its first output: its identity and the digests of all outputs.

    An output that was changed since, by hand or otherwise, is not up to date.
    """

    def __init__(self, root: Path) -> None:
        self.cache, self.folder = Cache(root), root / MADE

    def is_up_to_date(self, outputs: Sequence[Path], identity: str) -> bool:
        """Whether the outputs are unchanged and were made with the same identity."""
        try:
            said = json.loads(paths.read(self._note(outputs[0])))
            return bool(said == {"identity": identity, "outputs": [hashing.of_content(path) for path in outputs]})
        except (OSError, ValueError):
            return False

    def note(self, outputs: Sequence[Path], identity: str) -> None:
        """Writes a note of the outputs. If that fails, they are computed again next time."""
        with contextlib.suppress(OSError, OutputError):
            said = {"identity": identity, "outputs": [hashing.of_content(path) for path in outputs]}
            self.cache.put(self._note(outputs[0]), json.dumps(said).encode())

    def _note(self, output: Path) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(files.resolve(output))).hexdigest()}.json"


def confirm(outputs: Sequence[Path]) -> None:
    """Sets the modification times of current outputs to now, because Make compares them, and sweeps their folders.

    A folder is swept before files are written to it, which a command that is up to date does not do.
    """
    for folder in {path.parent for path in outputs}:
        atomic.sweep(folder)
    for path in outputs:
        with contextlib.suppress(OSError):
            os.utime(path)


def skip_if_current(work: Command, made: OutputNotes, expected: Callable[[Job], list[Path]], about: About) -> Command:
    """Wraps a command: it is skipped, and its outputs touched, if they exist unchanged from the same inputs.

    Jobs that read or write standard streams, or write masks, previews, frames or embeddings, are never skipped.
    """

    def command(job: Job, open_pipeline: OpenPipeline) -> Result:
        alone = (
            not (job.shows or job.frames or job.save_embeds or job.mask_output)
            and files.STANDARD_STREAM not in job.inputs
        )
        outputs = expected(job)
        if not alone or files.STANDARD_STREAM in outputs:
            return work(job, open_pipeline)
        job = replace(job, identity=identity(job, about(job.params)))
        if made.is_up_to_date(outputs, str(job.identity)):
            confirm(outputs)
            return outcomes.undone_result(replace(job, output=outputs[0]), "skipped")
        result = work(job, open_pipeline)
        made.note([Path(path) for path in result.outputs], str(job.identity))
        return result

    return command
