"""Crop-and-zoom: where it looks closer, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import FAST, WORDS, diffedit
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.errors import UsageError
from diffedit_cli.images.codecs import from_image
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture
from diffedit_cli.models import registry
from diffedit_cli.pipeline import zoom
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.mask_proposal import MaskProposal
from diffedit_cli.pipeline.mask_stage import MaskStage
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats

NATIVE = 64
PARAMS = Params(from_="cat", to="dog", steps=5, maps=2, threshold=0.3)


def masked(size: tuple[int, int], *boxes: Box) -> NDArray[np.bool_]:
    """A mask (H, W) for a size (width, height), true in some boxes."""
    M = np.zeros(size[::-1], dtype=bool)
    for left, top, right, bottom in boxes:
        M[top:bottom, left:right] = True
    return M


def picture(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ((500, 400, 600, 480), (475, 365, 625, 515)),  # half again as large, a square
        ((500, 400, 510, 410), (473, 373, 537, 437)),  # never less than the model sees
        ((0, 0, 100, 100), (0, 0, 150, 150)),  # moved into the picture
        ((900, 700, 1000, 800), (850, 650, 1000, 800)),
    ],
)
def test_a_region_has_room_around_it(region: Box, expected: Box) -> None:
    assert zoom.boxes(masked((1000, 800), region), None, NATIVE) == [expected]


@pytest.mark.parametrize(
    ("size", "region", "factor"),
    [
        ((1000, 800), (0, 0, 500, 100), None),  # too large to gain by it
        ((90, 90), (40, 40, 50, 50), None),  # the picture is hardly larger than the model's
        ((1000, 800), (500, 400, 600, 480), 1.0),
        ((1000, 800), (0, 0, 0, 0), None),  # nothing is masked
    ],
)
def test_it_stays_away_where_nothing_is_gained(size: tuple[int, int], region: Box, factor: float | None) -> None:
    assert zoom.boxes(masked(size, region), factor, NATIVE) == []


def test_a_factor_says_how_close() -> None:
    M = masked((1000, 800), (500, 400, 600, 480))
    assert zoom.boxes(M, 4.0, NATIVE) == [(425, 340, 675, 540)]
    assert zoom.boxes(M, 40.0, NATIVE) == [(500, 390, 600, 490)]  # but it holds the region


def test_regions_apart_are_looked_at_one_by_one_and_neighbours_together() -> None:
    far = masked((2000, 1000), (100, 100, 200, 200), (1500, 700, 1600, 800))
    assert zoom.boxes(far, None, NATIVE) == [(75, 75, 225, 225), (1475, 675, 1625, 825)]
    near = masked((2000, 1000), (100, 100, 200, 200), (230, 100, 330, 200))
    assert zoom.boxes(near, None, NATIVE) == [(75, 75, 355, 225)]


def test_there_are_never_many_parts_and_they_hold_all_of_the_mask() -> None:
    corners = [(x, y, x + 20, y + 20) for x in (0, 900, 1900, 2900) for y in (0, 900, 1900, 2900)]
    M = masked((4000, 4000), *corners)
    found = zoom.boxes(M, 20.0, NATIVE)
    assert 1 <= len(found) <= zoom.MOST_PARTS
    left = M.copy()
    for box in found:
        zoom.inside(left, box)[:] = False
    assert not left.any()


def test_dust_is_no_place_to_look_closer_at() -> None:
    M = np.zeros((1000, 1000), dtype=bool)
    M[::50, ::50] = True
    assert zoom.boxes(M, None, NATIVE) == []


def test_specks_are_not_sought_again() -> None:
    M = masked((2000, 1000), (100, 100, 200, 200), (1500, 700, 1510, 710))
    assert len(zoom.boxes(M, None, NATIVE)) == 2
    assert zoom.boxes(M, None, NATIVE, specks=False) == [(75, 75, 225, 225)]


def test_what_is_found_closer_counts_only_near_what_was_found_before() -> None:
    M, box = np.uint8(255) * masked((320, 320), (100, 100, 140, 140)), (60, 60, 220, 220)
    closer = np.uint8(90) * masked((160, 160), (30, 40, 70, 60), (120, 120, 150, 150))
    result = zoom.sharpen(M, M, {box: (closer, closer)})
    assert np.array_equal(result, np.uint8(90) * masked((320, 320), (90, 100, 130, 120)))
    nothing = np.zeros((160, 160), dtype=np.uint8)
    assert np.array_equal(zoom.sharpen(M, M, {box: (nothing, nothing)}), M)
    higher = np.uint8(90) * masked((320, 320), (100, 100, 110, 110))  # what is near is decided at the usual threshold
    assert np.array_equal(zoom.sharpen(higher, M, {box: (closer, closer)}), result)
    assert not zoom.sharpen(higher, M, {box: (nothing, closer)}).any()


@pytest.fixture
def pipeline(tiny_epsilon: Path) -> EditPipeline:
    return EditPipeline(registry.find(str(tiny_epsilon)), None, device="cpu")


def test_each_part_is_inverted_and_painted_alone_and_nothing_else_changes(pipeline: EditPipeline) -> None:
    given = from_image(picture((400, 300)))
    M = masked((400, 300), (20, 20, 60, 60), (300, 200, 330, 230))
    stats = EditStats()
    (edited,) = pipeline.edit(given, PARAMS, stats, Mask(M), None)
    assert [part.box for part in edited.painted] == [(8, 8, 72, 72), (283, 183, 347, 247)]
    assert stats.evaluations == {"mask": 0, "invert": 2 * 2, "edit": 2 * 6}
    before, after = np.asarray(given.image), np.asarray(edited.image)
    assert np.array_equal(after[~M], before[~M])
    assert (after[M] != before[M]).any(axis=1).mean() > 0.9
    assert edited.latents is None


def test_a_part_is_painted_as_if_it_were_the_picture(pipeline: EditPipeline) -> None:
    whole = from_image(picture((400, 300)))
    M, box = masked((400, 300), (20, 20, 60, 60)), (8, 8, 72, 72)
    (edited,) = pipeline.edit(whole, PARAMS, EditStats(), Mask(M), None)
    (alone,) = pipeline.edit(whole.crop(box), PARAMS, EditStats(), Mask(zoom.inside(M, box)), None)
    assert np.array_equal(np.asarray(edited.image.crop(box)), np.asarray(alone.image))


def test_the_mask_of_a_large_picture_is_sought_again_closer(
    pipeline: EditPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def found(_: MaskStage, picture: Picture, *__: object) -> MaskProposal:
        size = picture.size
        sizes.append(size)
        quarter = tuple(side // 8 for side in size)
        middle = tuple(side // 2 for side in size)
        shown = np.uint8(255) * masked(size, (*middle, middle[0] + quarter[0], middle[1] + quarter[1]))
        return MaskProposal(shown, shown, np.zeros((16, 16), dtype=np.float32))

    monkeypatch.setattr(MaskStage, "_seek_at_once", found)
    mask = pipeline.mask(from_image(picture((800, 800))), PARAMS, EditStats())
    assert sizes == [(800, 800), (150, 150), (64, 64)]  # ever closer, down to the pixels that the model sees
    assert mask.share == pytest.approx(8 * 8 / 800**2)
    sizes.clear()
    pipeline.mask(from_image(picture((800, 800))), Params(from_="cat", to="dog", zoom=4), EditStats())
    assert sizes == [(800, 800), (200, 200)]  # as asked, once


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture((400, 300)).save("large.png")
    Image.fromarray(np.uint8(masked((400, 300), (20, 20, 60, 60))) * 255).save("drawn.png")
    return tmp_path


def test_the_command_says_what_it_did_and_repeats_it(large: Path, tiny_epsilon: Path) -> None:
    shared = ("--mask", "drawn.png", *WORDS, *FAST, "--model", tiny_epsilon)

    def made(words: str, name: str) -> bytes:
        assert diffedit("edit", "large.png", *shared, *words.split(), "-o", name).code == 0
        return (large / name).read_bytes()

    auto, off, three = made("", "a.png"), made("--zoom off", "b.png"), made("--zoom 3", "d.png")
    assert off == made("--zoom 1", "c.png")
    assert len({auto, off, three}) == 3
    assert "--zoom" not in diffedit("info", "a.png").out.decode()
    assert "--zoom 1.0" in diffedit("info", "b.png").out.decode()
    assert "--zoom 3.0" in diffedit("info", "d.png").out.decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--zoom 0.5", "--zoom must be at least 1"),
        ("--zoom inf", "--zoom must be at least 1"),
        ("--zoom near", "is neither a number nor auto"),
        ("--zoom 3 --frames frames", "leave out --zoom"),
        ("--zoom 3 --latents large.latents.safetensors", "leave out one of them"),
    ],
)
def test_a_zoom_that_cannot_be(large: Path, tiny_epsilon: Path, words: str, said: str) -> None:
    assert diffedit("invert", "large.png", "--caption", "cat", *FAST[:2], "--model", tiny_epsilon).code == 0
    ran = diffedit("edit", "large.png", *WORDS, "--steps", "5", *words.split(), "--model", tiny_epsilon)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert not (large / "large.edited.png").exists()


def test_python_takes_it_too() -> None:
    with pytest.raises(UsageError, match="--zoom"):
        Params(zoom="near")
