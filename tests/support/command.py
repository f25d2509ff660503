"""Runs the program in this process, where torch is already imported, or as the installed command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from transformers.utils import logging

from diffedit_cli.cli import commands

logging.disable_progress_bar()  # as the installed program does through the environment

INSTALLED = str(Path(sys.executable).with_name("diffedit"))
WORDS = ("--from", "cat", "--to", "dog")
FAST = ("--steps", "5", "--maps", "2", "--threshold", "0.3")


HINTS = ("The mask covers", "The edit of", "Much of the old content of", "The result of")


def problems(warnings: Iterable[str]) -> list[str]:
    """Returns the warnings without hints, which an untrained model causes: its masks and results are random."""
    return [warning for warning in warnings if not warning.startswith(HINTS)]


@dataclass(frozen=True)
class Ran:
    """The result of a command: exit code, standard output and standard error."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    @property
    def warnings(self) -> list[str]:
        """The warnings in the single JSON object on standard output, without hints."""
        return problems(self.json["warnings"])

    @property
    def json(self) -> dict[str, Any]:
        """The single JSON object on standard output."""
        return json.loads(self.out)


def declared(app: typer.Typer = commands.app, words: str = "") -> Iterator[tuple[str, str, Any, list[Any]]]:
    """Yields every parameter of every command: the command's words, the name, the type, the rest of the annotation."""
    for group in app.registered_groups:
        assert group.typer_instance
        yield from declared(group.typer_instance, f"{words}{group.name} ")
    for command in app.registered_commands:
        assert command.callback
        for name, annotation in command.callback.__annotations__.items():
            if annotation is typer.Context:
                continue
            kind, *said = typing.get_args(annotation) or [annotation]
            yield f"{words}{command.name or command.callback.__name__}", name, kind, said


def diffedit(*words: object, given: bytes = b"") -> Ran:
    """Runs one command line in this process, with `given` on standard input."""
    streams = [
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors=errors, write_through=True)
        for data, errors in ((given, "strict"), (b"", "strict"), (b"", "backslashreplace"))  # as Python opens them
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffedit", *map(str, words)])
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        code = commands.main()
    return Ran(code, streams[1].buffer.getvalue(), streams[2].buffer.getvalue().decode())


def installed(*words: object, given: bytes = b"", folder: Path | None = None) -> Ran:
    """Runs one command line of the installed program, as users do."""
    return finished(started(*words, folder=folder), given)


def started(*words: object, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Starts the installed program. Its streams are unbuffered: lines in a buffer would be lost to `finished`."""
    pipe, line = subprocess.PIPE, [INSTALLED, *map(str, words)]
    return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, bufsize=0)


def finished(process: subprocess.Popen[bytes], given: bytes = b"") -> Ran:
    out, err = process.communicate(given)
    return Ran(process.returncode, out, err.decode())


def picture(path: Path, size: tuple[int, int] = (60, 40)) -> Path:
    """Writes a picture of three gradients, in the format of the path."""
    gradient = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (gradient, gradient.rotate(180), gradient.rotate(90).resize(size))).save(path)
    return path


def settled(folder: Path, model: Path, patch: pytest.MonkeyPatch) -> Path:
    """Makes `folder` the working folder, with cat.png in it, the model and few steps as defaults."""
    patch.chdir(folder)
    patch.setenv("DIFFEDIT_MODEL", str(model))
    for name, value in (("STEPS", "5"), ("MAPS", "2"), ("THRESHOLD", "0.3")):
        patch.setenv(f"DIFFEDIT_{name}", value)
    picture(folder / "cat.png")
    return folder
