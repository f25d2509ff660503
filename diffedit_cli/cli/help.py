"""Plain-text help. Typer would render it with rich, whose import takes as long as the rest of `--help`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from diffedit_cli.cli.console import HELP, HELP_ALL, answer
from diffedit_cli.cli.options import OLDER

FIRST_COMMANDS = (
    "edit",
    "ui",
    "run",
    "report",
    "mask",
    "invert",
    "info",
    "models",
    "config",
    "doctor",
    "cache",
    "serve",
)
WIDTH = 100  # columns of help, at most
MISTYPED: type[Exception] = typer.BadParameter.__mro__[1]
"""Base class of the errors that Typer raises for a command line that it cannot parse."""


EXPECTED = {"whole number": "valid integer", "number": "valid number", "yes or no": "valid boolean"}
"""What an option expects -> how Typer says that it did not get it."""
FIRST_STEPS = """\
Change a picture by words.

  diffedit edit photo.png --from cat --to dog           edit a picture
  diffedit run photos --from cat --to dog --out edited  edit all pictures of a folder
  diffedit models pull sd15                             get a model of photographs

The model that comes with diffedit knows a small drawn world (sample_images).
diffedit --help lists all commands, diffedit edit --help what an edit can do."""


SHORT = 25
"""Number of options above which the `--help` of a command shows only those of FIRST_OPTIONS."""
FIRST_OPTIONS = {
    "Many pictures": ("--out", "--name", "--recursive", "--dry-run"),
    "What to change": ("--from", "--to", "--negative", "--anyway"),
    "Where": ("--mask", "--threshold", "--box", "--point", "--within", "--exclude"),
    "How": ("--guidance", "--preset", "--seed", "--variants", "--best", "--painter", "--caption", "--strength"),
    "Which model": ("--model", "--device", "--lora"),
    "Result": ("--output", "--preview", "--overlay", "--frames", "--json", "--force"),
    "More help": ("--help",),
}
"""The options of the short `--help`, by the heading of their group."""
LATER = {
    "run": (
        *("--painter", "--box", "--point", "--within", "--exclude"),
        *("--variants", "--best", "--caption", "--strength", "--frames"),
    ),
    "edit": ("--caption", "--strength", "--frames"),
}
"""Options of FIRST_OPTIONS that the short `--help` of a command leaves out."""


class Command(TyperCommand):
    """A command whose help lists the options in groups; a command with many options has a short `--help`."""

    def make_parser(self, ctx: Any) -> Any:
        """Returns the parser, which also takes the former names of options; no help shows them."""
        parser = super().make_parser(ctx)
        for former, name in OLDER.items():
            for param in self.params:
                if f"--{name}" in param.opts:
                    parser.add_option(param, [f"--{former}"], param.name)  # type: ignore[arg-type]
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if HELP_ALL in args[: args.index("--") if "--" in args else None]:
            ctx.meta[HELP_ALL] = True
            answer(ctx.get_help(), lines=True)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the options in groups; in the short help, only those of FIRST_OPTIONS.

        Groups come in the order in which their first option was declared, or in that of FIRST_OPTIONS.
        """
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        params = self.get_params(ctx)
        is_short = len(params) > SHORT and not ctx.meta.get(HELP_ALL)
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
            groups["More help"].append((HELP_ALL, f"Show all {len(params)} options."))
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _first_group(flags: set[str]) -> str:
    """Returns the group of FIRST_OPTIONS that shows an option with these flags, or an empty string."""
    return next((group for group, first in FIRST_OPTIONS.items() if flags & set(first)), "")


class Commands(TyperGroup):
    """A group of commands whose help shows the whole first paragraph of each command's help, the first ones first."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: FIRST_COMMANDS.index(name) if name in FIRST_COMMANDS else len(names))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        command = self.commands.get(args[0]) if args else None
        if isinstance(command, Command) and args[1:2] in ([HELP_ALL], *([name] for name in HELP)):
            # Without reading settings and values, for which Typer imports pydantic: half of the time.
            inner = typer.Context(command, info_name=args[0], parent=ctx, **command.context_settings)
            inner.meta[HELP_ALL] = args[1] == HELP_ALL
            answer(inner.get_help(), lines=True)
            ctx.exit()
        return super().parse_args(ctx, ["--help"] if args[:1] == [HELP_ALL] else args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _paragraph(self.commands[name].help)) for name in self.list_commands(ctx)])


class App(typer.Typer):
    """A Typer application with plain-text help."""

    def __init__(self, **more: Any) -> None:
        self.told = {"help_option_names": list(HELP), "max_content_width": WIDTH}
        super().__init__(cls=Commands, no_args_is_help=True, rich_markup_mode=None, context_settings=self.told, **more)

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=Command, context_settings=self.told, **more)

    def for_command(self, name: str) -> App:
        """Returns the application with the options of this command, or group, alone; the others have only their help.

        Typer takes as long to declare all options as the rest of `--help`.
        """
        app = copy.copy(self)
        app.registered_commands = [
            info if (info.name or _callback(info).__name__) == name else _without_options(info)
            for info in self.registered_commands
        ]
        app.registered_groups = [copy.copy(group) for group in self.registered_groups]
        for group in app.registered_groups:
            if group.name != name and isinstance(group.typer_instance, App):
                group.typer_instance = group.typer_instance.for_command("")
        return app


def _callback(info: CommandInfo) -> Callable[..., Any]:
    assert info.callback is not None
    return info.callback


def _without_options(info: CommandInfo) -> CommandInfo:
    """Returns a command with the same name and help, which takes no options and does nothing."""

    def nothing() -> None: ...

    bare, named = copy.copy(info), _callback(info)
    nothing.__name__, nothing.__doc__ = named.__name__, named.__doc__
    bare.callback = nothing
    return bare


def shows_help(error: Any) -> bool:
    """Returns whether the error only stands for an empty command line, to be answered with help."""
    return str(error.format_message()).startswith("Usage:")


def error_text(error: Any) -> str:
    """Returns what is wrong with a command line as one sentence; for an empty one, the help or the first steps."""
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
        wrong = next((f"a {kind} is expected" for kind in EXPECTED if EXPECTED[kind] in error.message), "")
        wrong = wrong or _begun_small(error.message)
        return f"{_name(parameter)}{_said_by(error.ctx, parameter)} cannot be read: {wrong}; {see}"
    return message if message.endswith("?") else f"{message.rstrip('.')}; {see}"


def _name(parameter: Any) -> str:
    """Returns the name of a parameter for a message: `--steps`, or `IMAGES`."""
    is_option = parameter.param_type_name == "option"
    return str(max(parameter.opts, key=len) if is_option else (parameter.metavar or parameter.name).upper())


def _said_by(context: Any, parameter: Any) -> str:
    """Returns a clause on the source of a value (environment or settings); empty for the command line."""
    source = context and context.get_parameter_source(parameter.name)
    says = {"ENVIRONMENT": f"{parameter.envvar} says", "DEFAULT_MAP": "the settings say (see diffedit config)"}
    return f", as {says[source.name]}," if source and source.name in says else ""


def _begun_small(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
