"""Edits held to their source: what --keep and --align cost, change, refuse and record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import FAST, WORDS, diffedit, picture
from PIL import Image

from diffedit_cli.images import codecs
from diffedit_cli.images.masks import Mask
from diffedit_cli.models import registry
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.composition import EditVariant
from diffedit_cli.pipeline.edit_pipeline import EditPipeline, with_cache
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.cache import Cache

PARAMS = Params(from_="cat", to="dog", steps=5, maps=2, threshold=0.3)
BOTH = ("--keep", 0.5, "--align")


@pytest.fixture(scope="module", params=["tiny_v", "tiny_sd3"])
def loaded(request: pytest.FixtureRequest) -> EditPipeline:
    """A tiny diffusion model, and a flow."""
    return EditPipeline(registry.find(str(request.getfixturevalue(request.param))), None, device="cpu")


@pytest.fixture
def pipeline(loaded: EditPipeline, tmp_path: Path) -> EditPipeline:
    return with_cache(loaded, Cache(tmp_path / "cache"))


def edit(pipeline: EditPipeline, path: Path, stats: EditStats | None = None, **changes: object) -> EditVariant:
    """An edit of the whole picture."""
    scene = codecs.load(path)
    whole = Mask(np.ones((scene.size[1], scene.size[0]), dtype=bool))
    (made,) = pipeline.edit(scene, replace(PARAMS, **changes), stats or EditStats(), whole, None)
    return made


def painted(made: EditVariant) -> np.ndarray:
    return made.painted[0].picture


@pytest.mark.parametrize(("keep", "more"), [(0.0, 0), (0.1, 1), (0.5, 2), (1.0, 4)])
def test_each_step_that_keeps_costs_one_evaluation_more(
    pipeline: EditPipeline, tmp_path: Path, keep: float, more: int
) -> None:
    """Of 4 steps; aligned steps cost none. The same again costs nothing."""
    image, spent = picture(tmp_path / "scene.png"), []
    for changes in ({}, {"keep": keep}, {"keep": keep}, {"keep": keep, "align": True}):
        stats = EditStats()
        edit(pipeline, image, stats, invert_every=1, **changes)
        spent.append(stats.evaluations["edit"])
    assert spent[1:3] == [spent[0] + more if keep else 0, 0]
    assert spent[3] == spent[0] + more


@pytest.mark.parametrize("changes", [{"keep": 0.5}, {"keep": 0.5, "caption": "grass"}, {"align": True}], ids=str)
def test_they_change_what_is_painted(pipeline: EditPipeline, tmp_path: Path, changes: dict[str, object]) -> None:
    image = picture(tmp_path / "scene.png")
    assert not np.allclose(painted(edit(pipeline, image, **changes)), painted(edit(pipeline, image)), atol=1e-3)


def test_the_text_of_the_source_counts_for_its_values_alone(pipeline: EditPipeline, tmp_path: Path) -> None:
    """From the same inversion: what begins with fresh noise alone asks for none."""
    image, noise = picture(tmp_path / "scene.png"), {"invert_from": 1.0, "strength": 0.8}
    for keep, differs in ((0.0, False), (0.5, True)):
        one, other = (edit(pipeline, image, keep=keep, caption=text, **noise) for text in ("cat", "grass"))
        assert np.array_equal(painted(one), painted(other)) != differs


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++"])
def test_aligned_the_caption_paints_the_picture_again(pipeline: EditPipeline, tmp_path: Path, scheduler: str) -> None:
    image, words = picture(tmp_path / "scene.png"), {"to": "cat", "guidance": 1.0, "scheduler": scheduler}
    session, scene = pipeline.session, codecs.load(image)
    x_0 = pipeline.context.latents(scene, EditStats())
    again = session.model(EditStats()).decode(x_0)[0].permute(1, 2, 0).numpy()
    plain, aligned = (painted(edit(pipeline, image, align=align, **words)) for align in (False, True))
    assert np.abs(aligned - again).max() < 1e-3 < np.abs(plain - again).max()


def test_keys_and_records_hold_them_only_where_they_are_asked_for() -> None:
    plain = cache_keys.repainting(Params(from_="cat", to="dog"))
    assert not {"keep", "align", "caption"} & plain.keys()
    kept = cache_keys.repainting(Params(from_="cat", to="dog", keep=0.2))
    assert kept == plain | {"keep": 0.2, "caption": "cat"}
    assert cache_keys.repainting(Params(from_="cat", to="dog", align=True)) == plain | {"align": True}


@pytest.mark.usefixtures("here")
def test_given_latents_make_the_same_picture() -> None:
    """And the record of a result repeats it."""
    assert diffedit("edit", "cat.png", *WORDS, *FAST, *BOTH, "--room", 0, "-o", "once.png").code == 0
    assert diffedit("mask", "cat.png", *WORDS, *FAST, "-o", "m.png").code == 0
    assert diffedit("invert", "cat.png", "--caption", "cat", "--steps", 5, "-o", "l.safetensors").code == 0
    given = ("--mask", "m.png", "--latents", "l.safetensors")
    assert diffedit("edit", "cat.png", *WORDS, *FAST, *BOTH, "--room", 0, *given, "-o", "given.png").code == 0
    assert Image.open("once.png").tobytes() == Image.open("given.png").tobytes()
    told = diffedit("info", "once.png").out.decode()
    assert "--keep 0.5" in told
    assert "--align" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--keep 2", "--keep must be between 0 and 1, not 2"),
        ("--align --scheduler ddim --fixed-point 1", "--fixed-point changes it; leave out one of them"),
        ("--align --reg-steps 1", "--reg-steps changes it; leave out one of them"),
        ("--align --latents regular.safetensors", "was made with --reg-steps, which changes it; leave out --align"),
        ("--keep 0.1 --inpainter .", "--keep follows an inversion, and an inpainting model makes none"),
        ("--align --inpainter .", "--align follows an inversion, and an inpainting model makes none"),
    ],
)
def test_what_makes_no_sense_is_said(here: Path, inpainter: Path, words: str, says: str) -> None:
    if "--latents" in words:
        invert = ("--caption", "cat", "--steps", 5, "--reg-steps", 1)
        assert diffedit("invert", "cat.png", *invert, "-o", here / "regular.safetensors").code == 0
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, *words.replace(" .", f" {inpainter}").split())
    assert ran.code == 2
    assert says in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("kind", "start"), [("background", "noise"), ("add", "noise"), ("remove", "a fill from the surroundings")]
)
@pytest.mark.usefixtures("here")
def test_where_nothing_of_the_picture_is_inside_they_do_nothing_and_it_is_said(kind: str, start: str) -> None:
    words = (*WORDS, *FAST, "--region", kind, "--anyway", "--mask", "part.png")
    part = Image.new("L", Image.open("cat.png").size, 0)
    part.paste(255, (20, 10, 40, 30))
    part.save("part.png")
    plain = diffedit("edit", "cat.png", *words, "-o", "plain.png", "--json")
    ran = diffedit("edit", "cat.png", *words, *BOTH, "-o", "kept.png", "--json")
    assert (plain.code, ran.code) == (0, 0), ran.err
    told = [warning for warning in ran.json["warnings"] if "has no effect" in warning]
    assert told == [
        f"{option} has no effect: this edit ({kind}) starts from {start} and not from the picture; leave it out."
        for option in ("--keep", "--align")
    ]
    assert Image.open("kept.png").tobytes() == Image.open("plain.png").tobytes()
    assert ran.json["evaluations"] == plain.json["evaluations"]
