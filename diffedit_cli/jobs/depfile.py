"""Writes Make rules that state which files a command's outputs depend on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffedit_cli.errors import UsageError


def rule(targets: Iterable[Path], sources: Iterable[Path]) -> bytes:
    """Returns a rule without commands, `targets: sources`, and an empty rule for each source.

    With the empty rules Make accepts that a source was removed. Raises UsageError for a name that cannot be written in
    a Makefile.
    """
    names = [os.fsencode(_nameable(path)) for path in sources]
    needed = [_escaped(name, _IN_SOURCES) for name in names]
    made = [_escaped(os.fsencode(_nameable(path)), _IN_TARGETS) for path in targets]
    lines = [b"%b: %b" % (b" ".join(made), b" ".join(needed)), *(_escaped(name, _IN_TARGETS) + b":" for name in names)]
    return b"\n".join(lines) + b"\n"


# Even if quoted, a line break ends a rule and a semicolon begins a command; GNU Make 4.3 misreads the others.
_UNNAMEABLE = re.compile(r"[\x00-\x1f;]|\\(?=[\\\s#:?*\[%|]|$)|\s$|\(.*\)$")
_SPELLED = {letter: b"\\" + letter for letter in (b" ", b"#", b":", b"?", b"*", b"[")} | {
    b"$": b"$$",
    b"=": b"$(or =)",  # else it sets a variable
    b"&": b"$(or &)",  # else, at the end, it means grouped targets
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
