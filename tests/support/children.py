"""Runs many commands as separate processes, each a fork of one with all imports done, since a start costs seconds.

As a script it reads the cases from standard input and writes their outcomes, both as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for a command


@dataclass(frozen=True)
class Case:
    """A command line and the state of its process: streams, environment and user."""

    words: Sequence[str]
    streams: dict[int, str] = field(default_factory=dict)  # of 0, 1 and 2 those that are closed, full, or a broken pipe
    environment: dict[str, str | None] = field(default_factory=dict)
    homeless: bool = False  # a user that is in no list of users
    nobody: bool = False  # a user that owns nothing: only root can become one
    imports: Sequence[str] = ()  # a command that imports what this one needs, where this one may not be done before


@dataclass(frozen=True)
class Outcome:
    """Exit code (None: the command did not end), standard output and error, as far as they could be written."""

    code: int | None
    out: str
    err: str

    def check(self) -> None:
        """Asserts a documented exit code other than that of a bug, and no traceback."""
        assert self.code in {0, 2, 3, 4, 5, 6, 7, 8, 9}, (self.code, self.err)
        for sign in ("Traceback", "should not", "Exception ignored", "Error in"):
            assert sign not in self.err, self.err


def outcomes(cases: Sequence[Case], folder: Path, **environment: str) -> list[Outcome]:
    """Returns the outcome of each command in a folder, as forks of one process with this environment."""
    asked = json.dumps([vars(case) for case in cases])
    ended = subprocess.run(
        [sys.executable, __file__], input=asked, capture_output=True, text=True, cwd=folder, encoding="utf-8",
        env={**os.environ, **environment},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [Outcome(**one) for one in json.loads(ended.stdout.splitlines()[-1])]


def _come_of(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _become(case, out.fileno(), err.fileno())
        code, since = None, time.monotonic()
        while code is None and time.monotonic() - since < PATIENCE:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.01)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        told = [os.pread(one.fileno(), 10**6, 0).decode(errors="backslashreplace") for one in (out, err)]
    return {"code": code, "out": told[0], "err": told[1]}


def _become(case: Case, out: int, err: int) -> None:
    """Turns this process into that of the command; does not return."""
    nothing, full = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_RDWR)
    unread, broken = os.pipe()
    os.close(unread)
    for number, usual in enumerate((nothing, out, err)):
        state = case.streams.get(number)
        if state == "closed":
            os.close(number)
        else:
            os.dup2({"full": full, "broken": broken, None: usual}[state], number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # as Python does when it starts
        closed = case.streams.get(number) == "closed"
        errors = "backslashreplace" if number == 2 else "strict"
        encoding = getattr(sys.__stdout__, "encoding", "utf-8")
        way = "w" if number else "r"
        setattr(sys, name, None if closed else os.fdopen(number, way, encoding=encoding, errors=errors, closefd=False))
    for name, value in case.environment.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    if case.homeless:
        pwd.getpwuid = _unknown  # type: ignore[assignment]
    if case.nobody:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    _end(case.words)


def _unknown(number: int) -> Any:
    raise KeyError(number)


def _end(words: Sequence[str]) -> None:
    from diffedit_cli.__main__ import main

    sys.argv = ["diffedit", *(os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in words)]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            os.write(2, traceback.format_exc().encode())
    os._exit(code)


def _import_for(words: Sequence[str]) -> None:
    """Imports everything that a command imports, by running it here."""
    from diffedit_cli.cli import commands

    sys.argv = ["diffedit", *words]
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        commands.main()


if __name__ == "__main__":
    import diffedit_cli.cli.commands  # noqa: F401  # what every command needs is there before the first fork

    given = [Case(**{**one, "streams": {int(n): s for n, s in one["streams"].items()}}) for one in json.load(sys.stdin)]
    for words in {tuple(case.imports or case.words) for case in given}:
        _import_for(words)
    print(json.dumps([_come_of(case) for case in given]))
