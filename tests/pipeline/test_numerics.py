"""What the networks compute: the same by any number of threads, and never used where it is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command import picture

from diffedit_cli.errors import ModelError
from diffedit_cli.images import codecs
from diffedit_cli.models import devices, registry
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.cache import Cache

PARAMS = Params(from_="cat", to="dog", steps=5, maps=2, threshold=0.3)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return picture(tmp_path / "scene.png")


@pytest.fixture
def pipeline(tmp_path: Path, tiny_epsilon: Path) -> EditPipeline:
    """With an empty cache."""
    return EditPipeline(registry.find(str(tiny_epsilon)), Cache(tmp_path / "cache"), device="cpu")


@pytest.mark.thorough
def test_results_do_not_depend_on_the_number_of_threads(image: Path, tiny_epsilon: Path) -> None:
    found = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pipeline = EditPipeline(registry.find(str(tiny_epsilon)), None, device="cpu")
            [found[threads]] = pipeline.edit(codecs.load(image), PARAMS, EditStats(), None, None)
    finally:
        torch.set_num_threads(before)
    one, two = found[1], found[2]
    assert (one.mask.pixels == two.mask.pixels).all()
    assert np.abs(one.latents.trajectory - two.latents.trajectory).max() < 1e-4
    assert np.abs(np.asarray(one.image, int) - np.asarray(two.image, int)).max() <= 1


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu.max": "\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_threads_are_no_more_than_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], processors: float
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert devices.quota(tmp_path) == processors
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "CGROUPS", tmp_path)
    try:
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        devices.fit_threads()
        assert torch.get_num_threads() == 3, "the user's word counts more"
        monkeypatch.delenv("OMP_NUM_THREADS")
        devices.fit_threads()
        assert torch.get_num_threads() == (2 if processors < 2 else 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("stage", ["mask", "invert", "edit"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_noticed_in_every_stage(
    pipeline: EditPipeline, image: Path, monkeypatch: pytest.MonkeyPatch, stage: str, value: float
) -> None:
    """And nothing of it is kept, only what was found before."""
    watched = StageContext.with_progress

    def spoilt(context: StageContext, name: str, steps: Iterator[torch.Tensor], total: int) -> Iterator[torch.Tensor]:
        for step in watched(context, name, steps, total):
            yield step.clone().fill_(value) if name == stage else step

    monkeypatch.setattr(StageContext, "with_progress", spoilt)
    with pytest.raises(ModelError, match="not finite"):
        pipeline.edit(codecs.load(image), PARAMS, EditStats(), None, None)
    kinds = {"mask": (), "invert": ("contrast", "attention"), "edit": ("contrast", "attention", "inversion")}
    assert {entry.kind for entry in pipeline.cache.entries()} == {"encoded", "watched", *kinds[stage]}
