"""A downloaded folder is a stranger's: its settings choose little, and its names and texts are shown, not obeyed."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command import FAST, WORDS, Ran, diffedit, picture
from tiny import write_json

from diffedit_cli.cli import commands, config_file, options
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.parameter import flag
from diffedit_cli.pipeline.params import Params
from diffedit_cli.storage.cache import Cache

EDITING = """
align anyway auto-corr-rolls best box caption caption-embeds clamp clip-skip edges eta exclude expand feather
fill-holes fixed-point from from-embeds from-negative from-negative-embeds grow guidance guidance-end guidance-every
instruction invert-every invert-from invert-guidance islands keep lambda-auto-corr lambda-kl last-level latents maps
mask mask-method mask-strength negative negative-embeds paste-above point preset reach-down reg-steps region room
scheduler seam seed segment smooth soft steps strength threshold to to-embeds to-negative to-negative-embeds variants
within zoom
""".split()  # noqa: SIM905
"""Whoever declares an option decides here whether a stranger's folder may set it."""


def parameters(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that there is, by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from parameters(command, *names, name)
        else:
            yield (*names, name), command


COMMANDS = dict(parameters(typer.main.get_command(commands.app)))
OPTIONS = sorted(
    {flag[2:] for command in COMMANDS.values() for one in command.params for flag in one.opts if flag[:2] == "--"}
)


# Settings


def test_every_option_is_declared_to_be_a_strangers_or_not() -> None:
    assert set(OPTIONS) == options.DECLARED
    assert set(EDITING) == options.EDITING


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", ["1", "true", "'word'", "['word']"])
def test_a_folder_sets_how_a_picture_is_edited_and_nothing_else(name: str, value: str) -> None:
    Path("diffedit.toml").write_text(f"{name} = {value}\n")
    if name in EDITING:
        assert list(config_file.read()) == [name]
    else:
        with pytest.raises(UsageError, match=rf"sets {name};.*{config_file.users_file()}"):
            config_file.read()


COUNTED = {"auto-corr-rolls", "expand", "fixed-point", "maps", "reg-steps", "steps", "variants"}
SPARING = {"clip-skip", "guidance-every", "invert-every", "seed"}
"""Whole numbers that make no more work, the larger they are."""


def test_all_that_multiplies_work_is_limited() -> None:
    counts = {flag(name).removeprefix("--") for name, field in Params.__dataclass_fields__.items()
              if "int" in str(field.type)}  # fmt: skip
    assert counts - SPARING == COUNTED == set(config_file.MOST)
    assert options.EDITING >= COUNTED


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", sorted(COUNTED))
def test_a_folder_asks_for_no_more_work_than_anyone_does(name: str) -> None:
    most = 1000 if name == "steps" else 100
    for value in (most, f"'{most}'"):
        Path("diffedit.toml").write_text(f"{name} = {value}\n")
        assert list(config_file.read()) == [name]
    for value in (most + 1, f"'{most + 1}'", f"' 1_000_00{most} '", "1e5", "inf", "1" + "0" * 400):
        Path("diffedit.toml").write_text(f"{name} = {value}\n")
        with pytest.raises(UsageError, match=rf"this folder sets {name} to .* may set {most} at most"):
            config_file.read()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", ["edit", "config"])
def test_a_folder_that_asks_for_more_is_said(command: str) -> None:
    Path("diffedit.toml").write_text("maps = 100000\n")
    ran = diffedit(*((command, "cat.png", *WORDS) if command == "edit" else (command,)))
    assert ran.code == 2
    assert "sets maps to 100000; the file of a working folder may set 100 at most" in ran.lines[-1]


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_the_users_own_file_asks_for_any_work(here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "users_file", lambda: here / "config" / "diffedit.toml")
    (here / "config").mkdir()
    (here / "config" / "diffedit.toml").write_text(f"{name} = 2000\n")
    assert config_file.read() == {name: 2000}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_users_own_file_sets_anything(here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "users_file", lambda: here / "config" / "diffedit.toml")
    (here / "config").mkdir()
    (here / "config" / "diffedit.toml").write_text(f"{name} = 'word'\n")
    assert config_file.read() == {name: "word"}
    monkeypatch.chdir("config")  # where it is the folder's, too
    assert config_file.read() == {name: "word"}


@pytest.mark.parametrize("words", COMMANDS)
def test_no_command_goes_on_in_a_folder_that_sets_more(here: Path, words: tuple[str, ...]) -> None:
    own = here / ".bashrc"
    own.write_text("# my own\n")
    (here / "diffedit.toml").write_text(f'depfile = "{own}"\nmodel = "model"\nsteps = 4\n')
    ran = diffedit(*words, *["cat.png"] * any(one.required for one in COMMANDS[words].params))
    assert ran.code == 2
    assert "depfile, model" in ran.err
    assert str(config_file.users_file()) in ran.err
    assert own.read_text() == "# my own\n"


# What is printed

EVIL = "\x1b]0;PWN\x07\x9b31m\u202e[bold]"
SPOOF = "\ndiffedit: all is well"
BYTE = "\udce9"  # of a name that is no UTF-8


def harmless(ran: Ran) -> Ran:
    """What nothing in a terminal obeys, no line of it a stranger's."""
    out = ran.out.decode()
    for text in (out, ran.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
        assert SPOOF not in f"\n{text}"
    assert "should not" not in ran.err
    assert ran.code != 1
    return ran


@pytest.fixture
def strange(here: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A picture, folders, a model and a cache whose names, and what they say, hold all of this."""
    evil = EVIL + SPOOF
    names = {"picture": f"{evil}{BYTE}.png", "model": f"{evil}-model", "out": f"{evil}-out", "cache": f"{evil}{BYTE}"}
    picture(here / names["picture"])
    shutil.copytree(tiny_epsilon, names["model"])
    monkeypatch.setenv("DIFFEDIT_MODEL", f"./{names['model']}")
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", names["cache"])
    return names


LINES: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("mask",): [("{picture}", *WORDS, *FAST), ("{picture}", "--from", EVIL, "--to", "dog", *FAST)],
    ("invert",): [("{picture}", "--steps", "4", "--verbose"), ("{picture}x",)],
    ("edit",): [
        ("{picture}", *WORDS, *FAST),
        ("{picture}", *WORDS, *FAST, "--json", "--preview", "{picture}"),
        ("{picture}", *WORDS, *FAST, "--no-cache", "-o", "{picture}"),
        ("{picture}", *WORDS, "--lora", "{picture}"),
        ("{picture}", *WORDS, "--mask", "{out}"),
        ("{picture}", *WORDS, "--depfile", "rule.d"),
        ("{picture}", "{picture}", *WORDS),
        (f"--{EVIL}", EVIL),
    ],
    ("run",): [
        ("{picture}", *WORDS, *FAST, "--out", "{out}", "--force"),
        ("{picture}", *WORDS, "--out", "{picture}", "--ray", EVIL),
        ("{cache}", "{model}", *WORDS, "--out", "{out}", "--shard", EVIL),
    ],
    ("report",): [("{out}",), ("{model}",), ("{picture}",)],
    ("info",): [("{picture}",), ("mask.png",)],
    ("config",): [(), ("--json",)],
    ("doctor",): [(), ("--device", EVIL), ("--model", "{out}")],
    ("ui",): [("{picture}x",), ("--port", "-1", "{picture}"), ("--out", "{picture}"), ("--model", EVIL), (EVIL,)],
    ("serve",): [("--status",), ("--stop",), ("--idle", EVIL)],
    ("models", "list"): [(), (EVIL,)],
    ("models", "pull"): [("{picture}", "--offline"), ("--variant", EVIL)],
    ("models", "use"): [("./{model}",), ("{out}",)],
    ("models", "show"): [(), ("./{model}", "--json"), ("{out}",)],
    ("models", "save"): [("saved{picture}",), ("{out}",)],
    ("cache", "list"): [(), ("--cache-dir", "{picture}")],
    ("cache", "prune"): [("--keep", "1"), ("--keep", EVIL)],
    ("cache", "clear"): [()],
}


def test_what_every_command_prints_is_harmless(
    strange: dict[str, str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LINES.keys() == COMMANDS.keys()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    ran = harmless(diffedit("mask", strange["picture"], *WORDS, *FAST, "-o", "mask.png", "--overlay", "x.png"))
    assert ran.code == 0, ran.err
    Cache(Path(strange["cache"])).store(EVIL + SPOOF, "ab" * 32, b"x")
    for words, lines in LINES.items():
        for line in lines:
            harmless(diffedit(*words, *(word.format(**strange) for word in line)))


def test_what_a_models_settings_say_is_harmless(copy: Path) -> None:
    said = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    write_json(copy / "scheduler" / "scheduler_config.json", said | {"prediction_type": EVIL + SPOOF})
    harmless(diffedit("models", "show", copy))
    index = json.loads((copy / "model_index.json").read_text())
    write_json(copy / "model_index.json", index | {"_class_name": EVIL + SPOOF})
    assert harmless(diffedit("models", "show", copy)).code == 4


def test_letters_that_the_terminal_has_none_of_are_spelled_out(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    Path("\u732b").mkdir()
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", "\u732b")
    with (here / "out").open("w", encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["diffedit", "cache", "list"])
        assert commands.main() == 0
    assert (here / "out").read_text().endswith(r" in \u732b" + "\n")


def test_only_one_module_prints() -> None:
    """Others write pictures, or lines that Rich draws."""
    package = Path(commands.__file__).parent.parent
    printing = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                empty = node.keywords and node.keywords[0].arg == "end" and not node.args  # which only flushes
                if called in ("sys.stdout.write", "sys.stderr.write", "typer.echo") or (
                    called == "print" and not empty
                ):
                    printing.add(path.name)
    assert printing == set()
