"""Streams that are closed, full or broken, users without a home, homes of others, and locales of few letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import Case, Outcome, outcomes
from command import FAST, INSTALLED, WORDS, diffedit, installed, picture

from diffedit_cli.cli import config_file
from diffedit_cli.storage import cache, paths, streams

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
    ("config",),
    ("serve", "--status"),
    ("--version",),
)
SHUT = (  # by the code where the folder shut is another user's
    (6, ("edit", "cat.png", *WORDS, "-o", "shut/x.png")),
    (6, ("mask", "cat.png", *WORDS, "-o", "shut/deep/x.png")),
    (6, ("edit", "cat.png", *WORDS, "--preview", "shut/x.png")),
    (6, ("edit", "cat.png", *WORDS, "--frames", "shut/frames")),
    (4, ("edit", "cat.png", *WORDS, "--lora", "shut/l.safetensors")),
    (4, ("edit", "cat.png", *WORDS, "--embedding", "shut/l.safetensors")),
    (4, ("edit", "cat.png", *WORDS, "--model", "shut/model")),
    (3, ("edit", "shut/cat.png", *WORDS)),
    (3, ("edit", "cat.png", *WORDS, "--mask", "shut/mask.png")),
    (3, ("edit", "cat.png", *WORDS, "--within", "shut/mask.png")),
    (3, ("edit", "cat.png", "--to", "dog", "--from-embeds", "shut/l.safetensors")),
    (6, ("run", "cat.png", *WORDS, "--out", "shut/out")),
    (3, ("run", "shut", *WORDS, "--out", "theirs")),
    (3, ("run", "shut/jobs.csv", *WORDS, "--out", "theirs")),
    (3, ("report", "shut")),
    (3, ("report", "shut/out")),
    (3, ("info", "shut/cat.png")),
    (4, ("models", "show", "shut/model")),
    (6, ("models", "save", "shut/saved")),
    (6, ("models", "save", "shut")),
    (6, ("cache", "list", "--cache-dir", "shut")),
    (6, ("cache", "list", "--cache-dir", "shut/deep")),
)
NO_FOLDERS = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DIFFEDIT_CACHE_DIR", "XDG_RUNTIME_DIR"))


@pytest.fixture(scope="module")
def folder(tiny_epsilon: Path) -> Iterator[Path]:
    """Where all commands are run, and any user may write: with a folder and a home that another may not enter."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        root = Path(made)
        root.chmod(0o777)
        patch.chdir(root)
        picture(Path("cat.png"))
        assert diffedit("mask", "cat.png", *WORDS, "--model", tiny_epsilon, "--steps", 4, "--maps", 1).code == 0
        for name in ("album", "old", "old of theirs", "shut/out", "shut/model", "shut/home"):
            Path(name).mkdir(parents=True)
        for name in ("cat.png", "mask.png", "l.safetensors"):
            Path("shut", name).write_bytes(Path("cat.png").read_bytes())
        for name in ("album/text.png", "album/notes.txt", "ö.png"):
            Path(name).write_text("no picture")
        for name in ("old", "old of theirs"):
            Path(name, "results.jsonl").write_text(json.dumps({"status": "failed", "input": "nöne.png"}) + "\n")
        for path in root.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        Path("shut").chmod(0o700)
        yield root


@pytest.fixture(scope="module")
def usual(folder: Path) -> list[Outcome]:
    """What comes of the commands when nothing is odd."""
    return outcomes([Case(words) for words in COMMANDS], folder)


STREAMS = [{0: "closed"}, {2: "closed"}, {2: "full"}]
OUTPUTS = [{1: "closed"}, {1: "full"}, {1: "broken"}, {0: "closed", 1: "closed", 2: "closed"}]


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_every_command_ends_in_peace_without_a_home(folder: Path, usual: list[Outcome]) -> None:
    nothing = {**NO_FOLDERS, "HOME": None}
    cases = [Case(words, environment=nothing, homeless=True) for words in COMMANDS]
    before = {path for path in folder.rglob("*") if "out" not in path.parts}
    for case, found, ever in zip(cases, outcomes(cases, folder), usual, strict=True):
        found.check()
        assert found.code == (6 if case.words[:2] == ("models", "use") else ever.code), (case, found)
        assert os.devnull not in found.out + found.err, (case, found)
    assert {path for path in folder.rglob("*") if "out" not in path.parts} == before  # no folder called ~


# The streams themselves


HOMES: list[dict[str, str | None]] = [
    {**NO_FOLDERS, "HOME": "shut/home"},
    {**NO_FOLDERS, "XDG_RUNTIME_DIR": "shut/run"},
    {**NO_FOLDERS, "XDG_CONFIG_HOME": "shut", "XDG_CACHE_HOME": "shut"},
    {**NO_FOLDERS, "HOME": "", "XDG_RUNTIME_DIR": "/nonexistent"},
]
THEIRS = {"out": "theirs", "old": "old of theirs"}
as_another = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.mark.thorough
@as_another
def test_every_command_ends_in_peace_with_a_home_of_another_user(folder: Path, usual: list[Outcome]) -> None:
    homes = [{name: f"{folder}/{value}" if value else value for name, value in home.items()} for home in HOMES]
    cases = [
        (i, Case([THEIRS.get(word, word) for word in words], environment=home, nobody=True, imports=words))
        for home in homes
        for i, words in enumerate(COMMANDS)
    ]
    for (i, case), found in zip(cases, outcomes([case for _, case in cases], folder), strict=True):
        found.check()
        if COMMANDS[i][:2] == ("models", "use") or case.words[0] == "cache":  # which are about what lies there
            assert found.code in (0, 6), (case, found)
        else:
            assert found.code == usual[i].code, (case, found)


@as_another
def test_what_lies_in_a_folder_of_another_user_is_said(folder: Path) -> None:
    cases = [Case(words, nobody=True, imports=COMMANDS[3]) for _, words in SHUT]
    cases += [Case(("--version",), imports=words) for words in COMMANDS]  # another user may not read our libraries
    for (code, words), found in zip(SHUT, outcomes(cases, folder, HOME=str(folder)), strict=False):
        found.check()
        assert found.code == code, (words, found)
        assert "shut" in found.err


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAMES = ("ö.png", "nöne.png", "n\udcff.png", "\u2028.png")


@pytest.mark.thorough
@pytest.mark.parametrize("locale", [ASCII, {"LC_ALL": "C.UTF-8"}], ids=["ASCII", "UTF-8"])
def test_every_command_says_what_it_has_to_in_few_letters(
    folder: Path, usual: list[Outcome], locale: dict[str, str]
) -> None:
    said = [
        *[("edit", name, "--from", "köter", "--to", "katze") for name in NAMES],
        *[("run", name, *WORDS, "--out", "out", "--json", "--name", "ö{ext}") for name in NAMES],
        ("report", "öld"),
    ]
    (folder / "öld").mkdir(exist_ok=True)
    (folder / "öld" / "results.jsonl").write_bytes((folder / "old" / "results.jsonl").read_bytes())
    cases = [Case(words) for words in (*COMMANDS, *said)]
    found = outcomes(cases, folder, **locale)
    for case, one in zip(cases, found, strict=True):
        one.check()
        assert not case.words[0].startswith(("edit", "run")) or one.err
    assert [one.code for one in found[: len(COMMANDS)]] == [one.code for one in usual]
    assert found[-1].code == 0


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os, sys; [os.close(number) for number in range(3)]; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from diffedit_cli.storage import streams; streams.prepare()\n"
        "file = open('kept', 'w'); print('told'); print('said', file=sys.stderr); sys.stdout.flush()\n"
        "file.write(f'{file.fileno()} {streams.stdout_error()}'); file.close()"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode == 0
    number, _, why = (tmp_path / "kept").read_text().partition(" ")
    assert int(number) > 2
    assert "Bad file descriptor" in why


def test_letters_that_an_encoding_does_not_have_are_spelled_out_and_bytes_of_names_stay() -> None:
    script = "from diffedit_cli.storage import streams; streams.prepare(); print('\\u00fc\\udcff\\U0001f600')"
    for encoding, expected in (
        ("ascii", b"\\xfc\xff\\U0001f600\n"),
        ("utf-8", "ü".encode() + b"\xff" + "😀\n".encode()),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True
        )
        assert ran.stdout == expected


# Users without a home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder of a user who has no other."""
    monkeypatch.chdir(tmp_path)
    for name in (*NO_FOLDERS, "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    return tmp_path


def test_nothing_is_read_and_nothing_kept_where_there_is_no_home(homeless: Path) -> None:
    assert paths.NOWHERE in config_file.users_file().parents
    assert cache.default_root() == paths.NOWHERE
    assert config_file.read() == {}
    assert cache.Cache(paths.NOWHERE).entries() == []
    assert streams.stdout_error() is None
    picture(Path("cat.png"))
    ran = diffedit("models", "use", "builtin")
    assert (ran.code, ran.err) == (6, "diffedit: There is no home folder to keep settings in; set HOME.\n")
    assert not list(homeless.glob("~*"))


HOME = "your home folder (there is none; set HOME)"


@pytest.mark.parametrize(("words", "code", "says"), [
    (("edit", "cat.png", *WORDS), 0, "There is no home folder to have a cache in; set HOME, or name one with --cache-"),
    (("doctor",), 6, "There is no home folder to have a cache in; set HOME, or name one with --cache-dir."),
    (("cache", "list"), 0, f"0 entries, 0.0 MB in {HOME}"),
    (("config",), 0, f"diffedit.toml in {HOME} (does not exist)"),
    (("config", "--json"), 0, f'"diffedit.toml in {HOME}"'),
    (("models", "use", "builtin"), 6, "There is no home folder to keep settings in; set HOME."),
    (("models", "pull", "owner/name"), 6, "There is no home folder to keep models in; set HOME or HF_HOME."),
    (("serve",), 6, "There is no home folder to listen in; set XDG_RUNTIME_DIR."),
])  # fmt: skip
def test_who_has_no_home_is_told_so_and_no_place_that_there_cannot_be(
    homeless: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setenv("DIFFEDIT_MODEL", str(tiny_epsilon))
    monkeypatch.setenv("DIFFEDIT_STEPS", "2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(paths.NOWHERE / "hub"))
    picture(homeless / "cat.png")
    if words[:2] == ("models", "pull"):
        refused = NotADirectoryError(20, "Not a directory", str(paths.NOWHERE))
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", raising(refused))
    ran = diffedit(*words)
    assert ran.code == code, ran.err
    assert says in ran.out.decode() + ran.err
    assert os.devnull not in ran.out.decode() + ran.err


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_settings_of_a_folder_name_no_file_of_nobody(homeless: Path) -> None:
    (homeless / "diffedit.toml").write_text('model = "sd15"\n')
    ran = diffedit("models", "list")
    assert (ran.code, ran.err) == (2, (
        "diffedit: diffedit.toml in this folder sets model; the file of a working folder may only set how a picture is "
        f"edited, so set that in your own settings file, diffedit.toml in {HOME}, or on the command line.\n"
    ))  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(("variable", "value", "code", "says"), [
    ("COLUMNS", "0", 0, "cat.edited.png"),
    ("TORCH_LOGS", "garbage", 2, "torch cannot be imported (Invalid log settings: garbage"),
    ("TQDM_MININTERVAL", "abc", 2, "tqdm cannot be imported (could not convert string to float: 'abc')"),
])  # fmt: skip
def test_variables_of_libraries_hide_no_sentence_and_are_no_bugs(
    here: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: int, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    ran = installed("edit", "cat.png", *WORDS, *FAST, folder=here)
    assert ran.code == code, ran.err
    assert says in ran.err


def test_a_working_folder_that_is_gone_is_said(here: Path) -> None:
    gone = here / "gone"
    gone.mkdir()
    line = f'rmdir ../gone; exec "{INSTALLED}" edit "{here}/cat.png" {" ".join(WORDS)} -o "{here}/x.png"'
    ran = subprocess.run(["sh", "-c", line], cwd=gone, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("diffedit: The current working folder no longer exists")
    assert not (here / "x.png").exists()
