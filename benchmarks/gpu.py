"""Times edits on a GPU, in one command that fits ten minutes: ``python -m benchmarks.speed --device cuda --out DIR``.

The built-in model edits cases of SceneBench, with its measures of quality, and models of the size of Stable Diffusion
1.5 and of SDXL with random weights edit a photograph, for the time alone. In turns: diffusers' pipeline (for SDXL, for
which it has none, as many calls of the network as it makes), diffedit, diffedit without CUDA graphs, and the limit: the
networks of the same edit alone, replayed one after the other. Writes DIR/gpu.json and DIR/gpu.md.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fullsize, speed
from benchmarks.cases import Case
from benchmarks.methods import DiffusersDiffEdit, Method, Ours, Outcome, Where
from benchmarks.scenebench import failed_case, measure, rows_of, run
from benchmarks.speed import AS_THEIRS, THEIRS, Row
from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.engine.networks.cuda_graphs import Graph, Recorder
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.models import registry
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats

OURS, EAGER, LIMIT = "diffedit", "diffedit, without graphs", "its networks alone"
HEAD = """{dtype} on {device}; medians of times. For SDXL diffusers has no DiffEdit: its row
there is as many calls of the network alone, without graphs.
"""
WARM = 2  # cases that do not count: evaluations are captured the second time they come
SHARE = 0.2  # of all steps and maps, for trials with small models


@dataclass(frozen=True)
class Subject:
    """A model, the cases that it edits, and what is measured of them."""

    title: str
    folder: ModelFolder
    params: Params
    cases: Sequence[Case]
    measure: Callable[[Case, Outcome], Row]


def model_of(ours: Ours) -> LatentDiffusion:
    model = ours.pipeline.session.model(EditStats())
    assert isinstance(model, LatentDiffusion)
    return model


class Alone:
    """The network calls of an edit by graphs, with nothing between them, and the VAE once in each direction."""

    def __init__(self, ours: Ours, where: Where) -> None:
        self.ours, self.where, self.noted = ours, where, list[Graph | None]()

    def __call__(self, case: Case) -> Outcome:
        made, model = self._noted(case), model_of(self.ours)
        picture = torch.zeros(1, 3, model.native_size, model.native_size)
        with torch.inference_mode():
            self.where.done()
            started = time.perf_counter()
            latents = model.encode(picture)
            for graph in self.noted:
                if graph is not None:
                    graph.replay()
            model.decode(latents)
            self.where.done()
        return replace(made, seconds=time.perf_counter() - started)

    def _noted(self, case: Case) -> Outcome:
        """Edits a case, and notes the graph of each call of the network; None for a call without one."""
        model = model_of(self.ours)
        graphs, self.noted = model.graphs, []
        assert graphs is not None

        def note(rows: ModelInput) -> torch.Tensor:
            output = graphs(rows)
            self.noted.append(graphs.graph_of(rows))
            return output

        model._evaluate = note
        made = self.ours(case)
        model._evaluate = graphs
        return made


class TheirCalls:
    """As many calls of the network as diffusers' DiffEdit makes: one for all maps, one of two rows for each step."""

    def __init__(self, ours: Ours, where: Where, params: Params) -> None:
        self.ours, self.where, self.params = ours, where, params

    def __call__(self, case: Case) -> Outcome:
        model, steps = model_of(self.ours), self.params.steps
        at, calls, rows = model.levels(steps)[steps // 2], 2 * int(0.8 * steps), 4 * int(self.params.maps)
        with torch.inference_mode():
            text = model.embed(case.source)
            x_t = torch.zeros((rows, *model.latent_shape((model.native_size,) * 2)), device=model.device)
            self.where.done()
            started = time.perf_counter()
            model.predict(x_t, at, text)
            for _ in range(calls):
                model.predict(x_t[:2], at, text)
            self.where.done()
        seconds = time.perf_counter() - started
        return Outcome(case.picture, case.picture, None, rows + 2 * calls, seconds)


def subjects(temporary: Path, where: Where, cases: int, small: bool) -> list[Subject]:
    """Returns the built-in model, and models of full size that are written to a folder, on the GPU as it is faster."""
    found = [Subject("built-in model", registry.find(registry.BUILTIN), Params(), speed.scenes(cases), measure)]
    params = Params(threshold=0.2)  # else random weights find nothing to edit
    for title, large in (("Stable Diffusion 1.5's size", False), ("SDXL's size", True)):
        torch.set_default_device(where.device)
        fullsize.write_model(temporary / title, small, large)
        torch.set_default_device("cpu")
        torch.set_default_dtype(torch.float32)
        folder = registry.find(str(temporary / title))
        found.append(Subject(title, folder, params, speed.photographs(cases), speed.only_time))
    return found


def in_turns(ways: dict[str, Method], subject: Subject, until: float) -> dict[str, dict[str, list[float]]]:
    """Returns each way's figures of each case; no case begins after `until`, but for one that counts."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number, case in enumerate(subject.cases):
        if number > WARM and time.monotonic() > until:
            break
        made = {name: run(case, way) for name, way in ways.items()}
        if number < WARM:
            continue
        for name, row in rows_of_case(subject, case, made).items():
            for measured, value in row.items():
                if value is not None:
                    found[name].setdefault(measured, []).append(value)
    return found


def rows_of_case(subject: Subject, case: Case, made: dict[str, Outcome | None]) -> dict[str, Row]:
    """Returns the figures of each way, with the ratios to diffusers' and to the networks alone."""
    rows = {name: subject.measure(case, one) if one else failed_case(case) for name, one in made.items()}
    seconds = {name: one.seconds for name, one in made.items() if one}
    for name, own in seconds.items():
        rows[name]["ratio"] = seconds[THEIRS] / own if THEIRS in seconds else None
        rows[name]["overhead"] = own / seconds[LIMIT] if LIMIT in seconds and name in (OURS, EAGER) else None
    rows[LIMIT] = {name: rows[LIMIT].get(name) for name in ("evaluations", "seconds", "ratio")}
    one, other = made[OURS], made[EAGER]
    if one and other:
        rows[OURS]["differs"] = float(np.abs(one.final.astype(int) - other.final).max())
    return rows


def measured(
    out: Path,
    where: Where,
    cases: int,
    minutes: float,
    small: bool = False,
    recorder: Callable[[], Recorder] | None = None,
) -> dict[str, Any]:
    """Measures all subjects and writes the report; a `recorder` stands in for the GPU's captures, for trials."""
    share = SHARE if small else 1.0
    as_theirs = speed.fewer(AS_THEIRS, share)
    begun, tables, said = time.monotonic(), {}, [HEAD.format(dtype=where.dtype, device=_device(where))]
    with tempfile.TemporaryDirectory() as temporary:
        told = subjects(Path(temporary), where, cases + WARM, small)
        for number, subject in enumerate(told, start=1):
            params = speed.fewer(subject.params, share)
            by_graphs, eager = (Ours(subject.folder, params, where=where) for _ in range(2))
            if recorder is not None:
                model_of(by_graphs).capture(recorder())
            model_of(eager).evaluate_directly()
            theirs: Method = TheirCalls(eager, where, as_theirs)
            if subject.folder.family == "sd":
                theirs = DiffusersDiffEdit(subject.folder.path, where, as_theirs.steps, int(as_theirs.maps))
            ways = {THEIRS: theirs, OURS: by_graphs, EAGER: eager, LIMIT: Alone(by_graphs, where)}
            found = in_turns(ways, subject, begun + 60 * minutes * number / len(told))
            table = tables[subject.title] = {name: speed.figures(values) for name, values in found.items()}
            counted = max(len(values.get("seconds", ())) for values in found.values())
            edits = "1 edit" if counted == 1 else f"{counted} edits"
            shown = {
                name: words for name, words in speed.MEASURES.items() if any(name in row for row in table.values())
            }
            said.append(f"### {subject.title}, {edits}\n\n{rows_of('way', table, shown)}")
    (out / "gpu.json").write_text(json.dumps(tables, indent=2) + "\n")
    (out / "gpu.md").write_text("\n".join(said))
    print((out / "gpu.md").read_text())
    return tables


def _device(where: Where) -> str:
    if where.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(where.device)}, torch {torch.__version__}"
    return f"{where.device}, {speed.machine()}"
