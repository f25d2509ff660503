"""SceneBench measures edits with known truth: run ``python -m benchmarks.scenebench --cases 40 --out DIR``.

Edits this many cases of each kind (`benchmarks.cases.KINDS`) and measures them by `benchmarks.strict`. The older judge
also measures cases whose objects it knows; it only tells what an object looks like most. ``python -m benchmarks.judge``
trains it; without it its columns are empty. Writes DIR/cases.jsonl (an interrupted run resumes), DIR/scenebench.json,
DIR/scenebench.md, DIR/contact-KIND.png and, with ``--pictures``, the results of the first method as
DIR/pictures/KIND-NNN.png. ``--jobs N`` edits N cases at a time, with one thread each: on processors the run ends much
sooner, but the seconds are then those of one thread.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks import judge, strict
from benchmarks.cases import KINDS, Case, draw_case, draw_case_of
from benchmarks.methods import CEILING, METHODS, ON_CPU, Method, Outcome, Where, build
from diffedit_cli.errors import ModelError, NothingToEdit
from diffedit_cli.models import registry
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import RUNTIMES
from diffedit_cli.pipeline.params import Params

MEASURES = {
    "strict": "strict success",
    "success": "judge's success",
    "kept": "others kept, by the judge",
    "iou": "mask IoU",
    "changed": "IoU with all that changes",
    "background": "background dB",
    "distance": "distance to truth",
    "evaluations": "evaluations",
    "seconds": "seconds",
}
SHARES = ("strict", "success", "kept", *KINDS)  # shown in %; the figure of a kind is its strict success
Interval = tuple[float, float, float]  # mean, lower and upper end of its 95 % interval
RESAMPLES = 2000
SHEET_CASES, SHEET_COLUMNS, SHEET_SIDE, SHEET_HEAD = 24, 4, 160, 14
Key = tuple[str, int]
"""Kind and number of a case."""


def psnr(made: NDArray[np.uint8], true: NDArray[np.uint8], where: NDArray[np.bool_]) -> float | None:
    """Returns the peak signal-to-noise ratio in dB over the pixels `where`, None if there are none."""
    if not where.any():
        return None
    error = np.square(made[where].astype(float) - true[where]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns the intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


@functools.cache
def has_judge() -> bool:
    try:
        judge.trained()
    except SystemExit:
        return False
    return True


def judged(case: Case) -> bool:
    """Returns whether the judge can tell if an edit succeeded: it is trained, and knows every object by name."""
    return has_judge() and bool(case.new_mask.any()) and {case.new, *case.kept} <= set(judge.CLASSES)


def measure(case: Case, outcome: Outcome) -> dict[str, Any]:
    """Returns every figure of one edit, None where it does not apply."""
    everywhere, mask = case.mask | case.new_mask, outcome.mask
    figures = strict.figures_of(outcome.final, case)
    success = kept = distance = None
    if judged(case):
        success = float(judge.verdict(outcome.final, case.new_mask) == case.new)
        others = [judge.verdict(outcome.final, where) == name for name, where in case.kept.items()]
        kept = float(np.mean(others)) if others else None
    if has_judge() and everywhere.any():
        distance = judge.distance(outcome.final, case.result, everywhere)
    return {
        "strict": float(strict.passes(figures)),
        "success": success,
        "kept": kept,
        "iou": overlap(mask, case.mask) if mask is not None and case.mask.any() else None,
        "changed": overlap(mask, case.changed) if mask is not None else None,
        "background": psnr(outcome.decoded, case.picture, ~case.changed),
        "distance": distance,
        "evaluations": outcome.evaluations,
        "seconds": outcome.seconds,
        "figures": asdict(figures),
    }


def failed_case(case: Case) -> dict[str, Any]:
    """Returns the figures of an edit that found nothing to do or was refused: no overlap and no success."""
    failed = {"strict": 0.0, "changed": 0.0}
    if case.mask.any():
        failed["iou"] = 0.0
    if judged(case):
        failed["success"] = 0.0
    return {**dict.fromkeys(MEASURES), **failed}


def interval(values: Sequence[float]) -> Interval:
    """Returns the mean and its 95 % bootstrap interval."""
    array = np.asarray(values)
    means = np.random.default_rng(0).choice(array, (RESAMPLES, len(array))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(array.mean()), float(low), float(high)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Interval]]:
    """Returns the mean and interval of each measure, by method."""
    table: dict[str, dict[str, Interval]] = {}
    for method in (*METHODS, CEILING):
        mine = [row for row in rows if row["method"] == method]
        for name in MEASURES:
            values = [row[name] for row in mine if row[name] is not None]
            if values:
                table.setdefault(method, {})[name] = interval(values)
    return table


def rows_of(first: str, figures: Mapping[str, Mapping[str, Interval]], measures: Mapping[str, str]) -> str:
    """Returns a Markdown table with a row for each name and a column for each measure; a dash for a missing figure."""
    lines = [f"| {first} | " + " | ".join(measures.values()) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, found in figures.items():
        lines.append(f"| {name} | " + " | ".join(cell(measure, found.get(measure)) for measure in measures) + " |")
    return "\n".join(lines) + "\n"


def cell(name: str, figure: Interval | None) -> str:
    """Formats a figure for a table; `name` is a key of MEASURES, or a kind."""
    if figure is None:
        return "-"
    if name in SHARES:
        mean, low, high = (100 * value for value in figure)
        return f"{mean:.0f} % ({low:.0f} to {high:.0f})"
    digits = {"background": 1, "evaluations": 0, "seconds": 2}.get(name, 3)
    shown = [f"{value:.{digits}f}" for value in figure]
    return shown[0] if name == "evaluations" else f"{shown[0]} ({shown[1]} to {shown[2]})"


def run(case: Case, method: Method) -> Outcome | None:
    try:
        return method(case)
    except (NothingToEdit, ModelError):
        return None


@dataclass(frozen=True)
class Made:
    """The results of a case: a row for each method, and the first method's picture if it produced any."""

    case: Case
    rows: list[dict[str, Any]]
    final: NDArray[np.uint8] | None


class Worker:
    """Edits cases with several methods; a key that is a number alone is a case of `draw_case`."""

    def __init__(
        self, model: str, methods: Sequence[str], params: Params, threads: int | None, where: Where = ON_CPU
    ) -> None:
        self.model, self.methods, self.params, self.threads, self.where = model, methods, params, threads, where

    @functools.cached_property
    def built(self) -> dict[str, Method]:
        """The methods by name, built in the process that runs them."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return {name: build(name, registry.find(self.model), self.params, self.where) for name in self.methods}

    def __call__(self, key: Key | int) -> Made:
        case = draw_case(key) if isinstance(key, int) else draw_case_of(*key)
        outcomes = {name: run(case, method) for name, method in self.built.items()}
        rows = [
            {"case": case.number, "kind": case.kind, "method": name}
            | (measure(case, made) if made else failed_case(case))
            for name, made in outcomes.items()
        ]
        first = outcomes[self.methods[0]]
        return Made(case, rows, first.final if first else None)


_call: Callable[[Any], Any]


def _start(call: Callable[[Any], Any]) -> None:
    global _call
    _call = call


def _ask(key: Any) -> Any:
    return _call(key)


def each(call: Callable[[Any], Any], keys: Sequence[Any], jobs: int) -> Iterator[Any]:
    """Yields `call(key)` for every key, in order, computed by `jobs` processes."""
    with get_context("spawn").Pool(jobs, _start, (call,)) as pool:
        yield from pool.imap(_ask, keys)


def typed(value: str) -> Any:
    """Parses a parameter's value: a Python literal such as a number or True, else the text itself."""
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


class Folder:
    """The output folder of a run, from which an interrupted run resumes."""

    def __init__(self, out: Path, pictures: bool) -> None:
        self.out, self.pictures = out, out / "pictures" if pictures else None
        for folder in (out / "cells", self.pictures):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        self.log = out / "cases.jsonl"
        rows = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.rows = [row for row in rows if "strict" in row]  # without rows from before there was a strict measure
        self.done = {(row["kind"], row["case"], row["method"]) for row in self.rows}

    def lacks(self, key: Key, methods: Sequence[str]) -> bool:
        """Returns whether a case has to be run, be it only for its pictures."""
        files = [self.cell(key)] if key[1] < SHEET_CASES else []
        files += [self.picture(key)] if self.pictures else []
        return any((*key, name) not in self.done for name in methods) or not all(file.exists() for file in files)

    def cell(self, key: Key) -> Path:
        return self.out / "cells" / f"{key[0]}-{key[1]:03}.png"

    def picture(self, key: Key) -> Path:
        assert self.pictures
        return self.pictures / f"{key[0]}-{key[1]:03}.png"

    def keep(self, key: Key, made: Made) -> None:
        final = made.final if made.final is not None else made.case.picture
        if self.pictures:
            Image.fromarray(final).save(self.picture(key))
        if key[1] < SHEET_CASES:
            sheet_cell(made.case, made.final).save(self.cell(key))
        fresh = [row for row in made.rows if (*key, row["method"]) not in self.done]
        self.rows += fresh
        with self.log.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in fresh)


def sheet_cell(case: Case, final: NDArray[np.uint8] | None, grade: str = "") -> Image.Image:
    """Returns a picture and a method's result below their prompts and a grade; black in place of a missing result."""
    cell = Image.new("RGB", (2 * SHEET_SIDE, SHEET_HEAD + SHEET_SIDE))
    ImageDraw.Draw(cell).text((2, 1), f"{grade or case.number}: {case.source} -> {case.target}", fill="white")
    for left, picture in ((0, case.picture), (SHEET_SIDE, final)):
        if picture is not None:
            small = Image.fromarray(picture).resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
            cell.paste(small, (left, SHEET_HEAD))
    return cell


def contact_sheet(cells: Sequence[Image.Image]) -> Image.Image:
    width, height = 2 * SHEET_SIDE, SHEET_HEAD + SHEET_SIDE
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, -(-len(cells) // SHEET_COLUMNS) * height))
    for at, cell in enumerate(cells):
        sheet.paste(cell, (at % SHEET_COLUMNS * width, at // SHEET_COLUMNS * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40, help="cases of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--model", default=registry.BUILTIN)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--pictures", action="store_true", help="write the results of the first method in full size")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters of ours, as in steps=20")
    options = parser.parse_args()
    params = Params(**{name: typed(value) for name, value in (setting.split("=") for setting in options.set)})
    folder, methods = Folder(options.out, options.pictures), [*options.methods, CEILING]
    keys = [(kind, number) for number in range(options.cases) for kind in options.kinds]
    wanted = [key for key in keys if folder.lacks(key, methods)]
    worker = Worker(
        options.model,
        methods,
        params,
        1 if options.jobs > 1 else None,
        Where(dtype=options.dtype, runtime=options.runtime),
    )
    for key, made in zip(wanted, each(worker, wanted, options.jobs), strict=True):
        folder.keep(key, made)
    for kind in options.kinds:
        cells = [Image.open(folder.cell((kind, number))) for number in range(min(options.cases, SHEET_CASES))]
        contact_sheet(cells).save(options.out / f"contact-{kind}.png")
    rows = [row for row in folder.rows if (row["kind"], row["case"]) in set(keys)]
    report(options.out, registry.find(options.model), rows, options.kinds, options.cases)


def of_method(method: str, by_kind: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> str:
    """Returns a Markdown table of every measure of one method, with a row for each kind."""
    return rows_of("kind", {kind: table[method] for kind, table in by_kind.items() if method in table}, MEASURES)


def beyond(rows: Sequence[Mapping[str, Any]], method: str, kinds: Sequence[str]) -> str:
    """Returns a table of how many of a method's edits of each kind fail by each figure of the strict measure."""
    names = [*dict.fromkeys(name for limits in strict.AT_MOST.values() for name in limits), *strict.AT_LEAST]
    lines = [f"| kind | edits | none made | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for kind in kinds:
        mine = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
        made = [strict.Figures(**row["figures"]) for row in mine if "figures" in row]
        found = Counter(name for figures in made for name in strict.failings(figures))
        counts = (len(mine), len(mine) - len(made), *(found[name] for name in names))
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def report(out: Path, folder: ModelFolder, rows: list[Any], kinds: Sequence[str], cases: int) -> None:
    """Writes scenebench.md and scenebench.json, and prints the former."""
    table, by_kind = summarise(rows), {kind: summarise([row for row in rows if row["kind"] == kind]) for kind in kinds}
    ceiling = table.pop(CEILING)
    accuracy = judge.trained()[1] if has_judge() else None
    shown = f"the judge is right on {100 * accuracy:.1f} % of held-out crops" if accuracy else "no judge was trained"
    head = (
        f"{cases} cases of each kind, model {folder.name} ({folder.digest[:12]}). After a VAE's round trip "
        f"{cell('strict', ceiling['strict'])} of the true results are a strict success: no model can do more; {shown}."
    )
    names = {**METHODS, CEILING: "true results, round trip"}
    of_kinds = {
        names[method]: {kind: found[method]["strict"] for kind, found in by_kind.items() if method in found}
        for method in (*table, CEILING)
    }
    parts = [
        head,
        rows_of("method", {names[method]: figures for method, figures in table.items()}, MEASURES),
        "Strict success by kind:",
        rows_of("method", of_kinds, {kind: kind for kind in kinds}),
        *(f"{names[method]}, by kind:\n\n{of_method(method, by_kind)}" for method in table),
        *(
            f"{names[method]}, edits with a figure beyond its limit:\n\n{beyond(rows, method, kinds)}"
            for method in table
        ),
    ]
    (out / "scenebench.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")
    summary = {"cases": cases, "model": folder.digest, "judge": accuracy, "ceiling": ceiling}
    (out / "scenebench.json").write_text(json.dumps({**summary, "methods": table, "kinds": by_kind}, indent=2) + "\n")
    print((out / "scenebench.md").read_text())


if __name__ == "__main__":
    main()
