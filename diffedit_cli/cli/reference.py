"""Generates docs/parameters.md and the man page from the declarations of commands and parameters."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer

from diffedit_cli import __version__
from diffedit_cli.cli import options
from diffedit_cli.cli.options import PANELS
from diffedit_cli.errors import INTERRUPTED, SOME_FAILED, DiffEditError
from diffedit_cli.pipeline.parameter import Parameter, flag, parameters
from diffedit_cli.pipeline.params import Params

STAGES = {
    "contrast": "mask", "reference": "mask", "bare": "mask", "mask": "mask", "text": "every prompt",
    "inversion": "inversion", "regularisation": "inversion", "repainting": "edit", "edit": "edit", "region": "edit",
}  # fmt: skip
"""Record of cache keys that holds a parameter -> stage that is computed again when the parameter changes."""


def parameters_page() -> str:
    """Returns docs/parameters.md: every parameter with its default, range and stages."""
    lines = [
        "# Parameters",
        "",
        "The parameters of an edit; `diffedit COMMAND --help-all` shows what each command takes besides. In Python",
        "they are keyword arguments with `_` for `-` and `from_` for `from`; in a job file columns; in `diffedit.toml`",
        "settings; in the environment `DIFFEDIT_NAME`. Changing one computes again only the stages that it concerns.",
        "This page is made by `python -m diffedit_cli.cli.reference parameters`.",
    ]
    panel = ""
    for name, said in parameters(Params).items():
        if PANELS[said.group] != panel:
            panel = PANELS[said.group]
            lines += ["", f"## {panel}", "", "| option | default | values | concerns | |", "|---|---|---|---|---|"]
        default = getattr(Params(), name)
        shown = "" if default in (None, "") else f"`{default}`"
        lines.append(f"| `{flag(name)}` | {shown} | {_values(name, said)} | {_stages(said)} | {said.help} |")
    return "\n".join(lines) + "\n"


def _values(name: str, said: Parameter) -> str:
    if said.choices:
        return ", ".join([*(f"`{one}`" for one in said.choices), *(["an expression"] if said.parse else [])])
    words = [f"`{word}`" for word in said.words]
    kind = options.KINDS[str(Params.__dataclass_fields__[name].type)]
    if said.range is None:
        plain = {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind, "text")
        return " ".join(filter(None, [plain, *words]))
    return ", ".join([str(said.range), *words])


def _stages(said: Parameter) -> str:
    return ", ".join(dict.fromkeys(STAGES[record] for record in (*said.keys, *said.changed_in, *said.sometimes_in)))


def man_page() -> str:
    """Returns the man page diffedit.1 in roff, with every command and all of its options."""
    from diffedit_cli.cli.commands import app

    group: Any = typer.main.get_command(app)
    lines = [
        f'.TH DIFFEDIT 1 "" "diffedit {__version__}" "User Commands"',
        *(".SH NAME", "diffedit \\- change a picture by words"),
        *(".SH SYNOPSIS", "\\fBdiffedit\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]"),
        *(".SH DESCRIPTION", _roff(group.help or "")),
        ".SH COMMANDS",
    ]
    for name, command in _commands(group, ""):
        arguments = " ".join(f"\\fI{one.name.upper()}\\fR" for one in _of_kind(command, "argument"))
        lines += [f".SS diffedit {name} {arguments}".rstrip(), _roff(command.help or "")]
        for one in _of_kind(command, "option"):
            flags = ", ".join(_roff(word) for word in (*one.opts, *one.secondary_opts))
            lines += [".TP", f"\\fB{flags}\\fR", _roff(one.help or "")]
    lines += [".SH EXIT STATUS", ".TP", "0", "Done."]
    codes = {kind.code: _roff(kind.__doc__ or "") for kind in DiffEditError.__subclasses__()}
    codes |= {1: "An internal error.", SOME_FAILED: "Some of several pictures failed.", INTERRUPTED: "Interrupted."}
    for code in sorted(codes):
        lines += [".TP", str(code), codes[code]]
    return "\n".join(lines) + "\n"


def _commands(group: Any, before: str) -> list[tuple[str, Any]]:
    """Returns all commands with the words that call them (`models list`); groups are replaced by their commands."""
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        found += _commands(command, words) if hasattr(command, "commands") else [(words, command)]
    return found


def _of_kind(command: Any, kind: str) -> list[Any]:
    return [one for one in command.params if one.param_type_name == kind]


def _roff(text: str) -> str:
    """Returns text escaped for roff: minus signs do not become hyphens, and no line is read as a request."""
    lines = [" ".join(line.split()) for line in re.split(r"\n\n+", text.strip())]
    escaped = (line.replace("\\", "\\e").replace("-", "\\-") for line in lines)
    return "\n.PP\n".join(f"\\&{line}" if line[:1] in ".'" else line for line in escaped)


if __name__ == "__main__":
    page = {"parameters": parameters_page, "man": man_page}[sys.argv[1]]
    sys.stdout.buffer.write(page().encode())
