"""Times edits of 256 to 2048 px pictures, with and without zoom: run ``python -m benchmarks.scaling --out DIR``.

Edits one drawn scene at every size with the built-in model and few steps; times are medians of some warm edits. Writes
DIR/scaling.json, which ``python -m benchmarks.performance`` plots.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

from benchmarks.large import draw_case
from benchmarks.methods import Ours
from diffedit_cli.models import registry
from diffedit_cli.pipeline.params import Params

SIZES = (256, 512, 1024, 2048)
SHARE = 0.05  # share of the picture that the object covers
WAYS = {"zoom auto": Params(steps=4, maps=2), "zoom off": Params(steps=4, maps=2, zoom=1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for way, params in WAYS.items():
        ours = Ours(registry.find(registry.BUILTIN), params)
        for size in SIZES:
            case = draw_case(0, (size, size), SHARE)
            outcomes = [ours(case) for _ in range(1 + options.runs)][1:]
            rows.append(
                {
                    "way": way,
                    "size": size,
                    "seconds": median(outcome.seconds for outcome in outcomes),
                    "networks": median(outcome.networks or 0.0 for outcome in outcomes),
                    "evaluations": outcomes[0].evaluations,
                }
            )
            print(rows[-1], flush=True)
    (options.out / "scaling.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
