"""The commands: each parses its options, calls the library and reports. Heavy imports wait until they are needed."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit_cli import __version__
from diffedit_cli.cli import (
    cache,
    completion,
    config,
    config_file,
    model_options,
    models,
    profiling,
    report,
    run,
    serve,
    session,
)
from diffedit_cli.cli import options as o
from diffedit_cli.cli.console import answer, tell
from diffedit_cli.cli.help import MISTYPED, App, error_text, shows_help
from diffedit_cli.cli.options import takes
from diffedit_cli.cli.settings_file import FILE_NAME
from diffedit_cli.cli.ui import command as ui
from diffedit_cli.errors import (
    INTERRUPTED,
    INTERRUPTION,
    DiffEditError,
    OutputError,
    UsageError,
    exit_code,
    of_surroundings,
)
from diffedit_cli.jobs import interrupts
from diffedit_cli.storage import paths, streams

if TYPE_CHECKING:
    from diffedit_cli.jobs.job import Job
    from diffedit_cli.pipeline.params import Params
    from diffedit_cli.storage.ownership import Ownership

ONE_PICTURE = ("output", "mask", "mask_output", "latents")  # options for one picture
app = App(pretty_exceptions_enable=False)
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
app.command()(run.run)
app.command()(report.report)
app.command()(config.config)
app.command()(serve.serve)
app.command()(ui.ui)


def main() -> int:
    """Runs one command line and returns its exit code. The only place that turns errors into exit codes."""
    code = _ended()
    lost = streams.stdout_error()
    if lost is None or code in (INTERRUPTED, OutputError.code):
        return code
    _complain(f"Standard output cannot be written: {streams.reason(lost)}; {streams.remedy(lost)}.")
    return OutputError.code


def _ended() -> int:
    verbose = "--verbose" in sys.argv or "-v" in sys.argv
    try:
        try:
            paths.check_working_folder()
            completion.check()
            code = _app()(prog_name="diffedit", standalone_mode=False)
        except Exception:
            interrupts.raise_if_pressed()
            raise
        finally:
            print(end="", flush=True)  # only after a flush is it known whether all output was written
    except MISTYPED as error:
        if shows_help(error):
            tell(error_text(error), lines=True)
        else:
            _complain(error_text(error))
        return UsageError.code
    except DiffEditError as error:
        _complain(str(error))
        return error.code
    except (KeyboardInterrupt, typer.Abort):
        _complain(INTERRUPTION)
        return INTERRUPTED
    except SystemExit as ended:  # raised by Typer's completion, which ends the program by itself
        code = 0 if not ended.code else UsageError.code
    except Exception as error:
        if known := of_surroundings(error) or completion.failure(error):
            _complain(str(known))
            return known.code
        from diffedit_cli.jobs.outcomes import bug_message

        _complain(traceback.format_exc() if verbose else bug_message(error), lines=verbose)
        return 1
    if code == INTERRUPTED:  # Typer returns it on Ctrl-C
        _complain(INTERRUPTION)
    return code if isinstance(code, int) else 0


def _app() -> App:
    """Returns the application with what this command line needs: `config` and a shell's completion need all options."""
    name = next(iter(sys.argv[1:]), "")
    return app if name == "config" or os.environ.get("_DIFFEDIT_COMPLETE") else app.for_command(name)


def _complain(message: str, lines: bool = False) -> None:
    tell(f"diffedit: {message}", lines)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Change a picture by words: diffedit edit photo.png --from cat --to dog

    Every option can also be set in your diffedit.toml (steps = 30) or in the environment (DIFFEDIT_STEPS=30); a
    diffedit.toml in the working folder may set only how pictures are edited.
    """
    if version:
        answer(f"diffedit {__version__}")
        raise typer.Exit
    found = config_file.read()
    commands: dict[str, Any] = getattr(context.command, "commands", {})
    inner = {name: getattr(command, "commands", {}) for name, command in commands.items()}
    parameters = {
        flag.removeprefix("--"): parameter
        for command in [*commands.values(), *(command for group in inner.values() for command in group.values())]
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("--")
    }
    context.obj = parameters
    for name in config_file.unknown_variables():
        option = name.removeprefix("DIFFEDIT_").replace("_", "-").lower()
        guess = config_file.guess_setting(option, config_file.variable)
        tell(f"warning: {name} is not a setting, and is ignored; {guess}")
    defaults = {
        parameters[name].name: _setting(name, value, parameters[name].multiple)
        for name, value in found.items()
        if name in parameters
    }
    context.default_map = {name: dict.fromkeys(group, defaults) or defaults for name, group in inner.items()}


def _setting(name: str, value: Any, multiple: bool) -> Any:
    """Returns a setting as Typer takes it: a list for a repeatable option. Raises UsageError for a list for another."""
    if isinstance(value, list) and not multiple:
        raise UsageError(f"The setting {name} in {FILE_NAME} must be a single value; see diffedit edit --help.")
    return [value] if multiple and not isinstance(value, list) else value


@app.command()
@takes(
    o.IMAGE, o.PROMPTS, o.TEXT, o.DRAWN, o.MASK, o.ZOOM, o.SEED, o.GUIDANCE, o.PRESET, o.STEPS, o.MODEL, o.OUTPUT,
    o.DEPFILE, o.PREVIEW, o.OVERLAY, o.PROFILE, o.SERVED, o.COMMON,
)  # fmt: skip
def mask(**given: Any) -> None:
    """Find the region to change and write it as a mask, which is white where an edit would repaint."""
    _execute(given, "mask", [given["image"]], needs=session.compared_prompts(given))


@app.command()
@takes(
    o.IMAGE, o.TEXT, o.INVERSION, o.FRAMES, o.SEED, o.PRESET, o.STEPS, o.MODEL, o.OUTPUT, o.DEPFILE, o.PROFILE,
    o.SERVED, o.COMMON,
)  # fmt: skip
def invert(**given: Any) -> None:
    """Invert a picture into noise, and write the whole trajectory as latents."""
    _execute(given, "invert", [given["image"]])


@app.command()
@takes(
    o.IMAGES, o.PROMPTS_FOR_EDIT, o.TEXT, o.STAGES, o.EDIT, o.MASK, o.ZOOM, o.SEED, o.INVERSION, o.FRAMES, o.PRESET,
    o.STEPS, o.MODEL, o.OUTPUT, o.DEPFILE, o.MASK_OUTPUT, o.SHOWS, o.METADATA, o.PROFILE, o.SERVED,
    o.COMMON,
)  # fmt: skip
def edit(**given: Any) -> None:
    """Change what --from names into what --to names; all other pixels stay as they are."""
    _execute(given, "edit", given["images"], needs=session.required_prompts(given))


def _execute(given: dict[str, Any], command: str, sources: list[Path], needs: Iterable[str] = ()) -> None:
    """Checks everything that can be checked without the model, then runs the jobs.

    Exits with the code of the failure; for several pictures with 8 if any failed, else with 9 if any was withheld.
    """
    from diffedit_cli.cli.progress import Reporter
    from diffedit_cli.jobs import execute, outcomes, outputs, up_to_date
    from diffedit_cli.jobs.up_to_date import OutputNotes
    from diffedit_cli.results.result import Result
    from diffedit_cli.storage.ownership import Ownership, Target

    owner = Ownership(force=given["force"])
    with Reporter.of(given) as reporter:
        try:
            planned = _planned(given, command, sources, needs, owner)
            opened = session.Session(given, reporter)
            opened.check_words(planned[0].params, planned[0].stages if command == "edit" else (command,))
            if given["depfile"]:
                _depfile(outputs.expected_outputs(command, planned[0]), planned[0], opened)
            owner.reads(opened.files)
            beside = [Target(given[name], f"--{name}") for name in ("depfile", "profile") if given[name]]
            for target in beside:
                owner.check(target)
        except DiffEditError as error:
            if given["json"] and not any(_goes_to_stdout(given.get("output"), source) for source in sources):
                said = {"code": error.code, "message": str(error)}
                for picture in sources:
                    failed = Result(status="failed", input=str(picture), seed=given.get("seed"), error=said)
                    answer(failed.json())
            raise
        work: up_to_date.Command = {"mask": execute.mask, "invert": execute.invert, "edit": execute.edit}[command]
        if given["cache"] and not given["force"]:
            expected = functools.partial(outputs.expected_outputs, command)
            made = OutputNotes(model_options.cache_root(given))
            work = up_to_date.skip_if_current(
                work, made, expected, lambda params: opened.about(params) | {"command": command}
            )
        on_bug = reporter.trace if given["verbose"] else lambda _: None
        codes: Counter[int] = Counter()
        with profiling.profile(given["profile"], owner):
            for result in outcomes.each(planned, work, opened.open, on_bug=on_bug):
                reporter.result(result)
                if given["depfile"] and result.error is None:
                    depends = _depfile(map(Path, result.outputs), planned[0], opened)
                    owner.publish({Target(given["depfile"], "--depfile"): depends})
                codes[result.error["code"] if result.error else 0] += 1
        opened.leave_server()
    if code := exit_code(codes):
        raise typer.Exit(code)


def _depfile(outputs: Iterable[Path], job: Job, opened: session.Session) -> bytes:
    """Returns a Make rule: the outputs depend on all files read. Raises UsageError for a name that Make cannot hold."""
    from diffedit_cli.jobs.depfile import rule
    from diffedit_cli.storage import seals

    return (
        rule(outputs, [*job.inputs, *(path for path in opened.files if paths.is_file(path))])
        + b"# "
        + seals.BLANK
        + b"\n"
    )


def _planned(
    given: dict[str, Any], command: str, sources: list[Path], needs: Iterable[str], owner: Ownership
) -> list[Job]:
    """Returns a job per picture, with all its inputs and outputs registered with `owner`.

    Raises UsageError for options that contradict each other or are out of range, OutputError for outputs among inputs.
    """
    from diffedit_cli.jobs import checks
    from diffedit_cli.jobs.job import Job
    from diffedit_cli.storage import files
    from diffedit_cli.storage.ownership import Target

    if command == "edit" and not (given["from_"] or given["to"]) and _are_words(sources[1:]):
        said = " ".join(
            f"{flag} {shlex.quote(str(word))}" for flag, word in zip(("--from", "--to"), sources[1:], strict=True)
        )
        raise UsageError(f"Give the prompts as options: diffedit edit {shlex.quote(str(sources[0]))} {said}")
    if command == "edit" and len(sources) > 1 and any(map(given.get, ONE_PICTURE)):
        raise UsageError(
            "-o, --mask, --mask-output and --latents work with one picture only; for several use diffedit run --out."
        )
    shared = session.shared_options(given, needs)
    params: Params = shared["params"]
    planned = [Job(input=source, output=given["output"], ownership=owner, **shared) for source in sources]
    if sum(job.inputs.count(files.STANDARD_STREAM) for job in planned) > 1:
        raise UsageError("Standard input holds one picture; name a file for each of the others.")
    checks.check_options(planned)
    if given["depfile"] and (len(planned) > 1 or files.STANDARD_STREAM in (*planned[0].inputs, planned[0].output)):
        raise UsageError("--depfile works with one picture only, read from a file and written to a file.")
    if params.variants > 1 and any(_goes_to_stdout(job.output, job.input) for job in planned):
        raise UsageError("Standard output holds one picture; for several --variants name a file with -o.")
    shown = [path for job in planned for path in (job.output or job.input, *job.shows.values())]
    if given["json"] and files.STANDARD_STREAM in shown:
        raise UsageError("--json and the picture would both go to standard output; send the picture to a file with -o.")
    checks.claim_all(planned, command, [str(job.input) for job in planned])
    for name in ("depfile", "profile"):
        if given[name]:
            owner.claim(Target(given[name], f"--{name}"), f"--{name}", "give each its own name")
    return planned


def _are_words(sources: list[Path]) -> bool:
    """Returns whether the arguments are two prompts (--from and --to) in place of pictures: neither is a file name."""
    return len(sources) == 2 and not any(source.suffix or paths.is_there(source) for source in sources)


def _goes_to_stdout(output: Path | None, picture: Path) -> bool:
    return str(output or picture) == "-"


@app.command()
@takes(o.argument("file", Path, "A mask, a latents file, an edited picture or a preview."), o.JSON)
def info(**given: Any) -> None:
    """Show how a file was made, and the command that makes it again."""
    import json

    from diffedit_cli.cli.repeat_command import options_of, preparations_of
    from diffedit_cli.errors import InputError, UsageError
    from diffedit_cli.images import masks, provenance
    from diffedit_cli.storage import files

    path: Path = given["file"]
    files.check_readable(path, "file")
    record = provenance.read_record(path)
    kind = (record or {}).get("kind", "")
    if record is None or (kind in (*o.SHOWN, "mask", "frame") and "picture" not in record):
        raise InputError(
            f"{path} has no record of how it was made; it is not from diffedit, or was written with --no-metadata."
        )
    commands = {"mask": "mask", "latents": "invert", "frame": "invert", "edit": "edit"}
    command = (commands | dict.fromkeys(o.SHOWN, "edit" if "edit" in record else "mask")).get(kind)
    if command is None and kind != "embeds":
        raise InputError(
            f"{path} is a {kind or 'file'} of the cache or of a page; name a mask, latents or an edited picture."
        )
    if command == "mask" and masks.CHANGED in record:  # of the changed pixels; run writes it beside a result
        command = "run"
    asked = {"frame": ["--frames", "FRAMES"], "mask": ["--out", "FOLDER"] * (command == "run")}
    asked |= {name: [f"--{name}", path.name] for name in o.SHOWN}
    try:
        words = ["diffedit", str(command), "PICTURE", *options_of(record), *asked.get(kind, [])]
        before = [shlex.join(["diffedit", *one]) for one in preparations_of(record)]
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:  # a foreign record may hold anything
        raise InputError(f"The record in {path} is damaged ({error!r}); use an intact copy.") from error
    line = shlex.join(words) if command else None
    if given["json"]:
        answer(json.dumps({**record, "command": line}))
        return
    for name, value in record.items():
        rows = value.items() if isinstance(value, dict) else [(None, value)]
        for inner, item in rows:
            shown = (" x " if name == "size" else ", ").join(map(str, item)) if isinstance(item, list) else item
            answer(f"{name if inner is None else f'{name} {inner}'}: {shown}")
    for each in [*before, line] if line else []:
        answer(each)


@app.command()
@takes(o.MODEL_ON_DEVICE, o.CONFIG, o.PARTS, o.ADDITIONS, o.CACHE_DIR, o.JSON)
def doctor(**given: Any) -> None:
    """Say what works here and what does not: device, memory, versions, model, cache."""
    import json

    from diffedit_cli.cli import doctor
    from diffedit_cli.cli.progress import write_table
    from diffedit_cli.models.memory import number_format
    from diffedit_cli.storage.cache import Cache

    dtype = number_format("--dtype", given["dtype"])
    model = functools.partial(model_options.choose_model, given, say=lambda _: None)
    findings = doctor.run_checks(model, given["device"], dtype, Cache(model_options.cache_root(given)))
    if given["json"]:
        answer(json.dumps([finding.__dict__ for finding in findings]))
    else:
        rows = [(finding.what, "ok" if finding.code == 0 else "PROBLEM", finding.detail) for finding in findings]
        write_table(("WHAT", "STATE", "DETAIL"), rows)
    if code := max(finding.code for finding in findings):
        raise typer.Exit(code)
