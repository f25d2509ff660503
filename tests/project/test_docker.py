"""The image files: each line is checked, and the image is built and run where a builder is at hand."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from checkout import PROJECT

from diffedit_cli.cli import commands

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = PROJECT / "docker" / "Dockerfile"
TEXT = re.sub(r"\\\n\s*", "", FILE.read_text())
STEPS = [tuple(line.split(" ", 1)) for line in TEXT.splitlines() if line and not line.startswith("#")]
IGNORED = (PROJECT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
LINES = re.findall(r"^\$ (docker .*)$", (PROJECT / "docs" / "docker.md").read_text(), re.MULTILINE)
PACKAGE = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def steps(name: str) -> list[str]:
    return [said for step, said in STEPS if step == name]


def test_every_step_is_known() -> None:
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in STEPS} <= known


def test_the_base_is_one_release_of_a_python_that_the_package_takes() -> None:
    (base,) = steps("FROM")
    found = re.fullmatch(r"python:(\d+)\.(\d+)\.(\d+)-slim-\w+", base)
    assert found is not None
    assert PACKAGE["project"]["requires-python"] == ">=3.10"
    assert (int(found[1]), int(found[2])) >= (3, 10)


def is_sent(path: str) -> bool:
    """Whether a file of the project is sent to the builder: the last pattern that matches decides."""
    sent = True
    for line in IGNORED:
        pattern = line.removeprefix("!")
        if line.startswith("#") or not line:
            continue
        parts = [Path(path), *Path(path).parents][:-1]
        named = [part.name if pattern.startswith("**/") else str(part) for part in parts]
        if pattern == "*" or any(fnmatch.fnmatch(one, pattern.removeprefix("**/")) for one in named):
            sent = line.startswith("!")
    return sent


def test_all_that_is_copied_exists_and_is_sent() -> None:
    copied = [one for said in steps("COPY") for one in said.split()[:-1]]
    for one in copied:
        assert (PROJECT / one).exists(), one
        assert is_sent(one), one
    assert not is_sent(".git")
    assert not is_sent("tests/conftest.py")
    assert not is_sent("diffedit_cli/__pycache__")
    assert is_sent("diffedit_cli/cli/ui/templates/editor.js")
    needed = {PACKAGE["project"]["readme"], "pyproject.toml", "constraints.txt", "diffedit_cli"}
    needed |= set(PACKAGE["tool"]["hatch"]["build"]["targets"]["wheel"].get("shared-data", {}))
    assert needed <= {*copied}


def test_it_installs_extras_that_exist_as_the_constraints_say() -> None:
    (run,) = steps("RUN")
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', run)
    assert {*extras.split(",")} <= PACKAGE["project"]["optional-dependencies"].keys()
    assert "--constraint constraints.txt" in run
    assert '--extra-index-url "$TORCH_INDEX"' in run
    assert any(said.startswith("TORCH_INDEX=https://download.pytorch.org/whl/cpu") for said in steps("ARG"))
    assert subprocess.run(["sh", "-n", "-c", run], check=False).returncode == 0


def test_the_program_runs_as_a_user_that_may_write_where_it_must() -> None:
    names = [step for step, _ in STEPS]
    assert names.index("USER") > names.index("RUN")
    (user,) = steps("USER")
    assert user == "diffedit"
    (run,) = steps("RUN")
    assert f"--uid 1000 {user}" in run
    assert steps("VOLUME") == [f"/home/{user}/.cache"]
    assert f"/home/{user}/.cache {steps('WORKDIR')[-1]}" in run


def test_the_entry_point_is_the_console_script() -> None:
    (entry,) = steps("ENTRYPOINT")
    assert entry == '["diffedit"]'
    assert "diffedit" in PACKAGE["project"]["scripts"]


@pytest.mark.parametrize("line", LINES)
def test_the_page_names_commands_that_parse(line: str) -> None:
    words = shlex.split(line)
    if words[1] == "build":
        assert words[words.index("--file") + 1] == "docker/Dockerfile"
        assert words[-1] == "."
        for name, _, _ in (word.partition("=") for word in words if word.startswith("TORCH")):
            assert f"{name}=" in TEXT
        return
    at = next(number for number, word in enumerate(words) if re.fullmatch(r"diffedit(:cuda)?", word))
    command, *options = words[at + 1 :]
    found = typer.main.get_command(commands.app.for_command(command)).commands[command]  # type: ignore[attr-defined]
    if command == "models":
        found, options = found.commands[options[0]], options[1:]
    assert found.make_context(command, options).params
    assert "diffedit:/home/diffedit/.cache" in words


def test_both_images_and_the_page_are_shown() -> None:
    assert len(LINES) == 6
    assert sum("TORCH_INDEX=" in line for line in LINES) == 1
    assert any(" ui " in line and "--network host" in line and "--no-browser" in line for line in LINES)


def builder() -> str | None:
    """The program that can build an image here, None if there is none, or no daemon."""
    found = (name for name in ("docker", "podman") if shutil.which(name))
    return next(
        (name for name in found if not subprocess.run([name, "info"], capture_output=True, check=False).returncode),
        None,
    )


@pytest.mark.slow
@pytest.mark.skipif(builder() is None, reason="no program that builds images runs here")
def test_the_image_is_built_and_runs(tmp_path: Path) -> None:
    name, image = builder(), "diffedit-under-test"
    assert name is not None
    subprocess.run([name, "build", "--file", str(FILE), "--tag", image, str(PROJECT)], check=True)
    shutil.copy(PROJECT / "sample_images" / "cat.png", tmp_path / "cat.png")
    tmp_path.chmod(0o777)
    words = ["run", "--rm", "--volume", f"{tmp_path}:/work", image]
    subprocess.run([name, *words, "edit", "cat.png", "--from", "cat", "--to", "dog", "--steps", "4"], check=True)
    assert (tmp_path / "cat.edited.png").exists()
    said = subprocess.run([name, *words, "ui", "--help"], capture_output=True, text=True, check=True)
    assert "--no-browser" in said.stdout
