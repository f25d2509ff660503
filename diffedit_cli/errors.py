"""What can go wrong, and the exit code that each kind owns (the contract's table)."""

from __future__ import annotations

import traceback
from collections import Counter


class DiffEditError(Exception):
    """One sentence: what is wrong, where, and what to do next."""

    code = 1


class UsageError(DiffEditError):
    """The command line, the environment or a configuration file asks for something impossible."""

    code = 2


class InputError(DiffEditError):
    """A picture, mask or latents file cannot be used: unreadable, too large, or of another picture."""

    code = 3


class ModelError(DiffEditError):
    """The model is missing, unreadable, or unfit for this picture or prompt."""

    code = 4


class NothingToEdit(DiffEditError):
    """The mask is empty."""

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
INTERRUPTION = "Interrupted; what was finished is kept."
FULL = ("out of memory", "can't allocate memory", "Cannot allocate memory", "failed to map segment")
LONGEST = 200  # letters of what a library says
OUT_OF_MEMORY = "There is too little memory for this; end other programs, or make the picture smaller first."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device's memory, or the computer's, is full; torch's own error is known by its name."""
    said = str(error)
    full = any(sign in said for sign in FULL) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and full)


def of_surroundings(error: Exception) -> DiffEditError | None:
    """What to say of an error that is no bug here: memory is full, or a library cannot be imported as things are."""
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
    reason = " ".join(str(error).split())[:LONGEST]
    return UsageError(f"{library} cannot be imported ({reason}); see how it is installed, and what its variables say.")


def exit_code(codes: Counter[int]) -> int:
    """Of a command, from how many of its pictures ended with which.

    One alone keeps its own; of several, some that failed give 8, and some withheld, none failed, 9.
    """
    failures = [code for code, count in codes.items() if code and count]
    if not failures:
        return 0
    return failures[0] if codes.total() == 1 or failures == [Withheld.code] else SOME_FAILED


def printable(text: str, lines: bool = False) -> str:
    """Without what a terminal would obey, as a file's name may hold it; with `lines` those stay lines."""
    kept = "\n" if lines else ""
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text)
