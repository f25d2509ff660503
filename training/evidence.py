"""Calibrates the limit below which an object in a prompt counts as absent: ``python -m training.evidence FOLDER``.

Writes `evidence` into the folder's ``fitness.json`` from scenes of the training seeds; held-out scenes are only used
to judge it. Run it after ``training.fitness``, which rewrites the file.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import random
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit_cli.errors import NothingToEdit
from diffedit_cli.images import codecs
from diffedit_cli.models import registry
from diffedit_cli.models.folder import FITNESS
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats
from training.places import PLACES
from training.scenes import WIDER, scene, with_article

KINDS = ("object", "object with another", "remove", "place said")


@functools.cache
def pipeline(folder: Path) -> EditPipeline:
    torch.set_num_threads(1)
    return EditPipeline(registry.find(str(folder)), None, device="cpu", dtype="float32", any_picture=True)


def prompts(seed: int, there: bool) -> tuple[NDArray[np.uint8], str, str]:
    """Returns a scene's pixels, a source prompt that names a present or an absent object, and a target prompt."""
    rng = random.Random(f"{seed} {there} evidence")
    number = seed % len(KINDS)
    drawn = scene(seed, kind="two" if KINDS[number] in ("object with another", "remove") else "one", world=WIDER)
    shown = {name.rpartition(" ")[2] for name in drawn.objects}
    absent, new = rng.sample([name for name in WIDER.objects if name not in shown], 2)
    first, *others = drawn.objects if there else (absent, *drawn.objects[1:])
    source = " and ".join(map(with_article, (first, *others)))
    target = " and ".join(map(with_article, others if KINDS[number] == "remove" else (new, *others)))
    if KINDS[number] == "place said":
        source, target = (f"{said} {PLACES[drawn.place].phrase}" for said in (source, target))
    return np.asarray(drawn.picture), source, target


def gain(folder: Path, case: tuple[int, bool]) -> float:
    """Returns how well the source prompt explains the region (engine.evidence)."""
    picture, source, target = prompts(*case)
    stats = EditStats()
    with contextlib.suppress(NothingToEdit):  # the gain is in the statistics before this is raised
        params = Params(from_=source, to=target, seed=case[0])
        pipeline(folder).mask(codecs.from_array(picture, str(case[0])), params, stats)
    assert stats.gain is not None
    return stats.gain


def gains(folder: Path, first: int, count: int, jobs: int) -> tuple[list[float], list[float]]:
    """Returns the gains of present objects and of absent objects."""
    cases = [(first + number, there) for there in (True, False) for number in range(count)]
    with get_context("spawn").Pool(jobs) as pool:
        found = pool.map(functools.partial(gain, folder), cases, chunksize=8)
    return found[:count], found[count:]


def between(there: Sequence[float], absent: Sequence[float]) -> float:
    """Returns the limit with the fewest errors, the median of several equally good ones."""
    steps = np.linspace(-1, 0.5, 301)
    wrong = [sum(value < limit for value in there) + sum(value >= limit for value in absent) for limit in steps]
    best = [limit for limit, errors in zip(steps, wrong, strict=True) if errors == min(wrong)]
    return round(float(np.median(best)), 3)


def say(limit: float, there: Sequence[float], absent: Sequence[float]) -> None:
    refused, missed = np.mean(np.array(absent) < limit), np.mean(np.array(there) < limit)
    print(f"limit {limit}: of what is not there {refused:.1%} refused, of what is there {missed:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--scenes", type=int, default=200, help="number of scenes with the object; as many are drawn without"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--judge", action="store_true", help="only judge the existing limit")
    options = parser.parse_args()
    path = options.folder / FITNESS
    said = json.loads(path.read_text())
    if not options.judge:
        there, absent = gains(options.folder, WIDER.first + 5_000_000, options.scenes, options.jobs)
        said["evidence"] = between(there, absent)
        path.write_text(json.dumps(said) + "\n")
        say(said["evidence"], there, absent)
    there, absent = gains(options.folder, WIDER.held_out + 5_000_000, options.scenes, options.jobs)
    print("held out: ", end="")
    say(said["evidence"], there, absent)


if __name__ == "__main__":
    main()
