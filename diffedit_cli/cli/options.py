"""Declares the command-line options, each once, in the groups that commands take.

Options of the method (--threshold ...) are declared in `pipeline/param_fields.py` and derived from there.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from diffedit_cli.cli.settings_file import OFF, ON, plain_serve
from diffedit_cli.jobs.output_names import DEFAULT as NAME
from diffedit_cli.models import device_names
from diffedit_cli.pipeline.parameter import AUTO, flag, parameters
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.presets import BALANCED, preset
from diffedit_cli.storage import files

Group = dict[str, tuple[Any, Any]]  # parameter name -> (annotation, default)

OLDER = {"inpainter": "painter"}
"""Former name of an option -> its name: both work on the command line, in settings files and in the environment."""
DEFAULTS = Params()
REQUIRED = inspect.Parameter.empty
DECLARED: set[str] = set()
"""The long names of all options, without leading dashes."""
_SWITCHES = {
    "recursive": "-r",
    "null": "-0",
    "quiet": "-q",
    "verbose": "-v",
    "force": "-f",
    "output": "-o",
    "yes": "-y",
}


KINDS: dict[str, Any] = {  # type of a field of Params -> type of its option
    "str": str, "Prompt": str, "Prompt | None": str | None, "int": int, "int | None": int | None, "float": float,
    "float | None": float | None, "float | str": float | str, "bool": bool,
    "int | str | None": int | str | None,
}  # fmt: skip


def group_of(panel: str, **options: tuple[Any, Any, str]) -> Group:
    """Declares options of one help panel from (type, default, help); each also reads the variable DIFFEDIT_NAME."""
    return {name: (_annotated(panel, name, *rest), rest[1]) for name, rest in options.items()}


def _annotated(panel: str, name: str, kind: Any, default: Any, text: str, **more: Any) -> Any:
    """Returns the annotation of an option; `more` goes to Typer, but for `words`, accepted in place of a number."""
    flags = [flag(name)]
    DECLARED.add(flags[0].removeprefix("--"))
    if kind is bool and default:
        flags = [f"{flags[0]}/--no-{name}"]
    if name in _SWITCHES:
        flags.append(_SWITCHES[name])
    words = more.pop("words", None)
    declaration: Any = typer.Option(
        *flags,
        parser=functools.partial(_number_or, words, int if int in typing.get_args(kind) else float) if words else None,
        metavar="|".join(["INTEGER" if int in typing.get_args(kind) else "FLOAT", *words]) if words else None,
        help=text,
        rich_help_panel=panel,
        show_default=default not in ("", REQUIRED, None, []) and kind is not bool,
        envvar="DIFFEDIT_" + name.rstrip("_").upper(),
        show_envvar=False,
        readable=False,  # unreadable files are reported with diffedit's exit code, when they are opened
        **more,
    )
    return Annotated[Any if words else kind, declaration]


def _number_or(words: dict[str, float | str], kind: type[int] | type[float], text: Any) -> float | str:
    """Returns the value of a word, or the text as a number. Raises BadParameter for anything else."""
    try:
        return words[text] if text in words else kind(text)
    except ValueError:
        number = "whole number" if kind is int else "number"
        raise typer.BadParameter(f"{text!r} is neither a {number} nor {' nor '.join(words)}.") from None


PANELS = {  # group of parameters -> panel of the help
    "prompt": "What to change", "expand": "What to change", "expand-model": "What to change", "text": "What to change",
    "mask": "Mask", "segmenter": "Mask", "zoom": "Mask", "seed": "Mask",
    "steps": "Noise levels", "scheduler": "Noise levels",
    "caption": "Inversion", "caption-model": "Inversion", "inversion": "Inversion", "guidance": "Edit", "edit": "Edit",
}  # fmt: skip


def _params(group: str, **texts: str) -> Group:
    """Declares options for the fields of Params in a group; `texts` replace the help of single fields."""
    return {
        name: (
            _annotated(
                PANELS[group],
                name,
                KINDS[str(Params.__dataclass_fields__[name].type)],
                default := getattr(DEFAULTS, name),
                texts.get(name, said.help),
                words=dict(said.words) or None,
            ),
            default,
        )
        for name, said in parameters(Params).items()
        if said.group == group
    }


def argument(name: str, kind: Any, text: str, default: Any = REQUIRED) -> Group:
    return {
        name: (
            Annotated[kind, typer.Argument(help=text, show_default=False, metavar=name.upper(), readable=False)],
            default,
        )
    }


IMAGE: Group = argument("image", Path, "A picture, or - for standard input.")
IMAGES: Group = argument("images", list[Path], "Pictures, or - for standard input.")
SOURCES: Group = argument(
    "sources",
    list[str],
    "Pictures, folders, patterns, job files (.jsonl, .csv, .toml), or URLs of these; - for paths on standard input.",
)


def _embeds(panel: str, *names: str) -> Group:
    """Declares, for each prompt, the option that takes a file of embeddings in its place."""
    text = "An embeddings file in place of --{}, as written by --save-embeds or by other programs."
    return group_of(
        panel, **{f"{name}_embeds": (Path | None, None, text.format(name.replace("_", "-"))) for name in names}
    )


_EXPAND_MODEL = _params("expand-model")
PROMPTS = _params("prompt") | _embeds("What to change", "from", "to") | _params("expand") | _EXPAND_MODEL
PROMPTS_FOR_EDIT = PROMPTS | _params("prompt", from_="What is in the picture now (not needed with --mask).")
TEXT = _params("text")
LIMITS = group_of(
    "Mask",
    within=(Path | None, None, "Repaint only where this picture is white."),
    exclude=(Path | None, None, "Repaint nothing where this picture is white."),
    box=(str | None, None, "Repaint only in this box: X,Y,WIDTH,HEIGHT in pixels."),
    point=(str | None, None, "Repaint only the region of the mask at this pixel: X,Y."),
)
_SEGMENTER = _params("segmenter")
MASK = _params("mask") | _SEGMENTER | _embeds("Mask", "from_negative", "to_negative") | LIMITS
DRAWN = group_of("Mask", mask=(Path | None, None, "A picture whose white is drawn in --mask-method."))
ZOOM, SEED, STEPS = _params("zoom"), _params("seed"), _params("steps")


def _apply(context: typer.Context, name: str) -> str:
    """Makes a preset's values defaults before other options are read; settings, environment and flags override them."""
    context.default_map = {**preset(name), **(context.default_map or {})}
    return name


_PRESET_TEXT = "Quality and speed: fast, balanced or best."
PRESET: Group = {
    "preset": (
        _annotated("Noise levels", "preset", str, BALANCED, _PRESET_TEXT, is_eager=True, callback=_apply),
        BALANCED,
    )
}
SCHEDULER, _CAPTION_MODEL = _params("scheduler"), _params("caption-model")
INVERSION = SCHEDULER | _params("caption") | _CAPTION_MODEL | _params("inversion") | _embeds("Inversion", "caption")
FRAMES = group_of(
    "Inversion", frames=(Path | None, None, "Write every level of the inversion as a picture in this folder.")
)
GUIDANCE = _params("guidance")
PAINTER = group_of(
    "Edit",
    painter=(
        str | None,
        None,
        "Repaint with this inpainting or image-editing model, named like --model, in place of inversion and edit.",
    ),
    safety=(bool, True, "Withhold results that the model's own safety checker flags, if it has one."),
)
EDIT = GUIDANCE | _params("edit") | _embeds("Edit", "negative") | PAINTER
STAGES = group_of(
    "Edit",
    mask=(
        Path | None,
        None,
        "Repaint where this picture is white, instead of finding a mask; in --mask-method it is called drawn.",
    ),
    latents=(Path | None, None, "Use this inversion, made by diffedit invert."),
)
STAGES_OF_EACH = group_of(
    "Edit",
    mask=(
        Path | None,
        None,
        "Repaint where this picture is white; {stem}, {ext} and {folder} give each picture its own.",
    ),
    latents=(Path | None, None, "Use this inversion; the placeholders of --mask give each picture its own."),
)
_EDITING = PROMPTS_FOR_EDIT | TEXT | STAGES | EDIT | MASK | ZOOM | SEED | PRESET | INVERSION | STEPS
_CHOOSING = _EXPAND_MODEL | _CAPTION_MODEL | _SEGMENTER | PAINTER
EDITING = frozenset(flag(name).removeprefix("--") for name in _EDITING.keys() - _CHOOSING.keys())
"""Options that only say how a picture is edited, so that the settings file of a foreign folder may set them."""
CONFIG = group_of(
    "Model and device",
    model_config=(
        str | None,
        None,
        "For model files: the model whose configuration and tokenizer they use, and the other parts of a network alone "
        "(default: by their content).",
    ),
)
DISTILLED = group_of(
    "Model and device",
    distilled=(
        str,
        "auto",
        "How --model and --painter were distilled: turbo, lightning, lcm, dmd2, hyper, schnell, distilled, or no; "
        "auto: as its files say.",
    ),
)
PARTS = group_of(
    "Model and device",
    text_encoder=(
        list[str],
        [],
        "Use this text encoder, a .safetensors file or a folder, in place of the model's; may be given for each.",
    ),
    vae=(str | None, None, "Use this VAE, a .safetensors file or a folder, in place of the model's."),
)
OFFLINE = group_of("Model and device", offline=(bool, False, "Never connect, not even in diffedit models pull."))
MODEL_NAME = group_of(
    "Model and device",
    model=(
        str | None,
        None,
        "A name from diffedit models list, a hub id, a folder, a .safetensors checkpoint, or a network alone as "
        ".safetensors or .gguf (default: builtin).",
    ),
)


def _named_device(context: typer.Context, text: str) -> str:
    """Returns the value of --device. Raises UsageError if it names no device, or several where one is used."""
    device_names.named(text, several=context.info_name in ("run", "doctor"))
    return text


_DEVICE_TEXT = "auto, cpu, cuda, cuda:1, xpu or mps."
DEVICE: Group = {
    "device": (_annotated("Model and device", "device", str, AUTO, _DEVICE_TEXT, callback=_named_device), AUTO)
} | group_of("Model and device", dtype=(str, "auto", "auto, float32, float16 or bfloat16 (or fp32, fp16, bf16)."))
MODEL_ON_DEVICE = MODEL_NAME | DEVICE
ADDITIONS = group_of(
    "Model and device",
    lora=(list[str], [], "A LoRA, FILE or FILE:SCALE; may be given several times."),
    embedding=(list[str], [], "A textual inversion, FILE or FILE:TOKEN; may be given several times."),
)
MEMORY = group_of(
    "Model and device",
    offload=(
        str,
        "none",
        "Keep the model off the device until used: none, model (by network), group (layers, the next one "
        "ahead), sequential (layer by layer).",
    ),
    quantize=(str, "none", "Store the large networks in fewer bits: none, fp8, int8 or nf4."),
    runtime=(str, "auto", "What evaluates the network on a processor: torch, openvino, or auto, the faster one."),
    vae_slicing=(bool, False, "Decode several pictures one by one."),
    vae_tiling=(bool, False, "Encode and decode large pictures in tiles."),
)
FITTING = DEVICE | {name: MEMORY[name] for name in ("offload", "quantize", "runtime")}
MODEL = MODEL_ON_DEVICE | CONFIG | PARTS | DISTILLED | ADDITIONS | MEMORY | OFFLINE
OUTPUT = group_of("Output", output=(Path | None, None, "Where to write, or - for standard output."))
DEPFILE = group_of(
    "Output", depfile=(Path | None, None, "Write a Make rule with all files that the output depends on.")
)
PROFILE = group_of(
    "Output", profile=(Path | None, None, "Write a time profile to this .json file, for chrome://tracing.")
)
PREVIEW = group_of(
    "Output",
    preview=(
        Path | None,
        None,
        "Show picture, contrast, mask and result side by side in this .png file; for several pictures in this folder.",
    ),
)
OVERLAY = group_of("Output", overlay=(Path | None, None, "Show the mask over the picture in this .png file."))
SHOWS = PREVIEW | group_of(
    "Output",
    compare=(Path | None, None, "Fade from the picture to the result and back in this .gif or .webp file."),
    sheet=(Path | None, None, "Show all --variants with their seeds in this .png file."),
)
SHOWN = (*SHOWS, *OVERLAY)
MASK_OUTPUT = group_of("Output", mask_output=(Path | None, None, "Also write the mask of the edit, a .png file."))
OUTPUT_FOLDER = group_of(
    "Output",
    out=(str, REQUIRED, "The folder to write into, or its URL."),
    name=(str, NAME, "File names of the results, made of {stem}, {ext}, {suffix}, {from}, {to} and {seed}."),
)
RUN = group_of(
    "Run",
    recursive=(bool, False, "Search subfolders, too, and create the same ones in --out."),
    null=(bool, False, "Paths on standard input end with a zero byte, as find -print0 writes them."),
    review=(bool, False, "Look at the masks on a page first; accept, refuse or correct each, then paint."),
    dry_run=(bool, False, "Report what would be done with each picture, without doing it."),
    batch=(str, AUTO, "How many pictures go through the network together; auto: several in half precision on a GPU."),
    shard=(str | None, None, "Edit only part I of N of the pictures: I/N, from 1/N to N/N."),
    ray=(str | None, None, "Edit on this many Ray workers; auto: as many as Ray has GPUs, else processors."),
    fail_fast=(bool, False, "Stop at the first picture that fails."),
    limit_failures=(int | None, None, "Stop when this many pictures have failed."),
)


def one_of(*words: str, plain: Callable[[str], str] = str) -> Callable[[str], str]:
    """Returns a callback for an option whose value, made `plain`, is one of these words. It raises BadParameter."""

    def check(value: str) -> str:
        if (told := plain(value)) not in words:
            raise typer.BadParameter(f"{value!r} is not {', '.join(words[:-1])} or {words[-1]}.")
        return told

    return check


_SERVE_TEXT = "on: let a running diffedit serve do the work; auto: also leave one behind; off: neither."
SERVED: Group = {
    "serve": (
        _annotated("Output", "serve", str, ON, _SERVE_TEXT, callback=one_of(ON, AUTO, OFF, plain=plain_serve)),
        ON,
    )
}
METADATA = group_of(
    "Output",
    metadata=(bool, True, "Store in the result how it was made."),
    strip_metadata=(
        bool,
        False,
        "Write no metadata: neither how a file was made, nor the picture's own (EXIF, XMP, IPTC, text).",
    ),
)
CACHE_DIR = group_of(
    "Output",
    cache_dir=(Path | None, None, "The cache folder for maps, inversions and edits."),
    cache_limit=(
        str | None,
        None,
        "Size limit of the cache, in MB or as 20GB; the least recently used entries go first (default: 10GB, or a "
        "tenth of the disk's free space).",
    ),
)
FORCE = group_of(
    "Output",
    force=(bool, False, "Replace files that diffedit did not make, and redo results that are up to date."),
)
JSON = group_of("Output", json=(bool, False, "Write JSON to standard output."))
QUIET = group_of("Output", quiet=(bool, False, "Show only errors."))
SAVE_EMBEDS = group_of(
    "Output", save_embeds=(Path | None, None, "Write the prompt embeddings to this folder, one file per prompt.")
)
BARS, LINES = "bars", "json"  # values of --progress
_PROGRESS_TEXT = "Show progress on standard error as bars, or as json, one object a line, for programs."
PROGRESS: Group = {
    "progress": (_annotated("Output", "progress", str, BARS, _PROGRESS_TEXT, callback=one_of(BARS, LINES)), BARS)
}
COMMON = (
    CACHE_DIR
    | SAVE_EMBEDS
    | PROGRESS
    | group_of("Output", cache=(bool, True, "Cache and reuse maps, inversions and edits."))
    | JSON
    | QUIET
    | group_of("Output", verbose=(bool, False, "Show the cost of each stage, and tracebacks of unexpected errors."))
    | FORCE
    | group_of("Output", max_pixels=(int, files.MAX_PIXELS, "Refuse pictures with more pixels, before they are read."))
)


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that gives a command written as `def command(**given)` the options of these groups."""

    def declare(command: Callable[..., None]) -> Callable[..., None]:
        merged = {name: option for group in groups for name, option in group.items()}
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in merged.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {name: annotation for name, (annotation, _) in merged.items()}
        return command

    return declare
