"""Every line that people read: what a terminal would obey of others' names and texts is shown, and not done."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from diffedit_cli.errors import printable


def answer(line: str, lines: bool = False) -> None:
    """A line on standard output; with `lines` it may be several. Raises OSError where that takes nothing more."""
    write(sys.stdout, line, lines)


def tell(line: str, lines: bool = False) -> None:
    """The same on standard error, and lost where that takes nothing more."""
    with contextlib.suppress(OSError):
        write(sys.stderr, line, lines)


def write(stream: TextIO | None, line: str, lines: bool = False) -> None:
    """A line for a stream, if there is one; letters that it has no bytes for are spelled out."""
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        shown = printable(line, lines).encode(encoding, "backslashreplace").decode(encoding)
        stream.write(shown + "\n")
