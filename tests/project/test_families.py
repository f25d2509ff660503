"""A family of models is a file and a row: nothing else in the package names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import checkout
import pytest

import diffedit_cli
from diffedit_cli.engine.networks.model_formats import FAMILIES

PACKAGE = Path(diffedit_cli.__file__).parent
NETWORKS = PACKAGE / "engine" / "networks"
ROWS = NETWORKS / "model_formats.py"
NAMES = PACKAGE / "models" / "names.py"  # short names of models that can be downloaded
FILES = {family: NETWORKS / f"{row.implementation.partition('.')[0]}.py" for family, row in FAMILIES.items()}
BUILT_ON = {"sd": ("sdxl",), "flux": ("flux2", "chroma")}
"""Families whose files take parts or layer names from that of another one."""
MARKS = {
    "sd": r"StableDiffusion(?!XL|3|Safety)",
    "sdxl": r"(?i:sdxl)|StableDiffusionXL",
    "sd3": r"(?i:sd3)|StableDiffusion3",
    "flux2": r"(?i:flux\.?2|klein)",
    "z-image": r"(?i:z[-_]?image)",
    "flux": r"(?i:flux(?!\.?2))",
    "chroma": r"Chroma(?!tic)",  # not the chroma of colours
    "qwen-image": r"(?i:qwen[-_]?image)",
    "pixart": r"(?i:pixart)",
}
"""What code or text that belongs to a family holds."""
DROP_IN = ("StableDiffusionDiffEditPipeline", "StableDiffusionPipelineOutput")
"""Names of the drop-in for diffusers' pipeline, which is for every family."""


def words(path: Path) -> list[tuple[int, str]]:
    """Names and texts of a module with their lines, but for docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    docstrings |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append((node.lineno, node.value))
        elif isinstance(node, ast.Name):
            found.append((node.lineno, node.id))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append((node.lineno, node.name))
        elif isinstance(node, ast.Attribute):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_every_family_has_its_marks_and_its_file() -> None:
    assert MARKS.keys() == FAMILIES.keys()
    assert len(set(FILES.values())) == len(FILES)
    assert all(path.is_file() for path in FILES.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_a_family_is_outside_its_file_and_its_row(family: str) -> None:
    own = {FILES[family], ROWS, NAMES, *(FILES[other] for other in BUILT_ON.get(family, ()))}
    mark = re.compile(MARKS[family])
    assert any(mark.search(word) for _, word in words(FILES[family]))
    strays = [
        f"{path.relative_to(PACKAGE)}:{line}: {word[:60]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path not in own
        for line, word in words(path)
        if mark.search(word) and not word.endswith(DROP_IN)
    ]
    assert not strays


def test_the_table_of_what_a_family_costs_is_true() -> None:
    page = (checkout.PROJECT / "docs" / "adding-a-model.md").read_text()
    told = dict(re.findall(r"^\| [^|]+ \| `(\w+\.py)` \| (\d+) \|", page, re.MULTILINE))
    assert told == {path.name: str(len(path.read_text().splitlines())) for path in FILES.values()}
