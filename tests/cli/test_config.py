"""`diffedit config`: which files are read, what they set, and what counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import diffedit, picture

from diffedit_cli import DiffEdit
from diffedit_cli.cli import config_file, options
from diffedit_cli.errors import ModelError


@pytest.fixture
def layered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, the folder's, and the environment, each with something of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    for name in options.DECLARED:
        monkeypatch.delenv(config_file.variable(name), raising=False)
    users = config_file.users_file()
    users.parent.mkdir(parents=True)
    users.write_text('model = "builtin"\nsteps = 8\nlora = ["a.safetensors", "b.safetensors"]\n')
    Path("diffedit.toml").write_text("steps = 4\nsoft = true\n")
    monkeypatch.setenv("DIFFEDIT_MASK_STRENGTH", "0.7")
    return users


def test_each_setting_is_shown_with_where_it_comes_from(layered: Path) -> None:
    ran = diffedit("config")
    assert ran.code == 0
    said = ran.out.decode().splitlines()
    assert said[:3] == [str(layered), "diffedit.toml", "the environment (DIFFEDIT_...)"]
    rows = [line.split() for line in said[4:]]
    assert rows[0] == ["SETTING", "VALUE", "FROM"]
    assert ["soft", "true", "diffedit.toml"] in rows
    assert ["model", "builtin", str(layered)] in rows
    assert ["lora", "a.safetensors,", "b.safetensors", str(layered)] in rows
    assert [row[1:] for row in rows if row[0] == "steps"] == [["8", str(layered)], ["4", "diffedit.toml"]]
    assert [row[1] for row in rows if row[0] == "mask-strength"] == ["0.7"]


@pytest.mark.usefixtures("layered")
def test_programs_get_the_same() -> None:
    said = json.loads(diffedit("config", "--json").out)
    assert [layer["there"] for layer in said] == [True, True, True]
    assert said[1] == {"from": "diffedit.toml", "there": True, "sets": {"steps": 4, "soft": True}}
    assert said[2]["sets"] == {"mask-strength": "0.7"}


def test_files_that_are_not_there_are_named(layered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEDIT_MASK_STRENGTH")
    layered.unlink()
    Path("diffedit.toml").unlink()
    assert diffedit("config").out.decode().splitlines() == [
        f"{layered} (does not exist)",
        "diffedit.toml (does not exist)",
        "the environment (DIFFEDIT_...)",
    ]


def test_a_file_that_cannot_be_used_is_said(layered: Path) -> None:
    layered.write_text("steps = [")
    ran = diffedit("config")
    assert ran.code == 2
    assert str(layered) in ran.lines[-1]


@pytest.mark.parametrize("who", ["the environment", "the user's file"])
def test_a_setting_that_cannot_be_read_says_who_made_it(
    layered: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    Path("diffedit.toml").unlink()
    if who == "the environment":
        monkeypatch.setenv("DIFFEDIT_STEPS", "many")
        says = "--steps, as DIFFEDIT_STEPS says, cannot be read: "
    else:
        layered.write_text('steps = "many"\n')
        says = "--steps, as the settings say (see diffedit config), cannot be read: "
    ran = diffedit("edit", "cat.png", "--from", "cat", "--to", "dog")
    assert ran.code == 2
    assert says in ran.lines[-1]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ('steps = "many"', "steps = many in {} cannot be used: "),
        ("steps = -3", "steps = -3 in {} cannot be used: --steps must be"),
        ("threshold = 7", "threshold = 7 in {} cannot be used: --threshold must be"),
        ('maps = "some"', "maps = some in {} cannot be used: 'some' is neither a whole number nor auto"),
        ('soft = "perhaps"', "soft = perhaps in {} cannot be used: "),
    ],
)
def test_a_value_that_its_option_cannot_have_is_said(layered: Path, sets: str, says: str) -> None:
    Path("diffedit.toml").unlink()
    layered.write_text(sets)
    ran = diffedit("config")
    assert ran.code == 2
    assert says.format(layered) in ran.lines[-1]
    assert sets.split(" = ")[0] in ran.out.decode()  # and shown all the same


@pytest.mark.usefixtures("layered")
@pytest.mark.parametrize(
    ("name", "guess"), [("STEP", "did you mean DIFFEDIT_STEPS?"), ("ZZ", "see diffedit edit --help-all.")]
)
def test_a_variable_that_is_no_setting_is_said(monkeypatch: pytest.MonkeyPatch, name: str, guess: str) -> None:
    monkeypatch.setenv(f"DIFFEDIT_{name}", "3")
    monkeypatch.setenv("DIFFEDIT_SERVE", "off")
    ran = diffedit("config")
    assert ran.code == 0
    assert ran.err.splitlines() == [f"warning: DIFFEDIT_{name} is not a setting, and is ignored; {guess}"]


def test_a_setting_that_is_mistyped_is_guessed(layered: Path) -> None:
    layered.write_text("step = 20")
    assert "did you mean steps?" in diffedit("config").lines[-1]


def test_of_every_option_the_variable_is_the_one_that_commands_read() -> None:
    """Both derive it from the option's name."""
    declared = {
        parameter.envvar: flag.removeprefix("--")
        for command in commands()
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("--") and getattr(parameter, "envvar", None)
    }
    assert len(declared) > 60
    assert {config_file.variable(name) for name in declared.values()} == set(declared)


def commands() -> list:  # type: ignore[type-arg]
    import typer

    from diffedit_cli.cli.commands import app

    found = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    return [inner for one in found for inner in (one, *getattr(one, "commands", {}).values())]


@pytest.mark.parametrize("source", ["flag", "flag=", "environment", "file", "both in a file", "library"])
def test_the_former_name_of_an_option_works_as_well(
    layered: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """--inpainter is --painter; of both names in one source, the one of today counts."""
    words = {"flag": ("--inpainter", "nonesuch"), "flag=": ("--inpainter=nonesuch",)}.get(source, ())
    if source == "environment":
        monkeypatch.setenv("DIFFEDIT_INPAINTER", "nonesuch")
    elif "file" in source:
        layered.write_text(f'inpainter = "{"other" if "both" in source else "nonesuch"}"\n')
        with layered.open("a") as file:
            file.write('painter = "nonesuch"\n' if "both" in source else "")
    if source == "library":
        with pytest.raises(ModelError, match="no model nonesuch"):
            DiffEdit(inpainter="nonesuch")
        return
    if "file" not in source:
        layered.unlink()
    picture(Path("cat.png"))
    ran = diffedit("edit", "cat.png", "--from", "cat", "--to", "dog", *words)
    assert ran.code == 4
    assert "warning" not in ran.err
    assert "There is no model nonesuch on this machine" in ran.lines[-1]
    if not words:
        assert ["painter", "nonesuch"] in [line.split()[:2] for line in diffedit("config").out.decode().splitlines()]


@pytest.mark.usefixtures("layered")
def test_a_former_name_is_in_no_help_and_no_strangers_file() -> None:
    assert "--painter" in diffedit("edit", "--help-all").out.decode()
    assert "inpainter" not in diffedit("edit", "--help-all").out.decode()
    Path("diffedit.toml").write_text('inpainter = "nonesuch"\n')
    ran = diffedit("config")
    assert ran.code == 2
    assert "sets painter;" in ran.lines[-1]


def test_a_former_name_is_none_of_a_present_option() -> None:
    assert not options.OLDER.keys() & options.DECLARED
    assert set(options.OLDER.values()) <= options.DECLARED
