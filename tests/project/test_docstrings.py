"""The public surface says all of its parameters: the library, and the algorithm as readers of the paper open it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffedit_cli

PACKAGE = Path(diffedit_cli.__file__).parent
PUBLIC = [
    *sorted((*PACKAGE.glob("engine/*.py"), *PACKAGE.glob("diffusers/*.py"))),
    *(PACKAGE / f"api{name}.py" for name in ("", "_stages", "_results")),
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def documented(node: ast.AST) -> Iterator[tuple[str, Function, str]]:
    """Name, definition and docstring of every public function; the docstring of a class is that of its __init__ too."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, ast.ClassDef) and not one.name.startswith("_"):
            own = ast.get_docstring(one) or ""
            for name, function, said in documented(one):
                yield f"{one.name}.{name}", function, own + said if name == "__init__" else said
        elif isinstance(one, Function) and (not one.name.startswith("_") or one.name in ("__init__", "__call__")):
            yield one.name, one, ast.get_docstring(one) or ""


CASES = [
    pytest.param(function, said, id=f"{path.stem}.{name}")
    for path in PUBLIC
    for name, function, said in documented(ast.parse(path.read_text()))
]


def parameters(function: Function) -> list[str]:
    given = function.args
    several = [one for one in (given.vararg, given.kwarg) if one]
    return [
        one.arg
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)
        if one.arg not in ("self", "cls")
    ]


@pytest.mark.parametrize(("function", "said"), CASES)
def test_every_parameter_is_documented(function: Function, said: str) -> None:
    assert said.strip()
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", said, re.MULTILINE)
    told = re.findall(r"^ {4}(\w+): \S", section[1], re.MULTILINE) if section else []
    alone = parameters(function)
    if alone and not section:
        text = " ".join(said.split())
        assert len(alone) <= 2, f"no section Args for {alone}"
        assert all(re.search(rf"\b{name}\b", text) for name in alone), f"{alone} in none of: {text}"
    else:
        assert told == alone


def test_there_are_such_functions() -> None:
    assert len(CASES) > 60
