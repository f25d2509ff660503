"""Exception classes of the package, and the exit code that belongs to each."""

from __future__ import annotations

import traceback
from collections import Counter


class DiffEditError(Exception):
    """Base class of expected errors; the message is one sentence: what is wrong, where, and what to do next."""

    code = 1


class UsageError(DiffEditError):
    """The command line, the environment or a settings file is invalid."""

    code = 2


class InputError(DiffEditError):
    """An input cannot be used: a picture, mask, latents, embeddings or job file, a folder or a URL."""

    code = 3


class ModelError(DiffEditError):
    """The model is missing, unreadable, or unfit for this picture or prompt."""

    code = 4


class NothingToEdit(DiffEditError):
    """The mask is empty, or the picture does not show what --from names."""

    code = 5


class OutputError(DiffEditError):
    """The output cannot be written."""

    code = 6


class DeviceError(DiffEditError):
    """Out of memory, or the device failed."""

    code = 7


class Withheld(DiffEditError):
    """The safety checker flags the result."""

    code = 9


SOME_FAILED = 8
INTERRUPTED = 130
CODES = (*range(10), INTERRUPTED)
INTERRUPTION = "Interrupted; finished results are kept."
# Parts of the messages by which libraries report that memory is full.
FULL = ("out of memory", "can't allocate memory", "Cannot allocate memory", "failed to map segment")
# Parts of the messages of the drivers of NVIDIA, AMD, Apple and Intel.
DRIVERS = ("CUDA", "HIP", "MPS", "XPU", "UR error", "level_zero", "Level-Zero", "SYCL")
LONGEST = 300  # characters quoted from a library's error message
OUT_OF_MEMORY = "There is not enough memory; close other programs, or use a smaller picture."


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the error reports that the memory of the device or of the computer is full.

    torch's OutOfMemoryError is recognised by its class name.
    """
    said = str(error)
    full = any(sign in said for sign in FULL) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and full)


def is_of_device(error: BaseException) -> bool:
    """Returns whether the error comes from the driver of a GPU."""
    return any(sign in str(error) for sign in DRIVERS)


def of_surroundings(error: Exception) -> DiffEditError | None:
    """Returns the error to report for a failure of the environment, or None for any other error (a bug in diffedit).

    Failures of the environment are full memory, and a library that cannot be imported. That library is the one whose
    module was being imported innermost in the traceback, else the module that an ImportError names.
    """
    if is_out_of_memory(error):
        return DeviceError(OUT_OF_MEMORY)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"]
    library = next(
        (name.partition(".")[0] for name in reversed(names) if not name.startswith(("diffedit_cli", "__main__"))), ""
    )
    if not library and isinstance(error, ImportError):
        library = str(error.name).partition(".")[0]
    if library in ("", "None", "diffedit_cli"):
        return None
    return UsageError(
        f"{library} cannot be imported ({reason(error)}); check its installation, and the environment variables that "
        "it reads."
    )


def reason(error: BaseException | str) -> str:
    """Returns the message of a library's exception for use in a sentence: one line, without a full stop."""
    said = " ".join(str(error).split())[:LONGEST].rstrip(".")
    return said or type(error).__name__


def exit_code(codes: Counter[int]) -> int:
    """Returns the exit code of a command, from the number of its pictures that ended with each code.

    A single picture keeps its own code. For several pictures the code is 8 if any failed, 9 if some were withheld and
    none failed, and 0 otherwise.
    """
    failures = [code for code, count in codes.items() if code and count]
    if not failures:
        return 0
    return failures[0] if codes.total() == 1 or failures == [Withheld.code] else SOME_FAILED


def printable(text: str, lines: bool = False) -> str:
    """Returns the text with non-printable characters escaped, so that no file name controls the terminal.

    With `lines`, line breaks are kept.
    """
    kept = "\n" if lines else ""
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text)
