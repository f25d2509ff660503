"""The place of a picture, which the built-in model finds where something is removed and nobody names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkout import SAMPLES
from command import diffedit
from PIL import Image

from diffedit_cli.images import codecs
from diffedit_cli.models import registry
from diffedit_cli.pipeline import scenery
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats

PLACES = {
    "car-in-desert": "in the desert",
    "cat": "on the grass",
    "dog-on-beach": "on the beach",
    "duck-and-ball": "on the beach",
    "elephant-in-desert": "in the desert",
    "horse-on-grass": "on the grass",
    "penguin-in-snow": "in the snow",
    "teapot-on-table": "on a table",
}
REMOVED = ("duck-and-ball.png", "--from", "a duck and a ball", "--to", "a duck", "--json")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", str(tmp_path / "cache"))
    Path(REMOVED[0]).write_bytes((SAMPLES / REMOVED[0]).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def pipeline() -> EditPipeline:
    return EditPipeline(registry.find("builtin"), None, device="cpu", dtype="float32")


@pytest.mark.thorough
@pytest.mark.parametrize("name", PLACES)
def test_the_built_in_model_knows_where_it_is(pipeline: EditPipeline, name: str) -> None:
    picture, stats = codecs.load(SAMPLES / f"{name}.png"), EditStats()
    places = pipeline.folder.places
    assert scenery.place_of(pipeline.context, picture, places, Params(), stats) == PLACES[name]
    assert stats.evaluations["place"] == len(places) == 12


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_it_is_asked_once_for_a_picture_and_only_where_it_is_needed() -> None:
    first, again = (diffedit("edit", *REMOVED, "--seed", seed, "-o", f"{seed}.png").json for seed in (1, 2))
    assert first["evaluations"]["place"] == 12
    assert "place" not in again["evaluations"]
    for words in (
        ("--from", "a duck and a ball on the beach", "--to", "a duck on the beach"),
        ("--from", "a ball", "--to", "a pizza"),
    ):
        ran = diffedit("edit", REMOVED[0], *words, "--json", "-o", "c.png", "--force")
        assert "place" not in ran.json["evaluations"]


@pytest.mark.usefixtures("here")
def test_a_mask_made_before_is_painted_the_same() -> None:
    assert diffedit("edit", *REMOVED, "-o", "whole.png").code == 0
    assert diffedit("mask", *REMOVED, "--no-cache", "-o", "m.png").code == 0
    ran = diffedit("edit", *REMOVED, "--no-cache", "--mask", "m.png", "-o", "steps.png")
    assert ran.code == 0, ran.err
    assert Image.open("steps.png").tobytes() == Image.open("whole.png").tobytes()


@pytest.mark.usefixtures("here")
def test_a_ball_on_a_beach_leaves_no_ghost() -> None:
    """Where the place was not asked for, an animal of mist was left in the sky and on the sand: 1.2 and 1.9 here."""
    assert diffedit("edit", *REMOVED, "-o", "whole.png").code == 0
    pixels = np.asarray(Image.open("whole.png").convert("RGB")).astype(int)
    for rows in (slice(120, 140), slice(168, 186)):
        assert np.abs(np.diff(pixels[rows, 20:110], axis=1)).mean() < 0.5
