"""Help as plain text. Typer would draw it with rich, whose import takes as long as all else that `--help` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from diffedit_cli.cli.console import answer

ALL = "--help-all"
WIDTH = 100  # columns, where the terminal has them
MISTYPED: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for a command line that it cannot read."""


FIRST_STEPS = """\
Change a picture by words.

  diffedit edit photo.png --from cat --to dog           edit a picture
  diffedit run photos --from cat --to dog --out edited  edit all pictures of a folder
  diffedit models pull sd15                             get a model of photographs

The model that comes with diffedit knows a small drawn world (sample_images).
diffedit --help lists all commands, diffedit edit --help what an edit can do."""


SHORT = 25
"""The most options that `--help` shows of a command; where there are more, the first ones that one needs."""
FIRST_OPTIONS = {
    "Many pictures": ("--out", "--name", "--recursive", "--dry-run"),
    "What to change": ("--from", "--to", "--negative", "--anyway"),
    "Where": ("--mask", "--threshold", "--box", "--point", "--within", "--exclude"),
    "How": ("--guidance", "--preset", "--seed", "--variants", "--best", "--inpainter", "--caption", "--strength"),
    "Which model": ("--model", "--device", "--lora"),
    "Result": ("--output", "--preview", "--overlay", "--frames", "--json", "--force"),
    "More help": ("--help",),
}
"""By what one wants to do."""
LATER = {
    "run": (
        "--inpainter",
        "--box",
        "--point",
        "--within",
        "--exclude",
        "--variants",
        "--best",
        "--caption",
        "--strength",
        "--frames",
    ),
    "edit": ("--caption", "--strength", "--frames"),
}
"""Those of them that `--help` of a command leaves out."""


class Command(TyperCommand):
    """A command whose options are shown in their groups, and by `--help` not more of them than one reads."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ALL in args[: args.index("--") if "--" in args else None]:
            ctx.meta[ALL] = True
            answer(ctx.get_help(), lines=True)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each group in the order in which its first option was declared, or the first options."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        params = self.get_params(ctx)
        is_short = len(params) > SHORT and not ctx.meta.get(ALL)
        if is_short:
            groups |= {group: [] for group in FIRST_OPTIONS}
        for param in params:
            if record := param.get_help_record(ctx):
                panel = getattr(param, "rich_help_panel", None) or "Options"
                if is_short:
                    panel = _first_group(set(param.opts) - set(LATER.get(self.name or "", ())))
                group = "Arguments" if param.param_type_name == "argument" else panel
                groups.setdefault(group, []).append(record)
        groups.pop("", None)
        if is_short:
            groups["More help"].append((ALL, f"Show all {len(params)} options."))
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _first_group(flags: set[str]) -> str:
    """The group of FIRST_OPTIONS that an option with these flags is shown in; empty for none."""
    return next((group for group, first in FIRST_OPTIONS.items() if flags & set(first)), "")


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


def shows_help(error: Any) -> bool:
    """Whether nothing is wrong with a command line but that it asks for nothing."""
    return str(error.format_message()).startswith("Usage:")


def error_text(error: Any) -> str:
    """What is wrong with a command line, as one sentence; of a command without anything to do its help."""
    message: str = error.format_message()
    if shows_help(error):
        return message if error.ctx and error.ctx.parent else FIRST_STEPS
    command = error.ctx.command_path if error.ctx else "diffedit"
    see = f"see {command} --help."
    if hasattr(error, "possibilities"):
        guess = f"did you mean {' or '.join(error.possibilities)}?" if error.possibilities else see
        return f"{command} has no option {error.option_name}; {guess}"
    parameter = getattr(error, "param", None)
    if parameter is not None and hasattr(error, "param_type"):
        return f"{command} needs {_name(parameter)}; {see}"
    if parameter is not None:
        return (
            f"{_name(parameter)}{_said_by(error.ctx, parameter)} cannot be read: {_begun_small(error.message)}; {see}"
        )
    return f"{message.rstrip('.')}; {see}"


def _name(parameter: Any) -> str:
    """`--steps`, or `IMAGES`."""
    is_option = parameter.param_type_name == "option"
    return str(max(parameter.opts, key=len) if is_option else (parameter.metavar or parameter.name).upper())


def _said_by(context: Any, parameter: Any) -> str:
    """Who says it, if not the command line."""
    source = context and context.get_parameter_source(parameter.name)
    says = {"ENVIRONMENT": f"{parameter.envvar} says", "DEFAULT_MAP": "the settings say (see diffedit config)"}
    return f", as {says[source.name]}," if source and source.name in says else ""


def _begun_small(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
