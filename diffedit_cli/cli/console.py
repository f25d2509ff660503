"""Writes every line that people read; control characters in file names and other foreign texts are escaped."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from diffedit_cli.errors import printable

HELP, HELP_ALL = ("-h", "--help"), "--help-all"  # options that only print help


def answer(line: str, lines: bool = False) -> None:
    """Writes a line to standard output; with `lines`, it may hold line breaks. Raises OSError if the stream fails."""
    write(sys.stdout, line, lines)


def tell(line: str, lines: bool = False) -> None:
    """Writes a line to standard error, as `answer` does; if the stream fails, the line is lost."""
    with contextlib.suppress(OSError):
        write(sys.stderr, line, lines)


def write(stream: TextIO | None, line: str, lines: bool = False) -> None:
    """Writes a line to a stream, if there is one; characters that its encoding lacks are escaped."""
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        shown = printable(line, lines).encode(encoding, "backslashreplace").decode(encoding)
        stream.write(shown + "\n")
