"""Measures each parameter on SceneBench, changed one at a time: run ``python -m benchmarks.sweeps --out DIR``.

Writes DIR/masks.md, from contrast maps computed once and binarised in many ways, and DIR/edits.md, from whole edits.
Each line shows the defaults except for the options it names. An interrupted run resumes. ``docs/tuning.md`` uses the
tables.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, draw_case
from benchmarks.methods import THE_SOURCE, picture_of
from benchmarks.scenebench import MEASURES, Worker, each, interval, overlap, rows_of
from diffedit_cli.engine import mask_refinement
from diffedit_cli.engine.diffedit import Text, contrast_maps
from diffedit_cli.engine.networks import families
from diffedit_cli.models import registry
from diffedit_cli.pipeline.mask_expression import MASK_METHODS
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.prompts import telling_words

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7)
MOST_MAPS = 20


MASKS: dict[str, dict[str, Any]] = {
    "defaults": {},
    **{f"--mask-strength {strength}": {"mask_strength": strength} for strength in STRENGTHS},
    **{f"--maps {count}": {"maps": count} for count in (1, 2, 5, MOST_MAPS)},
    **{f"--clamp {clamp:g}": {"clamp": clamp} for clamp in (2.0, 4.0, 5.0, 8.0)},
    **{f"--threshold {threshold}": {"threshold": threshold} for threshold in (0.3, 0.4, 0.6, 0.7, "auto")},
    **{f"--smooth {cells}": {"smooth": cells} for cells in (0.5, 1.0)},
    "--smooth 0.5 --threshold auto": {"smooth": 0.5, "threshold": "auto"},
    "--fill-holes --islands 0.1": {"fill_holes": True, "islands": 0.1},
    **{f"--grow {cells:g}": {"grow": cells} for cells in (0.5, 1.0)},
    **{f"--edges {cells:g}": {"edges": cells} for cells in (0.0, 1.0, 2.0, 4.0, 5.0)},
    **{
        f"--mask-method {method}{option}": {"mask_method": method, **changes}
        for method in ("noise", "attention")
        for option, changes in {
            "": {},
            " --edges 0": {"edges": 0.0},
            **{f" --threshold {threshold}": {"threshold": threshold} for threshold in (0.4, 0.6, "auto")},
        }.items()
    },
}
KINDS = ("one", "two", "bowl")
MASK_MEASURES = {
    "iou": "mask IoU",
    "recall": "recall",
    "precision": "precision",
    "changed": "IoU with all that changes",
    **{f"iou {kind}": f"mask IoU, {kind}" for kind in KINDS},
}
EDITS: dict[str, dict[str, Any]] = {
    "defaults": {},
    '--caption ""': {"caption": ""},
    **{f"--invert-guidance {guidance:g}": {"invert_guidance": guidance} for guidance in (3.0, 7.5)},
    "--negative FROM": {"negative": THE_SOURCE},
    "--edges 0": {"edges": 0.0},
    "--mask-method noise": {"mask_method": "noise"},
    "--mask-method noise --edges 0": {"mask_method": "noise", "edges": 0.0},
    "--grow 1": {"grow": 1.0},
    **{f"--guidance {guidance:g}": {"guidance": guidance} for guidance in (3.0, 5.0, 10.0)},
    **{f"--strength {strength}": {"strength": strength} for strength in (0.6, 0.7, 0.9, 1.0)},
    **{f"--steps {steps}": {"steps": steps} for steps in (10, 20, 30)},
    "--scheduler dpm++": {"scheduler": "dpm++"},
    "--scheduler dpm++ --steps 20": {"scheduler": "dpm++", "steps": 20},
}


class Mapper:
    """Computes a case's contrast maps at every strength, and measures each way to binarise them."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.loaded: Any = None

    def __call__(self, number: int) -> dict[str, dict[str, float | None]]:
        if self.loaded is None:
            torch.set_num_threads(1)
            folder = registry.find(self.model)
            self.loaded = families.load(folder.path, "cpu", torch.float32, folder.name)
        case = draw_case(number)
        found, looks = self.maps(case)
        rows: dict[str, dict[str, float | None]] = {}
        for name, changes in MASKS.items():
            params = replace(Params(from_=case.source, to=case.target), **changes).with_mask_method(attends=True)
            maps = {"contrast": found[params.mask_strength][: params.most_maps].mean(dim=0), "attention": looks}
            shown = functools.reduce(torch.mul, (maps[one] for one in MASK_METHODS[params.mask_method]))
            guide = torch.from_numpy(picture_of(case).model_input((self.loaded.native_size,) * 2))
            mask = mask_refinement.mask(shown, case.mask.shape, guide=guide, **params.binarisation).numpy()
            both = float((mask & case.mask).sum())
            iou = overlap(mask, case.mask)
            rows[name] = {
                "iou": iou,
                "recall": both / float(case.mask.sum()),
                "precision": both / max(1.0, float(mask.sum())),
                "changed": overlap(mask, case.changed),
                **{f"iou {kind}": iou if kind == case.kind else None for kind in KINDS},
            }
        return rows

    @torch.inference_mode()
    def maps(self, case: Case) -> tuple[dict[float, Tensor], Tensor]:
        """Returns contrast maps (MOST_MAPS, h, w) by strength, and the attention (h, w) of the default parameters."""
        model, params, picture = self.loaded, Params(), picture_of(case)
        x_0 = model.encode(torch.from_numpy(picture.model_input((model.native_size,) * 2))[None])
        noise = torch.randn((MOST_MAPS, *x_0.shape[1:]), generator=generator(case.number, picture, "mask"))
        source, target = Text(model.embed(case.source)), Text(model.embed(case.target))
        levels = {strength: model.levels(params.steps)[levels_up_to(strength, params.steps)] for strength in STRENGTHS}
        with model.watching(case.source, telling_words(case.source, case.target)) as watch:
            at = levels[params.mask_strength]
            found = {params.mask_strength: torch.stack(list(contrast_maps(model, x_0, at, source, target, noise)))}
        for strength in levels.keys() - found.keys():
            found[strength] = torch.stack(list(contrast_maps(model, x_0, levels[strength], source, target, noise)))
        return found, watch.map(x_0.shape[-2:])


def table(rows: Mapping[str, Mapping[str, Sequence[float]]], measures: Mapping[str, str]) -> str:
    figures = {name: {one: interval(values) for one, values in row.items() if values} for name, row in rows.items()}
    return rows_of("changed", figures, measures)


def gathered(rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows if row[name] is not None] for name in measures}


def sweep_masks(options: argparse.Namespace) -> None:
    path = options.out / "masks.json"
    if not path.exists():
        path.write_text(json.dumps(list(each(Mapper(options.model), range(options.mask_cases), options.jobs))))
    found = json.loads(path.read_text())
    rows = {name: gathered([case[name] for case in found], MASK_MEASURES) for name in MASKS}
    (options.out / "masks.md").write_text(f"{len(found)} cases\n\n" + table(rows, MASK_MEASURES))
    print((options.out / "masks.md").read_text(), flush=True)


def sweep_edits(options: argparse.Namespace) -> None:
    path = options.out / "edits.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    for name, changes in EDITS.items():
        if name not in found:
            worker = Worker(options.model, ["ours"], replace(Params(), **changes), 1)
            found[name] = [made.rows[0] for made in each(worker, range(options.cases), options.jobs)]
            path.write_text(json.dumps(found))
    rows = {name: gathered(made, MEASURES) for name, made in found.items()}
    (options.out / "edits.md").write_text(f"{options.cases} cases\n\n" + table(rows, MEASURES))
    print((options.out / "edits.md").read_text(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60, help="cases for whole edits")
    parser.add_argument("--mask-cases", type=int, default=100)
    parser.add_argument("--model", default=registry.BUILTIN)
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
