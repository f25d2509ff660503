"""The strict measure of edits: true results pass, and each way of not being one fails by its own figure."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

pytest.importorskip("training", reason="a source distribution has no training")
pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from benchmarks import sprite_search, strict, textures
from benchmarks.cases import BESIDE_EVERY, KINDS, Case, differing, draw_case, draw_case_of, pixels
from benchmarks.strict import failings, figures_of, passes
from benchmarks.textures import reached
from training import places, scenes
from training.places import CANVAS, PLACES
from training.scenes import FRUIT, WIDER, scene
from training.sprites import COLOURS

Picture = NDArray[np.uint8]
EXCHANGES = ("object", "two", "colour")
CASES = range(3)


def shape(code: str, colour: str = "") -> Image.Image:
    """In place of each sprite: a star of the code's own outline, with a core, in two of its own colours."""
    own = random.Random(code)
    hue, saturation, value = own.random(), own.uniform(0.4, 1), own.uniform(0.3, 1)
    core = tuple(own.randrange(256) for _ in range(3))
    if colour:
        degrees, saturation, value = COLOURS[colour]
        hue = degrees / 360
    paint = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    size = (own.randint(90, 130), own.randint(90, 130))
    angles = np.arange(points := own.randint(5, 11)) * 2 * np.pi / points + own.random()
    radii = [own.uniform(0.55, 1) for _ in range(points)]
    outline = [
        (size[0] / 2 * (1 + radius * np.cos(angle)), size[1] / 2 * (1 + radius * np.sin(angle)))
        for radius, angle in zip(radii, angles, strict=True)
    ]
    image = Image.new("RGBA", size)
    draw = ImageDraw.Draw(image)
    draw.polygon(outline, fill=(*paint, 255))
    x, y, reach = own.uniform(0.35, 0.65) * size[0], own.uniform(0.35, 0.65) * size[1], own.uniform(12, 24)
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(*core, 255))
    return image.crop(image.getbbox())


@pytest.fixture(autouse=True, scope="module")
def _no_download() -> Iterator[None]:
    kept = (sprite_search.sprite_of, sprite_search.bank, textures.palette)
    with pytest.MonkeyPatch.context() as patch:
        for module in (places, scenes):
            patch.setattr(module, "sprite", shape)
        for function in kept:
            function.cache_clear()
        yield
    for function in kept:
        function.cache_clear()


def found(picture: Picture, case: Case) -> list[str]:
    return failings(figures_of(picture, case))


def half(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of an object with its rim, what is left of its middle."""
    left = reached(mask, 3)
    left[:, round(np.flatnonzero(mask.any(0)).mean()) :] = False
    return left


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_true_results_pass_and_pictures_as_they_were_do_not(kind: str) -> None:
    for number in CASES:
        case = draw_case_of(kind, number)
        assert found(case.result, case) == []
        assert not passes(figures_of(case.picture, case))


@pytest.mark.parametrize("kind", KINDS)
def test_a_little_noise_does_not_count(kind: str) -> None:
    case = draw_case_of(kind, 3)
    noise = np.random.default_rng(0).normal(0, 4, case.result.shape)
    assert found((case.result + noise).round().clip(0, 255).astype(np.uint8), case) == []


@pytest.mark.parametrize("kind", ["one", "two"])
def test_the_first_cases_are_measured_as_well(kind: str) -> None:
    case = next(case for number in range(40) if (case := draw_case(number)).kind == kind)
    assert found(case.result, case) == []
    assert {"unexplained", "margin", "leftover"} <= set(found(case.picture, case))


@pytest.mark.parametrize(("kind", "drawn"), [("object", "one"), ("two", "two"), ("colour", "one")])
def test_another_object_or_colour_is_told_from_the_one_asked_for(kind: str, drawn: str) -> None:
    case = draw_case_of(kind, 0)
    objects = [case.old] if kind == "colour" else None
    thing = case.new.rpartition(" ")[2]
    other = next(name for name in ("pizza", "robot") if name not in (case.old, case.new, *case.kept))
    if kind == "colour":
        other = next(f"{colour} {thing}" for colour in COLOURS if f"{colour} {thing}" not in (case.old, case.new))
    wrong = scene(case.seed, drawn, objects, world=WIDER, swap={case.old: other}, fitted=True)
    figures = figures_of(pixels(wrong), case)
    assert "margin" in failings(figures)
    assert figures.rival == other


def test_an_object_without_a_colour_may_have_any() -> None:
    case = replace(draw_case_of("colour", 0), new=draw_case_of("colour", 0).new.rpartition(" ")[2])
    assert found(case.result, case) == []


@pytest.mark.parametrize("kind", EXCHANGES)
def test_half_of_the_old_object_must_not_stay(kind: str) -> None:
    case = draw_case_of(kind, 1)
    assert "leftover" in found(np.where(half(case.mask)[..., None], case.picture, case.result), case)


@pytest.mark.parametrize("kind", [*EXCHANGES, "add"])
def test_the_new_object_must_not_come_twice(kind: str) -> None:
    case = draw_case_of(kind, 1)
    middle = round(np.flatnonzero(case.new_mask.any(0)).mean())
    shift = 100 if middle < CANVAS // 2 else -100
    there, twin = np.roll(case.new_mask, shift, axis=1), np.roll(case.result, shift, axis=1)
    assert "smear" in found(np.where(there[..., None], twin, case.result), case)


def test_an_added_object_may_stand_elsewhere_but_not_on_the_kept_one() -> None:
    case = draw_case_of("add", 0)
    (kept,) = case.kept.values()
    y, x = (round(axis.mean()) for axis in np.nonzero(kept))
    image = WIDER.drawing(case.new).resize((80, 80))

    def standing(left: int, top: int) -> Picture:
        made = Image.fromarray(case.picture)
        made.paste(image, (left, top), image)
        return np.asarray(made)

    far = 12 if x > CANVAS // 2 else CANVAS - 92
    assert case.new_mask[150:230, far : far + 80].mean() < 0.5, "elsewhere than in the true result"
    assert found(standing(far, 150), case) == []
    assert found(standing(x - 40, y - 40), case) == ["damage"]


@pytest.mark.parametrize("kind", ["two", "place", "add", "remove"])
def test_what_is_kept_must_not_change(kind: str) -> None:
    case = draw_case_of(kind, 2)
    (kept,) = case.kept.values()
    assert "damage" in found(np.where(half(kept)[..., None], 255 - case.result, case.result), case)


def test_no_other_place_is_the_one_asked_for() -> None:
    case = draw_case_of("place", 1)
    for place in PLACES.keys() - {case.new}:
        wrong = scene(case.seed, "one", place=place, world=WIDER)
        assert {"unexplained", "margin"} <= set(found(pixels(wrong), case)), place


def test_half_of_the_old_place_must_not_stay_nor_a_rim_of_it() -> None:
    case = draw_case_of("place", 2)
    (kept,) = case.kept.values()
    left = np.arange(CANVAS)[None, :, None] < CANVAS // 2
    assert {"unexplained", "leftover"} <= set(found(np.where(left, case.picture, case.result), case))
    rim = reached(kept, 6) & ~kept
    assert "halo" in found(np.where(rim[..., None], case.picture, case.result), case)


@pytest.mark.parametrize("number", CASES)
def test_a_removal_leaves_neither_a_part_nor_a_blob(number: int) -> None:
    case = draw_case_of("remove", number)
    assert "leftover" in found(np.where(half(case.mask)[..., None], case.picture, case.result), case)
    y, x = (round(axis.mean()) for axis in np.nonzero(case.mask))
    rows, columns = np.indices(case.mask.shape)
    blob = (rows - y) ** 2 + (columns - x) ** 2 < 0.25 * case.mask.sum() / np.pi
    colour = (255 - case.result[y, x].astype(int)) // 128 * 255
    assert found(np.where(blob[..., None], colour, case.result).astype(np.uint8), case) == ["unexplained"]


def test_other_fruit_is_not_what_was_asked_for() -> None:
    case = draw_case_of("bowl", 0)
    for fruit in FRUIT.keys() - {case.new}:
        figures = figures_of(pixels(scene(case.seed, "bowl", swap={case.old: fruit})), case)
        assert "margin" in failings(figures)
        assert figures.rival == fruit


def test_a_figure_that_is_no_number_fails() -> None:
    case = draw_case_of("remove", 0)
    figures = figures_of(case.result, case)
    assert failings(replace(figures, unexplained=float("nan"))) == ["unexplained"]


def test_the_first_cases_keep_their_meaning() -> None:
    """Figures in the documentation are of these."""
    prompts = {number: (case.source, case.target) for number in (0, 2, 5, 38) if (case := draw_case(number))}
    assert prompts == {
        0: ("a house and a rabbit", "a ball and a rabbit"),
        2: ("a bowl of fruits", "a bowl of apples"),
        5: ("a house and a horse", "a sunflower and a horse"),
        38: ("a strawberry and a cake", "an apple and a cake"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_cases_of_a_kind_are_held_out_always_the_same_and_say_what_changes(kind: str) -> None:
    seeds = set()
    for number in range(6):
        case, again = draw_case_of(kind, number), draw_case_of(kind, number)
        assert (case.source, case.target) == (again.source, again.target)
        assert np.array_equal(case.picture, again.picture)
        assert np.array_equal(case.result, again.result)
        assert case.source != case.target
        named = [place for place in PLACES.values() if place.phrase in case.source]
        assert bool(named) == (kind == "place" or (kind in ("add", "remove") and number % 2 == 1))
        assert case.mask.any() == (kind not in ("place", "add"))
        assert case.new_mask.any() == (kind not in ("place", "remove"))
        beside = {"two": 1, "place": 1, "colour": int(number % BESIDE_EVERY == BESIDE_EVERY - 1)}
        assert len(case.kept) == beside.get(kind, 1 - number % 2 if kind in ("add", "remove") else 0)
        seeds.add(case.seed)
    first = (scenes.PRESENT if kind == "bowl" else WIDER).held_out + 4_000_000
    assert all(first <= seed < first + 1_000_000 for seed in seeds)
    assert len(seeds) == 6


@pytest.mark.parametrize("kind", [*EXCHANGES, "add", "remove"])
def test_the_background_is_the_picture_without_the_old_object_and_the_new(kind: str) -> None:
    case = draw_case_of(kind, 0)
    if case.old:
        assert (case.empty != case.picture)[case.mask].any(axis=1).mean() > 0.9
    if case.new:
        assert (case.empty != case.result)[case.new_mask].any(axis=1).mean() > 0.9
    around = np.ones(case.mask.shape, dtype=bool)
    for mask in (case.mask, case.new_mask):
        if mask.any():
            top, left, bottom, right = (max(0, round(side)) for side in strict.box_of(mask, 24))  # with its shadow
            around[top:bottom, left:right] = False
    assert not differing(case.empty, case.picture)[around].any()
    assert not differing(case.empty, case.result)[around].any()


def test_every_kind_of_case_has_limits() -> None:
    assert strict.AT_MOST.keys() == {"one", *KINDS}
