"""Our edit and diffusers' DiffEdit, one after the other in one process; ``python -m benchmarks.speed --out DIR``.

The same weights, pictures, device and dtype, all of it warm; medians, ratios of pairs, and SceneBench's quality beside
them. Writes DIR/speed.json and DIR/speed.md. Needs the judge: ``python -m benchmarks.judge``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.cases import Case, draw_case
from benchmarks.methods import THE_SOURCE, DiffusersDiffEdit, Method, Ours, Outcome
from benchmarks.scenebench import Interval, failed_case, interval, measure, rows_of, run
from diffedit_cli import models
from diffedit_cli.cache import Cache
from diffedit_cli.params import Params
from training.scenes import OBJECTS

AS_THEIRS = Params(  # the pipeline's own defaults, its guide's negative, and no more than the paper's mask
    steps=50, maps=10, scheduler="ddim", invert_guidance=7.5, negative=THE_SOURCE, strength=0.8,
    mask_method="noise", edges=0, grow=0,
)  # fmt: skip
MEASURES = {
    "success": "edit success",
    "iou": "mask IoU",
    "kept": "others kept",
    "background": "background dB",
    "distance": "distance to truth",
    "evaluations": "evaluations",
    "seconds": "seconds",
    "ratio": "diffusers / ours",
}
THEIRS = "diffusers' DiffEdit"


def elsewhere(case: Case) -> Case:
    """The same picture with another wish, whose truth is not drawn: only for its time."""
    other = next(name for name in OBJECTS if name not in (case.old, case.new, *case.kept))
    return replace(case, target=case.target.replace(case.new, other), new=other)


class Again:
    """Another --to for a picture that was edited just before: its inversion is kept."""

    def __init__(self, ours: Ours, folder: Path) -> None:
        self.ours, self.folder, self.count = ours, folder, 0

    def __call__(self, case: Case) -> Outcome:
        self.ours.bench.cache = Cache(self.folder / str(self.count))
        self.count += 1
        self.ours(elsewhere(case))
        made = self.ours(case)
        self.ours.bench.cache = None
        return made


def compared(ways: dict[str, Method], cases: Sequence[Case]) -> dict[str, dict[str, list[float]]]:
    """Each way's figures of each case, the ways taking turns; the first case only warms them up."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number, case in enumerate(cases):
        rows = {
            name: (measure(case, made) if (made := run(case, way)) else failed_case()) for name, way in ways.items()
        }
        if not number:
            continue
        for name, row in rows.items():
            taken, theirs = row.get("seconds"), rows[THEIRS].get("seconds")
            if taken and theirs:
                row["ratio"] = theirs / taken
            for measured, value in row.items():
                if value is not None:
                    found[name].setdefault(measured, []).append(value)
        print(f"case {case.number}: " + ", ".join(f"{name} {row.get('seconds'):.2f} s" for name, row in rows.items()))
    return found


def figures(values: dict[str, list[float]]) -> dict[str, Interval]:
    """Means with their intervals; medians of what is timed."""
    made = {name: interval(found) for name, found in values.items() if name in MEASURES}
    for name in ("seconds", "ratio"):
        _, low, high = made[name]
        made[name] = (median(values[name]), low, high)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--model", default=models.BUILTIN)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = models.find(options.model)
    with tempfile.TemporaryDirectory() as cache:
        ways: dict[str, Method] = {
            THEIRS: DiffusersDiffEdit(folder.path),
            "diffedit": Ours(folder, Params()),
            "diffedit, another --to of the same picture": Again(Ours(folder, Params()), Path(cache)),
            "diffedit at the pipeline's settings": Ours(folder, AS_THEIRS),
        }
        found = compared(ways, [draw_case(number) for number in range(options.cases + 1)])
    table = {name: figures(values) for name, values in found.items()}
    (options.out / "speed.json").write_text(json.dumps(table, indent=2) + "\n")
    head = f"{options.cases} cases of SceneBench, model {folder.name}, float32 on the processor, medians of times.\n\n"
    (options.out / "speed.md").write_text(head + rows_of("way", table, MEASURES))
    print((options.out / "speed.md").read_text())


if __name__ == "__main__":
    main()
