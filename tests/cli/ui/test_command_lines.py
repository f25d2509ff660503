"""The words that the page's settings become: what the command reads is what was set, and nothing else can be said."""

from __future__ import annotations

import shlex
import typing
from pathlib import Path
from typing import Any

import pytest
import typer
from command import declared

from diffedit_cli.cli import commands
from diffedit_cli.cli import options as o
from diffedit_cli.cli.ui import command, command_lines
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.parameter import flag

NAMES = sorted(command_lines.CONTROLS["edit"])
OPTIONS = {one["name"]: one for one in command_lines.described()}


def parsed(*words: str) -> dict[str, Any]:
    """What the command gets for this line."""
    found = typer.main.get_command(commands.app.for_command(words[0])).commands[words[0]]  # type: ignore[attr-defined]
    return dict(found.make_context(words[0], list(words[1:])).params)


def value_for(name: str) -> Any:
    said = OPTIONS.get(name, {"kind": "text", "default": None})
    if said["kind"] == "switch":
        return not said["default"]
    if said["kind"] == "choice":
        return said["choices"][-1]
    numbers = {"integer": 7, "number": 0.25}
    return numbers.get(said["kind"], "some $(words); \"quoted\" 'twice' & more")


@pytest.mark.parametrize("kind", ["mask", "edit"])
@pytest.mark.parametrize("name", NAMES)
def test_each_control_arrives_in_the_command(name: str, kind: str) -> None:
    value = [value_for(name)] if name == "lora" else value_for(name)
    words = command_lines.words(kind, {name: value})
    assert bool(words) == (name in command_lines.CONTROLS[kind])
    if words:
        given = parsed(kind, "cat.png", *words)
        parameter = next(one for one in given if flag(one).removeprefix("--") == name)
        assert given[parameter] == (tuple(value) if name == "lora" and isinstance(given[parameter], tuple) else value)


TEXTS = [
    "-x",
    "--output=/etc/x",
    "--",
    "-",
    "a\nb",
    "$(rm -rf /)",
    "`x`",
    "'",
    '"',
    "; x",
    "| x",
    "é 猫",
    " ",
    "a" * 2000,
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_is_a_value(text: str) -> None:
    words = command_lines.words("edit", {"from": text, "to": text})
    given = parsed("edit", "cat.png", *words)
    assert (given["from_"], given["to"], given["output"]) == (text, text, None)
    line = command_lines.line(["edit", "cat.png", *words])
    assert shlex.split(line) == ["diffedit", "edit", "cat.png", *words]


@pytest.mark.parametrize("value", [None, {}, ["a"], "a\0b", "a" * 2001, True])
def test_what_is_no_value_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        command_lines.words("edit", {"to": value})
    with pytest.raises(UsageError):
        command_lines.words("edit", {"anyway": "yes"})


@pytest.mark.parametrize(
    "name", ["", "evil", "output", "o", "--to", "to=x --output", "help", "install-completion", "json"]
)
def test_no_other_option_can_be_set(name: str) -> None:
    with pytest.raises(UsageError, match="is not a setting of this page"):
        command_lines.words("edit", {name: "x"})


def test_no_file_and_no_other_model_can_be_named() -> None:
    """Every option that may name a file or something to download: a model and LoRAs are checked by name elsewhere."""
    for line, name, kind, _ in declared():
        if line in ("edit", "mask") and {Path} & {kind, *typing.get_args(kind)}:
            assert flag(name).removeprefix("--") not in command_lines.CONTROLS["edit"], name
    loads = {
        "painter",
        "segmenter",
        "expand-model",
        "caption-model",
        "model-config",
        "vae",
        "text-encoder",
        "embedding",
    }
    assert not loads & command_lines.CONTROLS["edit"]


SET: dict[str, Any] = {
    "model": "./my model", "device": "cpu", "dtype": "float32", "lora": ["a.safetensors", "b c.safetensors:0.5"],
    "vae_tiling": True, "offload": "model", "text_encoder": ["-x"], "cache_dir": Path("some where"), "offline": True,
}  # fmt: skip


def test_options_of_the_page_are_those_of_its_commands() -> None:
    groups = (*command.COMMANDS_OPTIONS, command.MAX_PIXELS)
    usual = {name: default for group in groups for name, (_, default) in group.items()}
    assert command_lines.model_words(usual, groups) == {}
    words = [word for said in command_lines.model_words(usual | SET, groups).values() for word in said]
    given = parsed("edit", "cat.png", *words)
    assert {name: given[name] if not isinstance(given[name], tuple) else list(given[name]) for name in SET} == SET
    assert {name: given[name] for name in usual.keys() - SET.keys() - {"lora", "text_encoder", "embedding"}} == {
        name: usual[name] for name in usual.keys() - SET.keys() - {"lora", "text_encoder", "embedding"}
    }


@pytest.mark.parametrize(("path", "said"), [("-x.png", "./-x.png"), ("-", "./-"), ("a/-b.png", "a/-b.png")])
def test_a_picture_is_never_an_option(path: str, said: str) -> None:
    assert command_lines.argument(Path(path)) == said


def test_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_THRESHOLD", "0.3")
    monkeypatch.setenv("DIFFEDIT_PRESET", "fast")
    found = {one["name"]: one["default"] for one in command_lines.described()}
    assert (found["threshold"], found["preset"]) == (0.3, "fast")
    assert found["grow"] == o.DEFAULTS.grow


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threshold", 0.3, ["--threshold", "0.3"]), ("anyway", "true", ["--anyway"]), ("anyway", False, []),
        ("within", "x.png", ["--within", "x.png"]), ("guidance", 3, ["--guidance", "3"]), ("painter", "x", []),
        ("steps", "-1", ["--steps=-1"]), ("strength", 0.5, []),
    ],
)  # fmt: skip
def test_cells_of_a_job_file_become_options_of_a_mask(name: str, value: object, words: list[str]) -> None:
    assert command_lines.of_row(name, value) == words
