"""What each parameter is worth on SceneBench, one changed at a time; ``python -m benchmarks.sweeps --out DIR``.

Writes DIR/masks.md, from contrast maps computed once and binarised in many ways, and DIR/edits.md, whole edits.
Each line shows the defaults but for what it names; a run goes on where it stopped. ``docs/tuning.md`` draws on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.cases import draw_case
from benchmarks.methods import picture_of
from benchmarks.scenebench import MEASURES, Worker, cell, interval
from diffedit_cli import models
from diffedit_cli.engine import families
from diffedit_cli.engine.diffedit import Text, binarise, contrast
from diffedit_cli.params import Params, levels_up_to
from diffedit_cli.stages import generator

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7)
MOST_MAPS = 20
Maps = NDArray[np.float32]  # (n, h, w)


class Binarise:
    """A way from contrast maps to a mask; what is not given is as by default."""

    def __init__(
        self, *, maps: int = 10, clamp: float = 3.0, threshold: float = 0.5, smooth: float = 0.0, grow: int = 0,
        otsu: bool = False,
    ) -> None:  # fmt: skip
        """`smooth` is a Gaussian's deviation in latent cells, `grow` a number of them."""
        self.maps, self.clamp, self.threshold, self.smooth, self.grow = maps, clamp, threshold, smooth, grow
        self.otsu = otsu

    def __call__(self, found: Maps, side: int) -> NDArray[np.bool_]:
        from skimage.filters import threshold_otsu

        mean = found[: self.maps].mean(axis=0)
        if self.smooth:
            mean = ndimage.gaussian_filter(mean, self.smooth)
        threshold = self.threshold
        if self.otsu:
            limit = self.clamp * float(mean.mean())
            threshold = float(threshold_otsu(np.minimum(mean, limit) / limit))
        mask = binarise(torch.from_numpy(mean), self.clamp, threshold, (side, side)).numpy()
        if self.grow:
            reach = self.grow * side // mean.shape[-1]
            mask = ndimage.binary_dilation(mask, np.ones((2 * reach + 1,) * 2))
        return mask


MASKS: dict[str, tuple[float, Binarise]] = {
    "defaults": (0.5, Binarise()),
    **{f"--mask-strength {strength}": (strength, Binarise()) for strength in STRENGTHS},
    **{f"--maps {count}": (0.5, Binarise(maps=count)) for count in (1, 2, 5, 20)},
    **{f"--clamp {clamp:g}": (0.5, Binarise(clamp=clamp)) for clamp in (2, 4, 5, 8)},
    **{f"--threshold {threshold}": (0.5, Binarise(threshold=threshold)) for threshold in (0.3, 0.4, 0.6, 0.7)},
    "threshold by Otsu": (0.5, Binarise(otsu=True)),
    **{f"smoothed by {cells} cells": (0.5, Binarise(smooth=cells)) for cells in (0.5, 1.0)},
    "smoothed by 0.5 cells, Otsu": (0.5, Binarise(smooth=0.5, otsu=True)),
    "grown by one cell": (0.5, Binarise(grow=1)),
}
EDITS: dict[str, dict[str, Any]] = {
    "defaults": {},
    '--caption ""': {"caption": ""},
    **{f"--invert-guidance {guidance:g}": {"invert_guidance": guidance} for guidance in (3.0, 7.5)},
    '--negative ""': {"negative": ""},
    **{f"--guidance {guidance:g}": {"guidance": guidance} for guidance in (3.0, 5.0, 10.0)},
    **{f"--strength {strength}": {"strength": strength} for strength in (0.6, 0.7, 0.9, 1.0)},
    **{f"--steps {steps}": {"steps": steps} for steps in (10, 20, 30)},
    "--scheduler dpm++": {"scheduler": "dpm++"},
    "--scheduler dpm++ --steps 20": {"scheduler": "dpm++", "steps": 20},
}


class Mapper:
    """Contrast maps of a case at every strength, and how well each way to binarise them does."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.loaded: Any = None

    def __call__(self, number: int) -> dict[str, dict[str, float]]:
        if self.loaded is None:
            torch.set_num_threads(1)
            folder = models.find(self.model)
            self.loaded = families.load(folder.path, "cpu", torch.float32, folder.name)
        case = draw_case(number)
        found = {strength: self.maps(number, strength) for strength in STRENGTHS}
        rows = {}
        for name, (strength, way) in MASKS.items():
            mask = way(found[strength], len(case.mask))
            both = float((mask & case.mask).sum())
            rows[name] = {
                "iou": both / float((mask | case.mask).sum()),
                "recall": both / float(case.mask.sum()),
                "precision": both / max(1.0, float(mask.sum())),
            }
        return rows

    @torch.inference_mode()
    def maps(self, number: int, strength: float) -> Maps:
        case, model, params = draw_case(number), self.loaded, Params()
        picture = picture_of(case)
        x_0 = model.encode(torch.from_numpy(picture.fitted((model.native_size,) * 2))[None])
        noise = torch.randn((MOST_MAPS, *x_0.shape[1:]), generator=generator(number, picture, "mask"))
        at = model.levels(params.steps)[levels_up_to(strength, params.steps)]
        source, target = Text(model.embed(case.source)), Text(model.embed(case.target))
        return torch.stack(list(contrast(model, x_0, at, source, target, noise))).numpy()


_call: Callable[[int], Any]


def _start(call: Callable[[int], Any]) -> None:
    global _call
    _call = call


def _ask(number: int) -> Any:
    return _call(number)


def each(call: Callable[[int], Any], cases: int, jobs: int) -> list[Any]:
    """What it says of every case, several at a time."""
    with get_context("spawn").Pool(jobs, _start, (call,)) as pool:
        return pool.map(_ask, range(cases), chunksize=1)


def table(rows: Mapping[str, Mapping[str, Sequence[float]]], measures: Mapping[str, str]) -> str:
    lines = ["| changed | " + " | ".join(measures.values()) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, figures in rows.items():
        cells = [cell(measure, interval(figures[measure]) if figures.get(measure) else None) for measure in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gathered(rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows if row[name] is not None] for name in measures}


def sweep_masks(options: argparse.Namespace) -> None:
    path = options.out / "masks.json"
    if not path.exists():
        path.write_text(json.dumps(each(Mapper(options.model), options.mask_cases, options.jobs)))
    found = json.loads(path.read_text())
    measures = {"iou": "mask IoU", "recall": "recall", "precision": "precision"}
    rows = {name: gathered([case[name] for case in found], measures) for name in MASKS}
    (options.out / "masks.md").write_text(f"{len(found)} cases\n\n" + table(rows, measures))
    print((options.out / "masks.md").read_text(), flush=True)


def sweep_edits(options: argparse.Namespace) -> None:
    path = options.out / "edits.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    for name, changes in EDITS.items():
        if name not in found:
            worker = Worker(options.model, ["ours"], replace(Params(), **changes), 1)
            found[name] = [rows[0] for rows, _ in each(worker, options.cases, options.jobs)]
            path.write_text(json.dumps(found))
    rows = {name: gathered(made, MEASURES) for name, made in found.items()}
    (options.out / "edits.md").write_text(f"{options.cases} cases\n\n" + table(rows, MEASURES))
    print((options.out / "edits.md").read_text(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60, help="of whole edits")
    parser.add_argument("--mask-cases", type=int, default=100)
    parser.add_argument("--model", default=models.BUILTIN)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time, one thread each")
    parser.add_argument("--only", choices=("masks", "edits"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only != "edits":
        sweep_masks(options)
    if options.only != "masks":
        sweep_edits(options)


if __name__ == "__main__":
    main()
