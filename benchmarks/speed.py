"""Times diffedit and diffusers' DiffEdit in turns in one process: run ``python -m benchmarks.speed --out DIR``.

Both use the same weights, pictures, device and dtype, and are warm. Reports medians, ratios of pairs, and SceneBench's
measures of quality, including the judge's if ``python -m benchmarks.judge`` has trained it. Writes DIR/speed.json and
DIR/speed.md. With ``--fullsize``, a model of Stable Diffusion 1.5's size with random weights edits a photograph of
512 px instead, only for the time. There ``--share 0.2`` takes a fifth of both sides' steps and maps, which saves hours.
``--device cuda`` without it measures the built-in model and two of full size, in ten minutes: see benchmarks/gpu.py.
``python -m benchmarks.performance`` writes docs/performance.md from the results.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import fullsize
from benchmarks.cases import Case, draw_case
from benchmarks.methods import THE_SOURCE, DiffusersDiffEdit, Method, Ours, Outcome, Where
from benchmarks.scenebench import Interval, failed_case, interval, measure, rows_of, run
from diffedit_cli.models import registry
from diffedit_cli.models.memory import RUNTIMES
from diffedit_cli.pipeline.edit_pipeline import with_cache
from diffedit_cli.pipeline.params import Params
from diffedit_cli.storage.cache import Cache
from training.scenes import OBJECTS

AS_THEIRS = Params(  # the pipeline's defaults, the negative prompt of its guide, and the paper's mask
    steps=50, maps=10, scheduler="ddim", invert_guidance=7.5, guidance_end=1, guidance_every=1, negative=THE_SOURCE,
    strength=0.8, invert_from=0, mask_method="noise", edges=0, grow=0,
)  # fmt: skip
MEASURES = {
    "strict": "strict success",
    "success": "judge's success",
    "iou": "mask IoU",
    "kept": "others kept",
    "background": "background dB",
    "distance": "distance to truth",
    "evaluations": "evaluations",
    "seconds": "seconds",
    "ratio": "diffusers / ours",
    "overhead": "whole / networks",
    "differs": "levels from without graphs",
}
THEIRS = "diffusers' DiffEdit"
Row = dict[str, Any]


def elsewhere(case: Case) -> Case:
    """Returns a case with the same picture and another target prompt; its truth is not drawn, as only time counts."""
    other = next(name for name in OBJECTS if name not in (case.old, case.new, *case.kept))
    return replace(case, target=case.target.replace(case.new, other), new=other)


class Again:
    """Edits a picture that was just edited with another --to: its inversion comes from the cache."""

    def __init__(self, ours: Ours, folder: Path) -> None:
        self.ours, self.folder, self.count = ours, folder, 0

    def __call__(self, case: Case) -> Outcome:
        without = self.ours.pipeline
        self.ours.pipeline = with_cache(without, Cache(self.folder / str(self.count)))
        self.count += 1
        self.ours(elsewhere(case))
        made = self.ours(case)
        self.ours.pipeline = without
        return made


def fewer(params: Params, share: float) -> Params:
    """Returns parameters with a share of the steps and of the maps (of the most, if drawn until settled), rounded."""
    if share == 1:
        return params
    return replace(params, steps=round(params.step_count * share), maps=round(params.most_maps * share))


def scenes(count: int) -> list[Case]:
    return [draw_case(number) for number in range(count)]


def compared(
    ways: dict[str, Method], cases: Sequence[Case], measure: Callable[[Case, Outcome], Row]
) -> dict[str, dict[str, list[float]]]:
    """Returns each way's figures of each case, by measure; the ways take turns, and the first case is a warm-up."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number, case in enumerate(cases):
        rows: dict[str, Row] = {}
        for name, way in ways.items():
            made = run(case, way)
            rows[name] = {**measure(case, made), "networks": made.networks} if made else failed_case(case)
        if not number:
            continue
        for name, row in rows.items():
            own, theirs = row.get("seconds"), rows[THEIRS].get("seconds")
            if own and theirs:
                row["ratio"] = theirs / own
            if own and row.get("networks"):
                row["overhead"] = own / row["networks"]
            for measured, value in row.items():
                if value is not None:
                    found[name].setdefault(measured, []).append(value)
        taken = (f"{name} {row.get('seconds') or 0:.2f} s" for name, row in rows.items())
        print(f"case {case.number}: " + ", ".join(taken), flush=True)
    return found


def figures(values: dict[str, list[float]]) -> dict[str, Interval]:
    """Returns means, or medians of times, with their intervals."""
    made = {name: interval(found) for name, found in values.items() if name in MEASURES}
    for name in {"seconds", "ratio", "overhead"} & made.keys():
        _, low, high = made[name]
        made[name] = (median(values[name]), low, high)
    return made


def photographs(count: int) -> list[Case]:
    """Returns cases of one photograph; no truth is known of it, so that only time can be measured."""
    from skimage import data

    picture = data.astronaut()
    nothing = np.zeros(picture.shape[:2], dtype=bool)
    shown: dict[str, Any] = {"picture": picture, "result": picture, "empty": picture, "mask": nothing}
    words = {"source": "a cat", "target": "a dog", "old": "cat", "new": "dog"}
    return [Case(number=n, seed=n, kind="one", new_mask=nothing, kept={}, **shown, **words) for n in range(count)]


def only_time(_: Case, made: Outcome) -> Row:
    return {"evaluations": made.evaluations, "seconds": made.seconds}


def machine() -> str:
    """Returns a description of the processor, the number of threads and the version of torch."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{torch.get_num_threads()} threads of {cpu}, torch {torch.__version__}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--model", default=registry.BUILTIN)
    parser.add_argument("--fullsize", action="store_true")
    parser.add_argument("--share", type=float, default=1.0, help="share of both sides' steps and maps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch")
    parser.add_argument("--minutes", type=float, default=8.0, help="on a GPU: begin no case after them")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    where = Where(options.device, options.dtype, options.runtime)
    if options.device != "cpu" and not options.fullsize:
        from benchmarks import gpu  # which builds on this module

        gpu.measured(options.out, where, options.cases, minutes=options.minutes)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.fullsize:
            fullsize.write_model(Path(temporary) / "model", small=False)
            torch.set_default_dtype(torch.float32)
        folder = registry.find(str(Path(temporary) / "model") if options.fullsize else options.model)
        ours = Params(threshold=0.2) if options.fullsize else Params()  # else random weights find nothing to edit
        ours, theirs = (fewer(params, options.share) for params in (ours, replace(AS_THEIRS, threshold=ours.threshold)))
        ways: dict[str, Method] = {
            THEIRS: DiffusersDiffEdit(folder.path, where, theirs.steps, int(theirs.maps)),
            "diffedit": Ours(folder, ours, where=where),
            "diffedit, another --to of the same picture": Again(
                Ours(folder, ours, where=where), Path(temporary) / "cache"
            ),
            "diffedit at the pipeline's settings": Ours(folder, theirs, where=where),
        }
        cases = photographs(options.cases + 1) if options.fullsize else scenes(options.cases + 1)
        found = compared(ways, cases, only_time if options.fullsize else measure)
    table = {name: figures(values) for name, values in found.items()}
    (options.out / "speed.json").write_text(json.dumps(table, indent=2) + "\n")
    shown = f"{options.cases} cases of SceneBench, model {folder.name}"
    if options.fullsize:
        edits = "1 edit" if options.cases == 1 else f"{options.cases} edits"
        share = "all" if options.share == 1 else f"{options.share:g}"
        shown = f"{edits} of a photograph of 512 px, {share} of the steps and maps, random weights"
    head = f"{shown}, {where.dtype} on {where.device} by {where.runtime}, {machine()}; medians of times.\n\n"
    measures = {name: words for name, words in MEASURES.items() if any(name in row for row in table.values())}
    (options.out / "speed.md").write_text(head + rows_of("way", table, measures))
    print((options.out / "speed.md").read_text())


if __name__ == "__main__":
    main()
