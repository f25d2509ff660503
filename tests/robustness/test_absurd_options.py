"""Every option of every command with a value that nobody can mean: a sentence and the contract's code, never a bug."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import FAST, WORDS, declared, diffedit
from typer.models import OptionInfo

from diffedit_cli.errors import CODES

ABSURD = ("1e304", "nan", "9" * 400, "9" * 5000, "-1", "\udcff")
"""More than any machine counts, nothing, what is no number, and what is no text."""
BEFORE = {
    "mask": ("mask", "nope.png", *WORDS, *FAST),
    "invert": ("invert", "nope.png", *FAST),
    "edit": ("edit", "nope.png", *WORDS, *FAST),
    "run": ("run", "cat.png", *WORDS, *FAST, "--out", "out", "--dry-run"),
    "info": ("info", "cat.png"),
    "report": ("report", "out"),
    "models pull": ("models", "pull", "sd15", "--offline"),
    "models use": ("models", "use", "builtin"),
    "models show": ("models", "show", "builtin"),
    "models save": ("models", "save", "cat.png"),
}
"""What else a command has to be told. There is no such picture: what is done with one is seen elsewhere."""


def options() -> Iterator[tuple[str, str]]:
    """Every option of every command that takes a value."""
    for command, name, kind, said in declared():
        if any(isinstance(one, OptionInfo) for one in said) and bool not in {kind, *typing.get_args(kind)}:
            flags = [flag for one in said for flag in one.param_decls or () if flag.startswith("--")]
            yield command, flags[0].split("/")[0] if flags else f"--{name.rstrip('_').replace('_', '-')}"


OPTIONS = sorted({*options()})


def test_all_are_found() -> None:
    assert len(OPTIONS) > 150
    assert {command for command, _ in OPTIONS} >= {"edit", "mask", "invert", "run", "serve", "cache prune"}


@pytest.mark.thorough
@pytest.mark.parametrize(("command", "flag"), OPTIONS)
def test_it_is_refused_or_used(command: str, flag: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffedit_cli.cli import server
    from diffedit_cli.cli.ui import serving

    monkeypatch.setattr(server.Server, "serve", lambda *_: None)
    monkeypatch.setattr(serving, "serve", lambda *_: None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "config"))
    for value in ABSURD:
        ran = diffedit(*BEFORE.get(command, command.split()), flag, value)
        assert ran.code in CODES, (value[:9], ran.err)
        assert ran.code != 1, (value[:9], ran.err)
        assert "should not" not in ran.err, (value[:9], ran.err)
    assert (here / "cat.png").is_file()
