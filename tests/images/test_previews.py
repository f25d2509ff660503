"""What people look at before and after an edit: strips, overlays, contact sheets, animations, hints."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from checkout import SAMPLES
from PIL import Image, ImageSequence

from diffedit_cli import Params
from diffedit_cli.engine import mask_refinement
from diffedit_cli.images import codecs, previews
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import mask_stage

GAP, CAPTION = previews.GAP, previews.CAPTION


def plain(size: tuple[int, int], colour: object = "white", mode: str = "RGB") -> Picture:
    return codecs.from_image(Image.new(mode, size, colour), "cat.png")  # type: ignore[arg-type]


def box(size: tuple[int, int] = (60, 40)) -> np.ndarray:
    """A mask of rows 10 to 29 and columns 20 to 39."""
    pixels = np.zeros(size[::-1], dtype=bool)
    pixels[10:30, 20:40] = True
    return pixels


@pytest.mark.parametrize(
    ("size", "tile"),
    [((60, 40), (60, 40)), ((4000, 3000), (512, 384)), ((300, 1200), (128, 512)), ((4000, 2), (512, 1))],
)
def test_a_strip_has_a_tile_for_each_and_none_is_large(size: tuple[int, int], tile: tuple[int, int]) -> None:
    mask = Mask(np.ones(size[::-1], dtype=bool), {"clamp": 3.0}, contrast=np.ones((4, 6), dtype=np.float32))
    two = previews.preview(plain(size), Mask(mask.pixels))
    three, four = previews.preview(plain(size), mask), previews.preview(plain(size), mask, plain(size))
    across = two.width // 2 - GAP // 2  # a tile, or a label that is wider
    assert across >= tile[0] + GAP
    assert [strip.width - GAP for strip in (two, three, four)] == [2 * across, 3 * across, 4 * across]
    assert {strip.height for strip in (two, three, four)} == {tile[1] + 3 * GAP + CAPTION}
    assert previews.without_captions(four).height == tile[1] + 2 * GAP


def test_the_tiles_are_the_picture_the_contrast_the_mask_and_the_result() -> None:
    size = (200, 100)
    mask = Mask(box(size), {"clamp": 3.0}, contrast=np.zeros((4, 8), dtype=np.float32))
    strip = np.asarray(previews.preview(plain(size, "blue"), mask, plain(size, "lime")))
    tiles = [strip[GAP : GAP + 100, left : left + 200] for left in range(GAP, 4 * (200 + GAP), 200 + GAP)]
    assert (tiles[0] == (0, 0, 255)).all()
    assert (tiles[1] == previews.INFERNO[0]).all()
    assert (tiles[2] == np.asarray(previews.outline(Image.new("RGB", size, "blue"), mask.pixels))).all()
    assert (tiles[3] == (0, 255, 0)).all()


def test_what_is_transparent_is_shown_on_white() -> None:
    strip = np.asarray(previews.preview(plain((200, 100), (0, 0, 0, 0), "RGBA"), Mask(box((200, 100)))))
    assert (strip[GAP : GAP + 100, GAP : GAP + 200] == 255).all()


def test_the_outline_lies_on_the_border_white_in_a_dark_rim() -> None:
    mask = box()
    grey = np.asarray(previews.outline(Image.new("RGB", (60, 40), (128, 128, 128)), mask))
    white, dark = (grey == 255).all(axis=2), (grey == 0).all(axis=2)
    expected = np.zeros_like(mask)
    expected[9:31, 20:40] = expected[10:30, 19:41] = True  # a pixel to each side of the border ...
    expected[11:29, 21:39] = False
    assert (white == expected).all()
    assert set(np.flatnonzero(dark[20])) == {18, 21, 38, 41}  # ... and one more, dark
    assert not (white | dark)[15:25, 25:35].any()
    assert (grey[~white & ~dark] == 128).all()


def test_a_mask_of_everything_is_outlined_along_the_edge_and_an_empty_one_nowhere() -> None:
    whole = np.asarray(previews.outline(Image.new("RGB", (60, 40), "red"), np.ones((40, 60), dtype=bool)))
    assert (whole[0] == 255).all()
    assert (whole[20, 20] == (255, 0, 0)).all()
    none = np.asarray(previews.outline(Image.new("RGB", (60, 40), "red"), np.zeros((40, 60), dtype=bool)))
    assert (none == (255, 0, 0)).all()


def test_no_speck_of_a_large_mask_is_lost() -> None:
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[1000, 1000] = True
    assert previews.shrink(mask, (512, 384)).any()


def test_an_overlay_tints_only_inside_the_mask_and_keeps_the_size() -> None:
    shown = np.asarray(previews.overlay(plain((60, 40), (10, 200, 30)), Mask(box())))
    assert shown.shape == (40, 60, 3)
    around = previews.border(box(), 2)
    assert (shown[~box() & ~around] == (10, 200, 30)).all()
    tinted = (1 - previews.TINTED) * np.array((10, 200, 30)) + previews.TINTED * np.array(previews.TINT)
    assert np.abs(shown[box() & ~around] - tinted).max() <= 1
    assert (box() & ~around).sum() == 16 * 16
    assert previews.overlay(plain((3000, 2), "blue"), Mask(np.zeros((2, 3000), dtype=bool))).size == (3000, 2)


def test_an_overlay_of_a_grey_picture_is_in_colour() -> None:
    shown = previews.overlay(plain((60, 40), 128, "L"), Mask(box()))
    assert shown.mode == "RGB"
    assert shown.getpixel((30, 20))[0] > shown.getpixel((30, 20))[1]  # type: ignore[index]


def test_more_contrast_is_brighter() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    shown = np.asarray(previews.heat_map(ramp, (256, 1)).convert("L"), dtype=int)[0]
    assert (np.diff(shown) >= 0).all()
    assert shown[0] < 5
    assert shown[-1] > 230
    assert (np.diff(shown[::8]) > 0).all()


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_the_contrast_that_is_shown_is_what_the_threshold_sees(smooth: float) -> None:
    contrast = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    shown = previews.rescale(contrast.numpy(), 1.5, smooth)
    assert (shown.min() >= 0, shown.max() <= 1) == (True, True)
    mask = mask_refinement.mask(contrast, (16, 16), clamp=1.5, threshold=0.6, smooth=smooth)
    assert ((shown > 0.6) == mask.numpy()).all()
    assert (previews.rescale(np.zeros((4, 4), dtype=np.float32), 3.0) == 0).all()


@pytest.mark.parametrize(("count", "rows", "columns"), [(2, 1, 2), (3, 1, 3), (4, 2, 2), (5, 2, 3), (10, 3, 4)])
def test_a_sheet_has_a_cell_for_each(count: int, rows: int, columns: int) -> None:
    results = [plain((200, 100), (20 * number, 0, 0)) for number in range(count)]
    shown = np.asarray(previews.sheet(results, previews.seeds(7, count)))
    assert shown.shape == (rows * (100 + 2 * GAP + CAPTION) + GAP, columns * (200 + GAP) + GAP, 3)
    for number in range(count):
        left, top = GAP + number % columns * (200 + GAP), GAP + number // columns * (100 + 2 * GAP + CAPTION)
        assert (shown[top : top + 100, left : left + 200] == (20 * number, 0, 0)).all()
        assert (shown[top + 100 : top + 100 + GAP + CAPTION, left : left + 200] != previews.GROUND).any()
    assert previews.seeds(7, 2) == ["seed 7", "seed 8"]


def test_a_sheet_of_many_large_pictures_stays_within_bounds() -> None:
    assert max(previews.sheet([plain((2000, 1000), mode="L")] * 40, previews.seeds(0, 40)).size) < previews.SHEET + 200


@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_an_animation_holds_both_and_fades_between_for_ever(extension: str) -> None:
    painted = Image.new("RGB", (60, 40), "blue")
    painted.paste("red", (20, 10, 40, 30))
    picture, result = plain((60, 40), "blue"), codecs.from_image(painted)
    file = Image.open(io.BytesIO(previews.animation(picture, result, extension, {"tool": "diffedit"})))
    frames = [
        (np.asarray(frame.convert("RGB"), dtype=int), frame.info["duration"]) for frame in ImageSequence.Iterator(file)
    ]
    assert (file.size, file.info["loop"], len(frames)) == ((60, 40), 0, 2 + 2 * previews.FADES)
    middle = 1 + previews.FADES
    assert [number for number, (_, duration) in enumerate(frames) if duration == previews.HOLD] == [0, middle]
    assert {duration for number, (_, duration) in enumerate(frames) if number not in (0, middle)} == {previews.FADE}
    reds = [pixels[15:25, 25:35, 0].mean() for pixels, _ in frames]
    assert reds[: middle + 1] == sorted(reds[: middle + 1])
    assert reds[middle:] == sorted(reds[middle:], reverse=True)
    assert (reds[0] < 10, reds[middle] > 240) == (True, True)


def test_what_an_edit_leaves_alone_does_not_flicker_in_a_gif() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    after = np.where(box()[..., None], 255 - before, before)
    data = previews.animation(codecs.from_array(before), codecs.from_array(after), ".gif", {})
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]
    assert all((frame == frames[0])[~box()].all() for frame in frames)
    assert (frames[1 + previews.FADES] != frames[0])[box()].any()


def shown_in_gif(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames of both, as a viewer puts them together."""
    data = previews.animation(codecs.from_array(before), codecs.from_array(after), ".gif", {})
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]
    return frames[0], frames[1 + previews.FADES]


def off(shown: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """How far each pixel is from what it should be, in the primary that is farthest."""
    return np.abs(shown.astype(int) - colours.astype(int)).max(axis=-1)


EYE = (slice(120, 128), slice(120, 128))


@pytest.mark.parametrize("name", ["cat", "balloon-at-night", "duck-and-ball"])
def test_a_gif_keeps_the_colours_of_both(name: str) -> None:
    with Image.open(SAMPLES / f"{name}.png") as sample, Image.open(SAMPLES / "dog-on-beach.png") as other:
        before, after = (np.array(image.convert("RGB")) for image in (sample, other))
    after[:60] = before[:60]
    for shown, colours in zip(shown_in_gif(before, after), (before, after), strict=True):
        assert off(shown, colours).mean() < 4
        assert np.percentile(off(shown, colours), 99) <= 14


@pytest.mark.parametrize("colour", [(20, 200, 60), (255, 0, 255), (0, 0, 0), (255, 255, 255)])
def test_a_gif_keeps_the_colour_of_an_eye(colour: tuple[int, int, int]) -> None:
    with Image.open(SAMPLES / "balloon-at-night.png") as sample:
        plain = np.array(sample.convert("RGB"))
    eyed = plain.copy()
    eyed[EYE] = colour
    for before, after in ((plain, eyed), (eyed, plain)):
        for shown, colours in zip(shown_in_gif(before, after), (before, after), strict=True):
            assert off(shown[EYE], colours[EYE]).max() <= 8
            assert off(shown, colours).max() < 60


def test_a_gif_of_an_edit_that_changed_nothing_shows_the_picture() -> None:
    pixels = np.full((40, 60, 3), (200, 30, 90), dtype=np.uint8)
    data = previews.animation(codecs.from_array(pixels), codecs.from_array(pixels), ".gif", {})
    for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data))):
        assert np.array_equal(np.asarray(frame.convert("RGB")), pixels)


@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_an_animation_of_a_large_picture_is_small(extension: str) -> None:
    data = previews.animation(plain((3000, 1500)), plain((3000, 1500), "red"), extension, {})
    assert Image.open(io.BytesIO(data)).size == (1024, 512)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.0003, "The mask covers 0.03 % of cat.png; if that is too little, lower --threshold (0.5 now)."),
        (0.0049, "The mask covers 0.49 % of cat.png; if that is too little, lower --threshold (0.5 now)."),
        (0.005, None),
        (0.3, None),
        (0.6, None),
        (0.7412, "The mask covers 74 % of cat.png; if that is too much, raise --threshold (0.5 now), or limit it with "
         "--within."),
        (1.0, "The mask covers 100 % of cat.png; if that is too much, raise --threshold (0.5 now), or limit it with "
         "--within."),
    ],
)  # fmt: skip
def test_a_hint_where_a_mask_is_tiny_or_huge(share: float, says: str | None) -> None:
    pixels = np.zeros(10000, dtype=bool)
    pixels[: round(10000 * share)] = True
    assert mask_stage.hint(Mask(pixels.reshape(100, 100)), plain((100, 100)), Params()) == says
