"""Names of a run's results: a template such as `{stem}-{to}{ext}`, relative to the output folder."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.params import Params
from diffedit_cli.storage import files, paths

DEFAULT = "{stem}{ext}"
LONGEST = 100  # bytes that a prompt may add to a name
WRITTEN = r"(.?[<>^=])?\d{0,2}d?"  # allowed format of a field, such as :>10 or :04; a larger width could fill a disk
FIELDS = {
    "stem": "the picture's name without its extension",
    "ext": "the extension, with its dot",
    "suffix": "the picture's own extension, if the result has another",
    "from": "the --from prompt",
    "to": "the --to prompt",
    "seed": "the seed",
}


OF_FILES = {**{name: FIELDS[name] for name in ("stem", "ext")}, "folder": "the folders between it and its source"}
"""Fields of the templates for input files of each picture, such as masks."""


def check(template: str, flag: str = "--name", known: Mapping[str, str] = FIELDS) -> None:
    """Raises UsageError for a template that is invalid or names no file."""
    try:
        fields = [(name, form or "") for _, name, form, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"{flag} {template} is not a template: {error}; use for example {{stem}}{{ext}}.") from error
    if unknown := {name for name, _ in fields} - set(known):
        there = ", ".join(f"{{{name}}}" for name in known)
        raise UsageError(f"{flag} {template} has the unknown field {{{min(unknown)}}}; the fields are {there}.")
    try:
        for _, form in fields:
            if not re.fullmatch(WRITTEN, form):
                raise ValueError(f"{form!r} is not a width of at most two digits")
        filled = template.format(**dict.fromkeys(known, "a") | {"ext": ".a", "suffix": ".a", "seed": 1})
    except ValueError as error:
        raise UsageError(f"{flag} {template} cannot be filled in: {error}; remove what follows the colon.") from None
    if not template.strip() or template.endswith("/") or PurePath(filled).name.startswith("."):
        raise UsageError(f"{flag} {template} names no file; use for example {DEFAULT}.")


def result_path(template: str, place: Path, extension: str, params: Params) -> Path:
    """Returns the path of a result below the output folder: in the folders of `place`, named by the template.

    A template without an extension gets `extension`. Raises UsageError for a path outside of the output folder.
    """
    if not re.search(r"({ext}|\.\w+)$", template):
        template += "{ext}"
    words: dict[str, Any] = {"from": _word(str(params.from_)), "to": _word(str(params.to)), "seed": params.seed}
    suffix = "" if place.suffix == extension else place.suffix
    name = template.format(stem=place.stem, ext=extension, suffix=suffix, **words)
    return check_below(place.parent / name)


def input_path(template: Path, flag: str, place: Path) -> Path:
    """Returns a picture's input file by a template such as masks/{folder}/{stem}.png. Raises UsageError if invalid."""
    check(str(template), flag, OF_FILES)
    return Path(str(template).format(stem=place.stem, ext=place.suffix, folder=place.parent))


def check_below(path: Path) -> Path:
    """Returns the path. Raises UsageError if it leads out of the output folder, or for a name that no file can have."""
    if path.is_absolute() or ".." in path.parts or not PurePath(path).name:
        raise UsageError(f"The output {path} lies outside the folder that --out names; give a path below it.")
    if wrong := paths.flaw(path):
        raise UsageError(f"The output {str(path)!r} is not a valid file name: {wrong}; give it another name.")
    return path


def _word(text: str) -> str:
    """Returns a prompt as part of a file name, without characters that some file systems refuse."""
    word = re.sub(r"[^\w.,()+-]+", "-", text).strip("-. ")
    return word.encode()[:LONGEST].decode(errors="ignore")


def variant_paths(output: Path, params: Params) -> list[Path]:
    """Returns the paths of the variants: cat.png, cat-2.png, cat-3.png ..."""
    count = 1 if params.best else params.variants
    others = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(2, count + 1)]
    return [output, *others]


def written_extension(path: Path) -> str:
    """Returns the expected extension of a picture's result: its own if diffedit can write it, else `.png`."""
    from diffedit_cli.images import codecs  # not at the top: --help imports this module and must be quick

    return path.suffix if path.suffix.lower() in codecs.EXTENSIONS else ".png"


def default_path(path: Path, ending: str) -> Path:
    """Returns the path of an output beside an input: the input's stem and `ending`; `-` for standard input."""
    if path == files.STANDARD_STREAM:
        return path
    return path.with_name(path.stem + ending) if path.name else path / ending  # a folder, which fails when it is read
