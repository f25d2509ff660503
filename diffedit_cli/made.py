"""What single commands wrote last, so that one that would write the same again costs a hash; and rules for Make."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffedit_cli import digests, files, paths
from diffedit_cli.cache import MADE, Cache
from diffedit_cli.errors import OutputError, UsageError


class Made:
    """A small file for each output in a folder of the cache: from what it was made, and its own digest.

    An output that was changed since, by hand or otherwise, is not up to date.
    """

    def __init__(self, root: Path) -> None:
        self.cache, self.folder = Cache(root), root / MADE

    def is_up_to_date(self, outputs: Sequence[Path], identity: str) -> bool:
        try:
            said = json.loads(paths.read(self._note(outputs[0])))
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


def rule(targets: Iterable[Path], sources: Iterable[Path]) -> bytes:
    """A rule without commands, `targets: sources`, and an empty one for each source, so that one may go away.

    Raises UsageError for a name that Make has no spelling for.
    """
    names = [os.fsencode(_nameable(path)) for path in sources]
    needed = [_escaped(name, _IN_SOURCES) for name in names]
    made = [_escaped(os.fsencode(_nameable(path)), _IN_TARGETS) for path in targets]
    lines = [b"%b: %b" % (b" ".join(made), b" ".join(needed)), *(_escaped(name, _IN_TARGETS) + b":" for name in names)]
    return b"\n".join(lines) + b"\n"


# A line break ends a rule and a semicolon begins a command, however they are quoted; the others GNU Make 4.3 misreads.
_UNNAMEABLE = re.compile(r"[\x00-\x1f;]|\\(?=[\\\s#:?*\[%|]|$)|\s$|\(.*\)$")
_SPELLED = {letter: b"\\" + letter for letter in (b" ", b"#", b":", b"?", b"*", b"[")} | {
    b"$": b"$$",
    b"=": b"$(or =)",  # else a variable
    b"&": b"$(or &)",  # else, at the end, targets that are made together
}
_IN_SOURCES, _IN_TARGETS = _SPELLED | {b"|": b"\\|"}, _SPELLED | {b"%": b"\\%"}


def _nameable(path: Path) -> str:
    name = str(path)
    if _UNNAMEABLE.search(name):
        raise UsageError(f"--depfile cannot name {name}, which Make would misread; rename it, or leave out --depfile.")
    return f"./{name}" if name.startswith("~") else name


def _escaped(name: bytes, spelled: Mapping[bytes, bytes]) -> bytes:
    letters = (bytes([number]) for number in name)
    return b"".join(spelled.get(letter, letter) for letter in letters)
