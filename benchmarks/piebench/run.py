"""A run of the benchmark: every method's results, then every figure, then the tables."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.methods import Where
from benchmarks.piebench import backbones, methods, report
from benchmarks.piebench.backbones import Backbone
from benchmarks.piebench.cases import Case
from benchmarks.piebench.figures import FIGURES
from benchmarks.piebench.methods import Asked
from benchmarks.piebench.results import FOLDER, Results, Row, say
from benchmarks.scenebench import typed
from diffedit_cli.api_inputs import params_of
from diffedit_cli.errors import UsageError
from diffedit_cli.storage import files


def run(title: str, cases: Sequence[Case], options: argparse.Namespace) -> str:
    """Edits and measures the cases, writes the tables into the folder, and returns them as Markdown."""
    files.make_folder(options.out, "--out")
    edit(cases, options)
    for name, folder in (pair(result, "--results") for result in options.results):
        if not Path(folder).is_dir():
            raise UsageError(f"There is no folder {folder} for the results of {name}; check --results.")
        Results.begun(options.out, name, {FOLDER: str(Path(folder).resolve())})
    every, (found, left_out) = Results.all_in(options.out), networks(options)
    rows: dict[str, list[Row]] = {one.label: [] for one in every}
    for number, case in enumerate(cases, 1):
        asked = Asked.of(case)
        for one in every:
            if row := one.row(case, asked, found):
                rows[one.label].append(row)
        say(f"measured {number} of {len(cases)}, {case.name}")
    told = {one.label: one.told for one in every}
    text = report.write(options.out, f"{title}, {len(cases)} edits", rows, told, left_out)
    file = io.BytesIO()
    shown = [one for one in every if rows[one.label]]
    report.contact_sheet(report.sheet_cases(cases), shown).save(file, "JPEG", quality=90)
    files.publish(options.out / "contact.jpg", file.getvalue())
    return text


def edit(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Makes the results of the methods that are to run here. Raises UsageError."""
    settings = {
        name.replace("-", "_"): typed(value) for name, value in (pair(one, "--set") for one in options.settings)
    }
    if "from" in settings:
        settings["from_"] = settings.pop("from")
    params_of({name: value for name, value in settings.items() if name not in methods.OPTIONS})  # refuses misspelt ones
    where = Where(options.device, options.dtype)
    if unknown := [name for name in options.methods if name not in methods.METHODS]:
        raise UsageError(f"There is no method {unknown[0]}; use {', '.join(methods.METHODS)}.")
    if options.label and len(set(options.methods) & {"ours", "given"}) != 1:
        raise UsageError("--label is the name of ours or of given; ask for one of them with --methods.")
    if set(options.methods) - {"given", "unchanged"} and not any(case.source and case.target for case in cases):
        raise UsageError("This data set has no prompts; name MagicBrush's file of descriptions with --captions.")
    for name in options.methods:
        label = options.label if options.label and name in ("ours", "given") else name
        told: dict[str, Any] = methods.identity(name, options.model, settings, where)
        results = Results.begun(options.out, label, {**told, "jpeg": options.jpeg})
        results.edit(cases, partial(methods.method, name, options.model, settings, where), options.jpeg)


def networks(options: argparse.Namespace) -> tuple[dict[str, Backbone], list[str]]:
    """Returns the backbones that are here, and a sentence about the columns that each missing one leaves out."""
    wanted = {
        "dino": (backbones.Structure, options.dino),
        "squeezenet": (backbones.Lpips, options.squeezenet),
        "clip": (backbones.ClipScore, options.clip),
    }
    found: dict[str, Backbone] = {}
    left_out = []
    for name, (kind, place) in wanted.items():
        one = backbones.find(kind, place, options.device, f"--{name}", options.download)
        if isinstance(one, str):
            columns = " and ".join(figure.title for figure in FIGURES.values() if figure.backbone == name)
            left_out.append(f"Left out: {columns}. {one}")
        else:
            found[name] = one
    return found, left_out


def pair(text: str, option: str) -> tuple[str, str]:
    """Splits NAME=VALUE. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{option} takes NAME=VALUE, not {text}.")
    return name, value
