"""What single commands wrote last, so that one that would write the same again costs a hash; and rules for Make."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffedit_cli import digests, files
from diffedit_cli.cache import MADE, Cache
from diffedit_cli.errors import OutputError


class Made:
    """A small file for each output in a folder of the cache: from what it was made, and its own digest.

    An output that was changed since, by hand or otherwise, is not up to date.
    """

    def __init__(self, root: Path) -> None:
        self.cache, self.folder = Cache(root), root / MADE

    def is_up_to_date(self, outputs: Sequence[Path], identity: str) -> bool:
        try:
            said = json.loads(self._note(outputs[0]).read_text(encoding="ascii"))
            return bool(said == {"identity": identity, "outputs": [digests.of_content(path) for path in outputs]})
        except (OSError, ValueError):
            return False

    def note(self, outputs: Sequence[Path], identity: str) -> None:
        """Where it cannot be written, the outputs are made again next time."""
        with contextlib.suppress(OSError, OutputError):
            said = {"identity": identity, "outputs": [digests.of_content(path) for path in outputs]}
            self.cache.put(self._note(outputs[0]), json.dumps(said).encode())

    def _note(self, output: Path) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(files.resolved(output))).hexdigest()}.json"


def touch(paths: Iterable[Path]) -> None:
    """As new as if they had been written now, by which Make judges."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def rule(targets: Iterable[Path], sources: Iterable[Path]) -> str:
    """A rule without commands, `targets: sources`, and an empty one for each source, so that one may go away."""
    needed = [_escaped(path) for path in sources]
    lines = [f"{' '.join(map(_escaped, targets))}: {' '.join(needed)}", *(f"{path}:" for path in needed)]
    return "\n".join(lines) + "\n"


def _escaped(path: Path) -> str:
    return re.sub(r"([ #\\%:])", r"\\\1", str(path)).replace("$", "$$")
