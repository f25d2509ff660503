"""How the package is laid out: what imports what, what starts quickly, and what stays readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffedit_cli

PACKAGE = Path(diffedit_cli.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "numpy", "huggingface_hub")

# Each module may import those of the layers above its own, never those below or beside it.
LAYERS = (
    {"errors", "exif", "interrupts", "packets", "profiles", "resources", "result", "stored"},
    {"", "bmp", "boxes", "console", "jpeg", "paths", "png", "seals", "streams", "unfinished"},
    {"cli_help", "containers"},
    {"account", "ledger", "colour", "files", "memory", "metadata", "remote", "shards", "together", "weights"},
    {"engine", "engine.formats", "engine.imports", "engine.layouts", "engine.offload", "engine.precision", "ownership"},
    {"engine.conversion", "engine.process", "engine.weighting", "phrases"},
    {
        "deep",
        "engine.evidence",
        "engine.lora",
        "engine.packing",
        "engine.region",
        "presets",
        "profiling",
        "prompts",
        "wording",
    },
    {"keywords", "params"},
    {"engine.seam", "naming", "plan"},
    {"engine.model", "engine.regularisation", "engine.solvers", "images", "cache", "options"},
    {"cells", "digests", "predictions", "settings", "warm"},
    {"made"},
    {"additions", "checkpoints", "configs", "formats", "rows"},
    {"models", "sources"},
    {"engine.calls", "engine.diffedit", "engine.fitness", "engine.parts", "engine.text", "artefacts", "vocabulary"},
    {"engine.latent", "engine.additions", "engine.safety", "engine.inpainting"},
    {"devices", "kept", "limits", "embeds", "repeating", "writers", "zoom"},
    {"engine.attention", "engine.refine", "given", "review", "rooms"},
    {"engine.sd", "engine.sd3", "composition", "inpainting", "safety", "terminal", "thumbnails", "jobs"},
    {"engine.sdxl", "page", "report", "verdicts"},
    {"engine.families"},
    {"loading"},
    {"runtime", "serving"},
    {"masking", "scenery"},
    {"stages", "hub"},
    {"api", "batch", "examine"},
    {"places"},
    {"running"},
    {"cli_models"},
    {"launch"},
    {"fleet"},
    {"cli_cache", "cli_config", "cli_page", "cli_run"},
    {"cli"},
    {"__main__"},
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


def layer(module: str) -> int:
    return next(number for number, modules in enumerate(LAYERS) if module in modules)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    ours = [name.removeprefix("diffedit_cli").lstrip(".") for name in imported(path) if name.startswith("diffedit_cli")]
    own = module_name(path)
    if own == "":  # which exports these without importing them
        ours = [name for name in ours if name not in ("api", "params", "presets", "prompts")]
    assert not [name for name in ours if layer(name) >= layer(own) and name != own]


def test_the_engine_knows_neither_files_nor_the_command_line() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        ours = {name for name in imported(path) if name.startswith("diffedit_cli")}
        assert all(name.startswith("diffedit_cli.engine") or name == "diffedit_cli.errors" for name in ours), path


def test_nothing_imports_the_deprecated_pipeline() -> None:
    allowed = {"engine.safety"}  # diffusers' safety checker has its place among the pipelines
    for path in (path for path in SOURCES if module_name(path) not in allowed):
        assert not [name for name in imported(path) if name.startswith("diffusers") and "pipelines" in name], path
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not [name for name in names if name.endswith("Pipeline")], path


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: path.name)
def test_no_file_is_longer_than_a_person_reads(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


COMMANDS = (
    *("", "mask", "invert", "edit", "run", "report", "info", "doctor", "serve", "cache list"),
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
