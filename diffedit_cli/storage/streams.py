"""The standard streams as they were left to us: closed, full, a pipe that nobody reads any more, of few letters."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, BinaryIO, TextIO, cast

HANDLER = "diffedit"  # of letters that standard output's encoding does not have


class _Taking(io.FileIO):
    """Takes whatever is written; `lost` is why it could not be passed on."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while left and self.lost is None:
                if (written := super().write(left)) is None:  # a pipe that does not wait is full
                    select.select((), (self,), ())
                left = left[written or 0 :]
        except OSError as error:
            self.lost = error
        return memoryview(data).nbytes


def prepare() -> None:
    """Opens what is closed, so that no file gets its number, and sets Python's objects."""
    # Those of standard input and output the wrong way, so that whoever wants something of them hears that it fails.
    for number, way in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, way), True)  # the lowest number that is free
    sys.stdin, sys.stdout, sys.stderr = open_streams()


def open_streams() -> tuple[TextIO, TextIO, TextIO]:
    """Objects for the three descriptors as they are now, in the encodings of the present ones.

    Nothing that is written to them raises OSError: messages that nobody takes are lost, and of standard output `lost`
    says so. Neither do letters that are not in an encoding.
    """
    given, told, said = ("utf-8" if one is None else one.encoding for one in (sys.stdin, sys.stdout, sys.stderr))
    lines = bool(sys.stdout is not None and sys.stdout.line_buffering)
    codecs.register_error(HANDLER, _replaced)
    return (
        open(0, encoding=given, errors="surrogateescape", closefd=False),
        io.TextIOWrapper(
            io.BufferedWriter(_Taking(1, "w", closefd=False)), encoding=told, errors=HANDLER, line_buffering=lines
        ),
        # Without a buffer, which takes nothing from a signal's handler while it is being written.
        io.TextIOWrapper(
            cast("BinaryIO", _Taking(2, "w", closefd=False)),
            encoding=said,
            errors="backslashreplace",
            write_through=True,
        ),
    )


def lost() -> OSError | None:
    """Why not all of standard output was written, if it was not."""
    taking = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return taking.lost if isinstance(taking, _Taking) else None


def reason(error: OSError) -> str:
    """For a sentence about a standard stream."""
    return {errno.EBADF: "it is closed", errno.EPIPE: "its reader has gone"}.get(error.errno or 0, str(error.strerror))


def remedy(error: OSError) -> str:
    """What to do about it."""
    return "make room, or send it elsewhere" if error.errno == errno.ENOSPC else "send it elsewhere to have all of it"


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """The very bytes of a file's name that are no text; other letters are spelled out."""
    assert isinstance(error, UnicodeEncodeError)
    letter = ord(error.object[error.start])
    if 0xDC80 <= letter <= 0xDCFF:
        return bytes([letter - 0xDC00]), error.start + 1
    return ascii(chr(letter))[1:-1], error.start + 1
