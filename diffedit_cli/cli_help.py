"""Help as plain text. Typer would draw it with rich, whose import takes as long as all else that `--help` does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from diffedit_cli.errors import printable

WIDTH = 100  # columns, where the terminal has them


class Command(TyperCommand):
    """A command whose options are shown in their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each group in the order in which its first option was declared."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                panel = getattr(param, "rich_help_panel", None) or "Options"
                group = "Arguments" if param.param_type_name == "argument" else panel
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


class Commands(TyperGroup):
    """Commands with the whole first paragraph of what each does."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _paragraph(self.commands[name].help)) for name in self.list_commands(ctx)])


class App(typer.Typer):
    """Commands that show such help, and errors as plainly."""

    def __init__(self, **more: Any) -> None:
        self.told = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
        super().__init__(cls=Commands, no_args_is_help=True, rich_markup_mode=None, context_settings=self.told, **more)

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=Command, context_settings=self.told, **more)


def complaint(error: Any) -> str | None:
    """What Typer says of wrong usage, in lines, what it quotes in one of them; None for any other error."""
    if not hasattr(error, "format_message"):
        return None
    if type(error).__name__ != "NoArgsIsHelpError":  # whose message is the help
        error.message = printable(error.message)
    said = io.StringIO()
    error.show(said)
    return said.getvalue().rstrip("\n")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
