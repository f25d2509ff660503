"""How the package is laid out: what imports what, what starts quickly, and what stays readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import checkout
import pytest

import diffedit_cli

PACKAGE = Path(diffedit_cli.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted(path for name in ("benchmarks", "training") for path in (checkout.PROJECT / name).rglob("*.py"))
TESTS = sorted(checkout.TESTS.rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "numpy", "huggingface_hub")

# Each folder may import those behind it, never those before it. A module beside the folders counts as one.
FOLDERS = (
    *("__main__", "cli", "api", "api_stages", "api_inputs", "api_results"),
    *("diffusers", "jobs", "results", "pipeline", "models"),
    *("engine.networks", "engine", "images", "storage", "errors", "_version"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file()}
            found |= modules if node.module == "diffedit_cli" and modules else modules | {str(node.module)}
    return found


def folder(module: str) -> int:
    """Where the folder of a module stands among FOLDERS."""
    return next(number for number, name in enumerate(FOLDERS) if f"{module}.".startswith(f"{name}."))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    own = module_name(path)
    ours = [name.removeprefix("diffedit_cli.") for name in imported(path) if name.startswith("diffedit_cli.")]
    if own:  # else it is the package itself, which names what it exports
        assert not [name for name in ours if folder(name) < folder(own)]


def test_tests_lie_in_the_folders_of_what_they_test() -> None:
    ours = {path.parent.relative_to(PACKAGE).as_posix() for path in SOURCES} | {"."}
    besides = {"benchmarks", "project", "robustness", "support", "training"}
    assert {path.parent.relative_to(checkout.TESTS).as_posix() for path in TESTS} <= ours | besides
    assert not {path.name for path in TESTS if path.parent.name == "support" and path.name.startswith("test_")}


def test_the_engine_knows_neither_files_nor_the_command_line() -> None:
    for path in (PACKAGE / "engine").rglob("*.py"):
        ours = {name for name in imported(path) if name.startswith("diffedit_cli")}
        assert all(name.startswith("diffedit_cli.engine") or name == "diffedit_cli.errors" for name in ours), path


OWN = ("EditPipeline", "OpenPipeline", "StableDiffusionDiffEditPipeline")


def test_nothing_imports_the_deprecated_pipeline() -> None:
    allowed = {"engine.networks.safety_checker"}  # diffusers' safety checker has its place among the pipelines
    for path in (path for path in SOURCES if module_name(path) not in allowed):
        assert not [name for name in imported(path) if name.startswith("diffusers") and "pipelines" in name], path
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not [name for name in names if name.endswith("Pipeline") and name not in OWN], path


@pytest.mark.parametrize("path", SOURCES + TOOLS + TESTS, ids=lambda path: path.name)
def test_no_file_is_longer_than_a_person_reads(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=lambda path: path.name)
def test_no_function_or_class_is_longer_than_a_screen_or_three(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < (50 if isinstance(node, ast.FunctionDef) else 150), node.name


COMMANDS = (
    *("", "mask", "invert", "edit", "run", "report", "info", "doctor", "serve", "ui", "cache list"),
    *("cache prune", "cache clear"),
    *("models list", "models pull", "models use", "models show", "models save"),
)
ASK_AND_TELL = f"""
import sys
from diffedit_cli.__main__ import main
for line in sys.argv[1:]:
    sys.argv = ["diffedit", *line.split()]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def ask(*lines: str) -> list[str]:
    """Exit code and heavy modules after each of these command lines, in one fresh process."""
    words = [sys.executable, "-c", ASK_AND_TELL, *lines]
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()


def test_help_of_every_command_imports_nothing_heavy() -> None:
    lines = [f"{command} --help" for command in COMMANDS]
    assert ask(*lines, "--version", "models list") == ["0 []"] * (len(lines) + 1) + ["0 ['huggingface_hub']"]


def test_a_missing_picture_is_noticed_without_importing_torch() -> None:
    message, told = ask("mask missing.png --from cat --to dog")
    assert "missing.png" in message
    assert told == "3 ['numpy']"
