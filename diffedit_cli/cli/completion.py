"""Shell completion: whether its files may be written, and what went wrong if they cannot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from diffedit_cli.errors import DiffEditError, OutputError, UsageError
from diffedit_cli.storage import paths

COMPLETIONS = (".bash_completions/diffedit.sh", ".zfunc/_diffedit", ".config/fish/completions/diffedit.fish")


def failure(error: Exception) -> DiffEditError | None:
    """Returns the error to report if a shell's completion request or its installation failed, else None."""
    if os.environ.get("_DIFFEDIT_COMPLETE"):
        return UsageError("The shell's completion request is incomplete; run diffedit --install-completion again.")
    if not isinstance(error, OSError | UnicodeError) or "--install-completion" not in sys.argv:
        return None
    what = f"{error.strerror} ({error.filename})" if isinstance(error, OSError) else "a shell's file is not UTF-8"
    return OutputError(
        f"The completion cannot be written: {what}; copy the output of --show-completion to where your "
        "shell reads completions."
    )


def check() -> None:
    """Raises OutputError if a completion file to be installed exists and was not written by diffedit."""
    for name in COMPLETIONS if "--install-completion" in sys.argv else ():
        path = Path.home() / name
        if paths.is_file(path) and b"_DIFFEDIT_COMPLETE" not in path.read_bytes():
            raise OutputError(f"{path} exists and was not made by diffedit; move it away.")
