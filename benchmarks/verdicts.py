"""Compares the model's verdict on a result with the strict measure: run ``python -m benchmarks.verdicts --out FILE``.

The verdict is the share of a result that --to leaves unexplained (engine.evidence). `--best` keeps the variant with the
least, and above the limit `unexplained` in a model's ``fitness.json`` a warning is given. Edits SceneBench's cases in
several variants and measures each. Reports for each kind how often a random pair of a success and a failure is ordered
correctly (0.5 is chance), and how often the first variant, a random one, the one that --best keeps, and any of them
succeed; and the limit above which at most one in twenty successes lies. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import draw_case_of
from benchmarks.methods import picture_of
from benchmarks.strict import figures_of, passes
from diffedit_cli.models import registry
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.edit_plan import PAINTS_TARGET
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats

KINDS = {"object": "object", "two": "object", "bowl": "object", "add": "add", "colour": "attribute"}
"""Kinds of cases with a verdict, and the kind of edit of each."""
FALSE_ALARMS = 0.05  # share of successes with a warning
FIRST = 1000  # number of the first case, after those of the other benchmarks
Row = dict[str, Any]


def start(model: str) -> None:
    global pipeline
    torch.set_num_threads(1)
    pipeline = EditPipeline(registry.find(model), None, device="cpu", dtype="float32", any_picture=True)


def edited(task: tuple[str, int, int]) -> list[Row]:
    """Edits a case in several variants and returns a row for each."""
    kind, number, variants = task
    case = draw_case_of(kind, number)
    rows = []
    for variant in range(variants):
        asked = Params(from_=case.source, to=case.target, seed=number, anyway=True, variants=2).variant(variant)
        (result,) = pipeline.edit(picture_of(case), replace(asked, variants=1), EditStats(), None, None)
        figures = figures_of(np.asarray(result.image.convert("RGB")), case)
        rows.append(
            {
                "kind": kind,
                "case": number,
                "variant": variant,
                "unexplained": result.unexplained,
                "strict": passes(figures),
            }
        )
    return rows


def ordered(rows: Sequence[Row]) -> float:
    """Returns the share of pairs of a success and a failure in which the success is explained better."""
    good, bad = ([row["unexplained"] for row in rows if row["strict"] == strict] for strict in (True, False))
    pairs = [(one < other) + (one == other) / 2 for one in good for other in bad]
    return float(np.mean(pairs)) if pairs else float("nan")


def limit_of(rows: Sequence[Row]) -> float:
    """Returns the limit below which all successes lie but the share FALSE_ALARMS."""
    return round(float(np.quantile([row["unexplained"] for row in rows if row["strict"]], 1 - FALSE_ALARMS)), 3)


def table(rows: Sequence[Row]) -> str:
    """Returns a Markdown table with a row for each kind."""
    lines = [
        "| kind | cases | rightly ordered | first | at random | --best | any of them |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cases: dict[int, list[Row]] = {}
        for row in (row for row in rows if row["kind"] == kind):
            cases.setdefault(row["case"], []).append(row)
        shares = [
            np.mean([case[0]["strict"] for case in cases.values()]),
            np.mean([np.mean([row["strict"] for row in case]) for case in cases.values()]),
            np.mean([min(case, key=lambda row: row["unexplained"])["strict"] for case in cases.values()]),
            np.mean([any(row["strict"] for row in case) for case in cases.values()]),
        ]
        order = ordered([row for case in cases.values() for row in case])
        lines.append(
            f"| {kind} | {len(cases)} | {order:.2f} | " + " | ".join(f"{share:.0%}" for share in shares) + " |"
        )
    return "\n".join(lines)


def said(rows: Sequence[Row], limit: float) -> str:
    """Returns a sentence on the shares of failures and successes above a limit."""
    good, bad = ([row["unexplained"] > limit for row in rows if row["strict"] == strict] for strict in (True, False))
    shares = f"{np.mean(bad):.0%} of {len(bad)} failures, of {np.mean(good):.0%} of {len(good)} successes"
    return f"limit {limit}: warns of {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="a model whose fitness.json has any limit `unexplained`")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["object", "two", "add"])
    parser.add_argument("--cases", type=int, default=24, help="of each kind")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="file of results, one line each")
    options = parser.parse_args()
    assert set(KINDS.values()) <= set(PAINTS_TARGET)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["kind"], row["case"]) for row in rows}
    numbers = range(FIRST, FIRST + options.cases)
    todo = [
        (kind, number, options.variants) for number in numbers for kind in options.kinds if (kind, number) not in done
    ]
    with get_context("spawn").Pool(options.jobs, start, (options.model,)) as pool, options.out.open("a") as file:
        for found in pool.imap_unordered(edited, todo):
            file.writelines(json.dumps(row) + "\n" for row in found)
            file.flush()
            rows += found
    print(table(rows))
    first, second = ([row for row in rows if row["case"] % 2 == part] for part in (0, 1))
    limit = limit_of(first)
    print(f"from the even cases: {said(first, limit)}")
    print(f"on the odd ones: {said(second, limit)}")


if __name__ == "__main__":
    main()
