"""SceneBench: edits with known truth, measured; ``python -m benchmarks.scenebench --cases 200 --out DIR``.

Writes DIR/cases.jsonl (a run goes on where it stopped), DIR/scenebench.json, DIR/scenebench.md and
DIR/contact-sheet.png. Needs the judge: ``python -m benchmarks.judge``. With ``--jobs N`` N cases are edited at a time,
with one thread each: much sooner done on processors, but the seconds are then those of one thread.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import judge
from benchmarks.cases import Case, draw_case
from benchmarks.methods import METHODS, ON_CPU, Method, Outcome, Where, build, reconstruction
from diffedit_cli import models
from diffedit_cli.errors import ModelError, NothingToEdit
from diffedit_cli.params import Params

MEASURES = {
    "iou": "mask IoU",
    "changed": "IoU with all that changes",
    "success": "edit success",
    "kept": "others kept",
    "background": "background dB",
    "distance": "distance to truth",
    "evaluations": "evaluations",
    "seconds": "seconds",
}
Interval = tuple[float, float, float]  # a mean, and the ends of its 95 % interval
RESAMPLES = 2000
SHEET_CASES = 12


def psnr(made: NDArray[np.uint8], true: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio in decibels, over the pixels `where`."""
    error = np.square(made[where].astype(float) - true[where]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


def measure(case: Case, outcome: Outcome) -> dict[str, float | None]:
    """Every figure of one edit; None where there is nothing to measure."""
    everywhere = case.mask | case.new_mask
    iou = changed = None
    if outcome.mask is not None:
        iou, changed = overlap(outcome.mask, case.mask), overlap(outcome.mask, case.changed)
    kept = [judge.verdict(outcome.final, mask) == name for name, mask in case.kept.items()]
    return {
        "iou": iou,
        "changed": changed,
        "success": float(judge.verdict(outcome.final, case.new_mask) == case.new),
        "kept": float(np.mean(kept)) if kept else None,
        "background": psnr(outcome.decoded, case.picture, ~case.changed),
        "distance": judge.distance(outcome.final, case.result, everywhere),
        "evaluations": outcome.evaluations,
        "seconds": outcome.seconds,
    }


def failed_case() -> dict[str, float | None]:
    """An edit that found nothing to do, or whose picture was refused: it counts as no overlap and no success."""
    return {name: 0.0 if name in ("iou", "changed", "success") else None for name in MEASURES}


def interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % bootstrap interval."""
    array = np.asarray(values)
    means = np.random.default_rng(0).choice(array, (RESAMPLES, len(array))).mean(axis=1)
    return float(array.mean()), *map(float, np.percentile(means, (2.5, 97.5)))


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Interval]]:
    """Method -> measure -> mean and interval."""
    table: dict[str, dict[str, Interval]] = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        for name in MEASURES:
            values = [row[name] for row in mine if row[name] is not None]
            if values:
                table.setdefault(method, {})[name] = interval(values)
    return table


def markdown(table: Mapping[str, Mapping[str, Interval]], head: str) -> str:
    """The table that people read."""
    return f"{head}\n\n" + rows_of("method", {METHODS[method]: figures for method, figures in table.items()}, MEASURES)


def rows_of(first: str, figures: Mapping[str, Mapping[str, Interval]], measures: Mapping[str, str]) -> str:
    """A Markdown table: a row for each name, with its figure of each measure or a dash."""
    lines = [f"| {first} | " + " | ".join(measures.values()) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, found in figures.items():
        lines.append(f"| {name} | " + " | ".join(cell(measure, found.get(measure)) for measure in measures) + " |")
    return "\n".join(lines) + "\n"


def cell(name: str, figure: Interval | None) -> str:
    if figure is None:
        return "-"
    if name in ("success", "kept"):
        mean, low, high = (100 * value for value in figure)
        return f"{mean:.0f} % ({low:.0f} to {high:.0f})"
    digits = {"background": 1, "evaluations": 0, "seconds": 2}.get(name, 3)
    mean, low, high = (f"{value:.{digits}f}" for value in figure)
    return mean if name == "evaluations" else f"{mean} ({low} to {high})"


def strip(case: Case, outcomes: Sequence[Outcome | None]) -> Image.Image:
    """Picture, truth, then each method's mask outline and result, side by side."""
    tiles = [case.picture, case.result]
    for outcome in outcomes:
        tiles.append(outcome.final if outcome else np.zeros_like(case.picture))
        if outcome and outcome.mask is not None:
            tiles.append(np.repeat(np.uint8(outcome.mask)[..., None] * 255, 3, axis=2))
    return Image.fromarray(np.concatenate(tiles, axis=1))


def run(case: Case, method: Method) -> Outcome | None:
    try:
        return method(case)
    except (NothingToEdit, ModelError):
        return None


class Worker:
    """Edits one case after the other with each of some methods."""

    def __init__(
        self, model: str, methods: Sequence[str], params: Params, threads: int | None, where: Where = ON_CPU
    ) -> None:
        self.model, self.methods, self.params, self.threads, self.where = model, methods, params, threads, where

    @functools.cached_property
    def built(self) -> dict[str, Method]:
        """The methods ready to run, made in the process that runs them."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return {name: build(name, models.find(self.model), self.params, self.where) for name in self.methods}

    def __call__(self, number: int) -> tuple[list[dict[str, Any]], NDArray[np.uint8]]:
        """A row for each method, and the case as a strip of pictures."""
        case = draw_case(number)
        outcomes = {name: run(case, method) for name, method in self.built.items()}
        rows = [
            {"case": number, "kind": case.kind, "method": name, **(measure(case, made) if made else failed_case())}
            for name, made in outcomes.items()
        ]
        return rows, np.asarray(strip(case, list(outcomes.values())))


_call: Callable[[int], Any]


def _start(call: Callable[[int], Any]) -> None:
    global _call
    _call = call


def _ask(number: int) -> Any:
    return _call(number)


def each(call: Callable[[int], Any], numbers: Sequence[int], jobs: int) -> Iterator[Any]:
    """What `call` says of every case, in order, so many at a time."""
    with get_context("spawn").Pool(jobs, _start, (call,)) as pool:
        yield from pool.imap(_ask, numbers)


def typed(value: str) -> Any:
    """A parameter's value: a number, True or False, or else its words."""
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--model", default=models.BUILTIN)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters of ours, as in steps=20")
    options = parser.parse_args()
    params = Params(**{name: typed(value) for name, value in (setting.split("=") for setting in options.set)})
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "cases.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["case"], row["method"]) for row in rows}
    wanted = [
        number
        for number in range(options.cases)
        if number < SHEET_CASES or any((number, name) not in done for name in options.methods)
    ]
    worker = Worker(options.model, options.methods, params, 1 if options.jobs > 1 else None, Where(dtype=options.dtype))
    strips = []
    for number, (found, pictures) in zip(wanted, each(worker, wanted, options.jobs), strict=True):
        fresh = [row for row in found if (number, row["method"]) not in done]
        rows += fresh
        with log.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in fresh)
        if number < SHEET_CASES:
            strips.append(pictures)
    report(options.out, models.find(options.model), rows, strips, options.cases)


def report(out: Path, folder: models.ModelFolder, rows: list[Any], strips: list[NDArray[np.uint8]], cases: int) -> None:
    """Writes table, JSON and contact sheet."""
    table = summarise(rows)
    numbers = range(min(cases, 50))
    everything = np.ones((256, 256), dtype=bool)
    round_trips = [psnr(reconstruction(folder, case), case.picture, everything) for case in map(draw_case, numbers)]
    _, accuracy = judge.trained()
    head = (
        f"{cases} cases, model {folder.name} ({folder.digest[:12]}). The judge is right on {100 * accuracy:.1f} % of "
        f"held-out crops; the VAE's round trip gives {np.mean(round_trips):.1f} dB."
    )
    (out / "scenebench.md").write_text(markdown(table, head))
    summary = {"cases": cases, "model": folder.digest, "judge": accuracy, "vae": float(np.mean(round_trips))}
    (out / "scenebench.json").write_text(json.dumps({**summary, "methods": table}, indent=2) + "\n")
    Image.fromarray(np.concatenate(strips)).save(out / "contact-sheet.png")
    print((out / "scenebench.md").read_text())


if __name__ == "__main__":
    main()
