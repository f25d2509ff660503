"""Standard streams that may be closed, full, pipes without a reader, or in an encoding with few characters."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, BinaryIO, TextIO, cast

HANDLER = "diffedit"  # the error handler for characters that standard output's encoding lacks


class _Taking(io.FileIO):
    """Raw stream whose writes never fail: after an error, stored in `lost`, all data is discarded."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while left and self.lost is None:
                if (written := super().write(left)) is None:  # a non-blocking pipe is full
                    select.select((), (self,), ())
                left = left[written or 0 :]
        except OSError as error:
            self.lost = error
        return memoryview(data).nbytes


def prepare() -> None:
    """Opens closed standard descriptors, so that no other file gets their numbers, and replaces Python's streams."""
    # Closed standard input is opened for writing and closed standard output for reading, so that their use fails.
    for number, way in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, way), True)  # os.open takes the lowest free number
    sys.stdin, sys.stdout, sys.stderr = open_streams()


def open_streams() -> tuple[TextIO, TextIO, TextIO]:
    """Returns text streams for descriptors 0, 1 and 2 as they are now, in the encodings of the present streams.

    Writing never raises OSError: text that cannot be delivered is discarded, and for standard output `lost` returns the
    error. Characters that an encoding lacks do not raise either.
    """
    given, told, said = ("utf-8" if one is None else one.encoding for one in (sys.stdin, sys.stdout, sys.stderr))
    lines = bool(sys.stdout is not None and sys.stdout.line_buffering)
    codecs.register_error(HANDLER, _replaced)
    return (
        open(0, encoding=given, errors="surrogateescape", closefd=False),
        io.TextIOWrapper(
            io.BufferedWriter(_Taking(1, "w", closefd=False)), encoding=told, errors=HANDLER, line_buffering=lines
        ),
        # Unbuffered, because a buffer accepts no text from a signal handler while it is being written.
        io.TextIOWrapper(
            cast("BinaryIO", _Taking(2, "w", closefd=False)),
            encoding=said,
            errors="backslashreplace",
            write_through=True,
        ),
    )


def stdout_error() -> OSError | None:
    """Returns the error that prevented writing all of standard output, or None."""
    taking = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return taking.lost if isinstance(taking, _Taking) else None


def reason(error: OSError) -> str:
    """Returns why a standard stream failed, for use in a sentence."""
    return {errno.EBADF: "it is closed", errno.EPIPE: "its reader has gone"}.get(error.errno or 0, str(error.strerror))


def remedy(error: OSError) -> str:
    """Returns what the user can do about a failed standard stream, for use in a sentence."""
    return "make room, or send it elsewhere" if error.errno == errno.ENOSPC else "send it elsewhere to have all of it"


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encodes the undecodable bytes of a file name as they are and escapes other characters that the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    letter = ord(error.object[error.start])
    if 0xDC80 <= letter <= 0xDCFF:
        return bytes([letter - 0xDC00]), error.start + 1
    return ascii(chr(letter))[1:-1], error.start + 1
