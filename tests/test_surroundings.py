"""Streams that are closed, full or broken, of few letters, and users without a home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Case, Outcome, outcomes
from command import WORDS, diffedit, picture

from diffedit_cli import cache, paths, settings, streams

COMMANDS = (
    ("mask", "none.png", *WORDS),
    ("mask", "-", *WORDS),
    ("invert", "none.png", "--json"),
    ("edit", "cat.png", *WORDS, "--exclude", "none.png", "--json"),
    ("edit", "cat.png", *WORDS, "--lora", "~nobody-of-that-name/l.safetensors"),
    ("run", "none.png", "nöne.png", *WORDS, "--out", "out", "--json"),
    ("run", "album", "-r", *WORDS, "--out", "out"),
    ("run", "-", *WORDS, "--out", "out"),
    ("report", "old"),
    ("info", "cat.mask.png"),
    ("models", "list"),
    ("models", "show"),
    ("models", "use", "builtin"),
    ("models", "save", "cat.png"),
    ("cache", "list"),
    ("cache", "prune"),
    ("cache", "clear"),
    ("serve", "--status"),
    ("--version",),
)
NO_FOLDERS = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DIFFEDIT_CACHE_DIR", "XDG_RUNTIME_DIR"))


@pytest.fixture(scope="module")
def folder(tiny_epsilon: Path) -> Iterator[Path]:
    """Where all commands are run."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        root = Path(made)
        patch.chdir(root)
        picture(Path("cat.png"))
        assert diffedit("mask", "cat.png", *WORDS, "--model", tiny_epsilon, "--steps", 4, "--maps", 1).code == 0
        for name in ("album", "old"):
            Path(name).mkdir()
        for name in ("album/text.png", "album/notes.txt"):
            Path(name).write_text("no picture")
        Path("old/results.jsonl").write_text(json.dumps({"status": "failed", "input": "nöne.png"}) + "\n")
        yield root


@pytest.fixture(scope="module")
def usual(folder: Path) -> list[Outcome]:
    """What comes of the commands when nothing is odd."""
    return outcomes([Case(words) for words in COMMANDS], folder)


STREAMS = [{0: "closed"}, {2: "closed"}, {2: "full"}]
OUTPUTS = [{1: "closed"}, {1: "full"}, {1: "broken"}, {0: "closed", 1: "closed", 2: "closed"}]


def test_every_command_ends_as_ever_where_a_stream_is_odd(folder: Path, usual: list[Outcome]) -> None:
    cases = [(i, Case(words, streams=state)) for state in (*STREAMS, *OUTPUTS) for i, words in enumerate(COMMANDS)]
    for (i, case), found in zip(cases, outcomes([case for _, case in cases], folder), strict=True):
        found.check()
        before = usual[i]
        before.check()
        if 1 in case.streams and before.out:
            assert found.code == 6, (case, found)
            if 2 not in case.streams:
                assert "diffedit: Standard output cannot be written: " in found.err, (case, found)
        else:
            wants_input = "-" in case.words and 0 in case.streams
            assert found.code == (3 if wants_input else before.code), (case, found, before)
            if 2 not in case.streams:
                assert ("-" in case.words) or len(found.err.splitlines()) == len(before.err.splitlines()), (case, found)


def test_every_command_ends_in_peace_without_a_home(folder: Path, usual: list[Outcome]) -> None:
    nothing = {**NO_FOLDERS, "HOME": None}
    cases = [Case(words, environment=nothing, homeless=True) for words in COMMANDS]
    before = {path for path in folder.rglob("*") if "out" not in path.parts}
    for case, found, ever in zip(cases, outcomes(cases, folder), usual, strict=True):
        found.check()
        assert found.code == (6 if case.words[:2] == ("models", "use") else ever.code), (case, found)
    assert {path for path in folder.rglob("*") if "out" not in path.parts} == before  # no folder called ~


# The streams themselves


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os, sys; [os.close(number) for number in range(3)]; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from diffedit_cli import streams; streams.prepare()\n"
        "file = open('kept', 'w'); print('told'); print('said', file=sys.stderr); sys.stdout.flush()\n"
        "file.write(f'{file.fileno()} {streams.lost()}'); file.close()"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode == 0
    number, _, why = (tmp_path / "kept").read_text().partition(" ")
    assert int(number) > 2
    assert "Bad file descriptor" in why


def test_letters_that_an_encoding_does_not_have_are_spelled_out_and_bytes_of_names_stay() -> None:
    script = "from diffedit_cli import streams; streams.prepare(); print('\\u00fc\\udcff\\U0001f600')"
    for encoding, expected in (
        ("ascii", b"\\xfc\xff\\U0001f600\n"),
        ("utf-8", "ü".encode() + b"\xff" + "😀\n".encode()),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True
        )
        assert ran.stdout == expected


def test_nothing_is_read_and_nothing_kept_where_there_is_no_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*NO_FOLDERS, "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert paths.NOWHERE in settings.users_file().parents
    assert cache.default_root() == paths.NOWHERE
    assert settings.read() == {}
    assert cache.Cache(paths.NOWHERE).entries() == []
    assert streams.lost() is None
    picture(Path("cat.png"))
    ran = diffedit("models", "use", "builtin")
    assert (ran.code, ran.err) == (6, "diffedit: There is no home folder to keep settings in; set HOME.\n")
    assert not list(tmp_path.glob("~*"))
