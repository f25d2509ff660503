"""SceneBench: edits with known truth, measured; ``python -m benchmarks.scenebench --cases 200 --out DIR``.

Writes DIR/cases.jsonl (a line as each edit ends: a run goes on where it stopped), DIR/scenebench.json,
DIR/scenebench.md and DIR/contact-sheet.png. Needs the judge: ``python -m benchmarks.judge``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import judge
from benchmarks.cases import Case, draw_case
from benchmarks.methods import METHODS, Method, Outcome, build, reconstruction
from diffedit_cli import models
from diffedit_cli.errors import NothingToEdit
from diffedit_cli.params import Params

MEASURES = {
    "iou": "mask IoU",
    "success": "edit success",
    "kept": "others kept",
    "background": "background dB",
    "distance": "distance to truth",
    "evaluations": "evaluations",
    "seconds": "seconds",
}
RESAMPLES = 2000
SHEET_CASES = 12


def psnr(made: NDArray[np.uint8], true: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio in decibels, over the pixels `where`."""
    error = np.square(made[where].astype(float) - true[where]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def measure(case: Case, outcome: Outcome) -> dict[str, float | None]:
    """Every figure of one edit; None where there is nothing to measure."""
    everywhere = case.mask | case.new_mask
    iou = None
    if outcome.mask is not None:
        iou = float((outcome.mask & case.mask).sum() / (outcome.mask | case.mask).sum())
    kept = [judge.verdict(outcome.final, mask) == name for name, mask in case.kept.items()]
    return {
        "iou": iou,
        "success": float(judge.verdict(outcome.final, case.new_mask) == case.new),
        "kept": float(np.mean(kept)) if kept else None,
        "background": psnr(outcome.decoded, case.picture, ~case.changed),
        "distance": judge.distance(outcome.final, case.result, everywhere),
        "evaluations": outcome.evaluations,
        "seconds": outcome.seconds,
    }


def failed_case() -> dict[str, float | None]:
    """An edit that found nothing to do: it counts as no overlap and no success."""
    return {name: 0.0 if name in ("iou", "success") else None for name in MEASURES}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval."""
    array = np.asarray(values)
    means = np.random.default_rng(0).choice(array, (RESAMPLES, len(array))).mean(axis=1)
    return float(array.mean()), *map(float, np.percentile(means, (2.5, 97.5)))


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Method -> measure -> mean and interval."""
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        for name in MEASURES:
            values = [row[name] for row in mine if row[name] is not None]
            if values:
                table.setdefault(method, {})[name] = interval(values)
    return table


def markdown(table: Mapping[str, Mapping[str, tuple[float, float, float]]], head: str) -> str:
    """The table that people read."""
    lines = [head, "", "| method | " + " | ".join(MEASURES.values()) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for method, figures in table.items():
        cells = [_cell(name, figures.get(name)) for name in MEASURES]
        lines.append(f"| {METHODS[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, figure: tuple[float, float, float] | None) -> str:
    if figure is None:
        return "-"
    if name in ("success", "kept"):
        mean, low, high = (100 * value for value in figure)
        return f"{mean:.0f} % ({low:.0f} to {high:.0f})"
    digits = {"iou": 3, "distance": 3, "background": 1, "evaluations": 0, "seconds": 2}[name]
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
    except NothingToEdit:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--model", default=models.BUILTIN)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters of ours, as in steps=20")
    options = parser.parse_args()
    params = Params(
        **{name: type(getattr(Params(), name))(value) for name, value in (s.split("=") for s in options.set)}
    )
    options.out.mkdir(parents=True, exist_ok=True)
    folder, log = models.find(options.model), options.out / "cases.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["case"], row["method"]) for row in rows}
    built = {name: build(name, folder, params) for name in options.methods}
    strips = []
    for number in range(options.cases):
        if number >= SHEET_CASES and all((number, name) in done for name in built):
            continue
        case = draw_case(number)
        outcomes = {name: run(case, method) for name, method in built.items()}
        for name, outcome in outcomes.items():
            if (number, name) in done:
                continue
            figures = measure(case, outcome) if outcome else failed_case()
            rows.append({"case": number, "kind": case.kind, "method": name, **figures})
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        if number < SHEET_CASES:
            strips.append(strip(case, list(outcomes.values())))
    report(options.out, folder, rows, strips, options.cases)


def report(out: Path, folder: models.ModelFolder, rows: list[Any], strips: list[Image.Image], cases: int) -> None:
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
    sheet = np.concatenate([np.asarray(row) for row in strips])
    Image.fromarray(sheet).save(out / "contact-sheet.png")
    print((out / "scenebench.md").read_text())


if __name__ == "__main__":
    main()
