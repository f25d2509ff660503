"""Ctrl-C ends the command wherever it is pressed: in a finaliser, in a library that makes an error of its own of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from diffedit_cli.cli import commands
from diffedit_cli.errors import INTERRUPTED, INTERRUPTION, InputError, ModelError
from diffedit_cli.jobs import interrupts, outcomes
from diffedit_cli.jobs.job import Job
from diffedit_cli.pipeline.params import Params

PRESSED_IN_A_FINALISER = """
import signal, sys, time
from diffedit_cli import __main__
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs hand on that they ignore it
class Object:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
class Reader:
    def find_spec(self, name, *_):
        if name == "diffedit_cli.cli.commands":
            Object()
            time.sleep(60)
sys.meta_path.insert(0, Reader())
sys.argv = ["diffedit", "--version"]
__main__.main()
"""


@pytest.fixture
def heeded() -> Iterator[None]:
    before, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    interrupts.install()
    yield
    interrupts.reset()
    sys.unraisablehook = hook
    signal.signal(signal.SIGINT, before)


def takes_it_for_its_own(error: Exception) -> NoReturn:
    """As a reader in another language does."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise error from None
    raise AssertionError


def raises(error: Exception) -> NoReturn:
    raise error


def test_in_a_finaliser_it_ends_the_command_all_the_same() -> None:
    words = [sys.executable, "-c", PRESSED_IN_A_FINALISER]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (INTERRUPTED, "")
    assert ended.stderr == f"diffedit: {INTERRUPTION}\n"


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("error", [ModelError("Its vae is unreadable."), RuntimeError("lost")])
def test_it_is_no_failure_of_a_picture(error: Exception) -> None:
    job = Job(input=Path("cat.png"), params=Params())
    with pytest.raises(KeyboardInterrupt):
        outcomes.attempt(job, lambda: takes_it_for_its_own(error), print)
    interrupts.reset()
    failed = outcomes.attempt(job, lambda: raises(error), lambda _: None)
    assert failed.status == "failed"


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("error", [InputError("The picture is damaged."), RuntimeError("lost")])
def test_it_is_no_failure_of_the_command(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "_app", lambda: lambda **_: takes_it_for_its_own(error))
    assert commands.main() == INTERRUPTED
    assert capfd.readouterr().err == f"diffedit: {INTERRUPTION}\n"


@pytest.mark.usefixtures("heeded")
def test_who_started_the_program_may_want_it_not_to_be_heard() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
