"""What is done to a mask beyond the paper: on made maps, by scikit-image as an oracle, and by the command line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import SAMPLES
from command import FAST, WORDS, diffedit
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from diffedit_cli import DiffEdit
from diffedit_cli.engine.diffedit import binarise
from diffedit_cli.engine.mask_refinement import mask, otsu, outline, without_holes
from diffedit_cli.engine.region import widen

CAT = SAMPLES / "cat.png"


def square(side: int = 16) -> Tensor:
    """A place that differs strongly, on a ground that does a little."""
    contrast = torch.full((side, side), 0.1)
    contrast[4:12, 4:12] = 1.0
    return contrast


def test_by_default_it_is_the_papers() -> None:
    contrast = torch.rand((16, 16), generator=torch.Generator().manual_seed(0)) ** 3
    assert torch.equal(mask(contrast, (64, 48), clamp=2.0, threshold=0.4), binarise(contrast, 2.0, 0.4, (64, 48)))


@pytest.mark.parametrize("seed", range(5))
def test_its_own_threshold_is_otsus(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    contrast = square() + 0.3 * torch.rand((16, 16), generator=draws)
    scaled = (contrast / (3 * contrast.mean())).clamp(max=1)
    ours, theirs = otsu(contrast, 3.0), float(threshold_otsu(scaled.numpy()))
    assert torch.equal(scaled > ours, scaled > theirs)
    assert torch.equal(mask(contrast, (16, 16), threshold=None), scaled > ours)


def test_no_contrast_stays_an_empty_mask() -> None:
    assert not mask(torch.zeros(8, 8), (32, 32), threshold=None, fill_holes=True, islands=0.5, grow=1.0).any()


def test_blurring_takes_specks_and_keeps_regions() -> None:
    contrast = square()
    contrast[1, 14] = 1.0
    assert mask(contrast, (16, 16))[1, 14]
    M = mask(contrast, (16, 16), smooth=1.0)
    assert not M[:, 13:].any()
    assert M[6:10, 6:10].all()


def test_holes_are_filled() -> None:
    contrast = square()
    contrast[7:9, 7:9] = 0.0
    M, filled = mask(contrast, (64, 64)), mask(contrast, (64, 64), fill_holes=True)
    assert not M[32, 32]
    assert filled[32, 32]
    assert not filled[0].any()
    assert filled.sum() > M.sum()


def holes(M: Tensor) -> int:
    """Pixels of ground that a mask encloses."""
    return int((ndimage.binary_fill_holes(M.numpy()) & ~M.numpy()).sum())


def test_holes_that_the_growth_closes_are_filled_too() -> None:
    contrast = square()
    contrast[6:10, 6:10] = contrast[8:12, 7:9] = 0.0  # open below, by two cells
    kept = mask(contrast, (64, 64), grow=1.2)
    assert not mask(contrast, (64, 64), fill_holes=True)[32, 32]
    assert holes(kept)
    M = mask(contrast, (64, 64), grow=1.2, fill_holes=True)
    assert M[32, 32]
    assert not holes(M)


@pytest.mark.parametrize(("channel", "full"), [(0, True), (3, True), (9, False)])
def test_a_hole_may_be_open_by_a_little(channel: int, full: bool) -> None:
    M = np.zeros((64, 64), dtype=bool)
    M[10:50, 10:50] = True
    M[20:40, 20:40] = M[40:50, 30 : 30 + channel] = False
    found = without_holes(M, 4.0)
    assert found[30, 30] == full
    assert (found >= M).all()
    assert not found[:10].any()


def test_ground_at_the_border_of_the_picture_is_no_hole() -> None:
    M = np.zeros((64, 64), dtype=bool)
    M[40:, 10:50] = True
    M[50:, 20:40] = False
    assert not without_holes(M, 4.0)[60, 30]
    assert without_holes(~np.zeros_like(M), 4.0).all()
    assert not without_holes(np.zeros_like(M), 4.0).any()


def test_the_samples_cat_has_no_hole_left() -> None:
    edit = DiffEdit()
    told = {"from_": "cat", "to": "dog"}
    before, after = (torch.from_numpy(edit.mask(CAT, **told, fill_holes=fill).pixels) for fill in (False, True))
    assert holes(before)
    assert not holes(after)
    assert (after & ~before).sum() >= holes(before)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 3), (0.05, 2), (0.9, 1), (1.0, 1)])
def test_islands_are_left_out_by_size(share: float, kept: int) -> None:
    contrast = torch.zeros(16, 16)
    contrast[2:10, 2:10] = contrast[12:15, 2:5] = contrast[14, 14] = 1.0
    M = mask(contrast, (16, 16), islands=share)
    assert [bool(M[at]) for at in ((5, 5), (13, 3), (14, 14))] == [True, kept > 1, kept > 2]


def disc(size: int = 256) -> Tensor:
    """A disc, (size, size) bool, that no grid of cells fits."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (x - 0.47 * size) ** 2 + (y - 0.55 * size) ** 2 < (0.21 * size) ** 2


def coarse(M: Tensor, cells: int = 32) -> Tensor:
    """What a network may see of it: a smooth bump on the grid of the latents, over a faint ground."""
    seen = functional.adaptive_avg_pool2d(M.float()[None], cells)
    return 0.05 + functional.avg_pool2d(functional.pad(seen, (2, 2, 2, 2)), 5, 1)[0]


def painted(M: Tensor) -> Tensor:
    """Red on a green that gets lighter, with some grain: (3, size, size) in [-1, 1]."""
    ground = torch.tensor([-0.5, 0.4, -0.3])[:, None, None] + torch.linspace(-0.3, 0.3, len(M))[:, None]
    colours = torch.where(M, torch.tensor([0.8, -0.4, -0.4])[:, None, None], ground)
    return colours + 0.03 * torch.randn(colours.shape, generator=torch.Generator().manual_seed(0))


def overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("cells", [3.0, 4.0])
def test_the_outline_follows_the_pictures_edges(cells: float) -> None:
    M = disc()
    before = mask(coarse(M), (256, 256))
    after = mask(coarse(M), (256, 256), edges=cells, guide=painted(M))
    assert overlap(before, M) < 0.85
    assert overlap(after, M) > 0.95
    twice = mask(coarse(M), (512, 512), edges=cells, guide=painted(M))
    assert overlap(twice, disc(512)) > 0.95


def tailed(size: int = 256) -> tuple[Tensor, Tensor]:
    """The disc with a tail that is half a cell wide, and the tail."""
    tail = torch.zeros(size, size, dtype=torch.bool)
    tail[138:142, 170:245] = True
    return disc(size) | tail, tail & ~disc(size)


def test_a_thin_part_in_the_objects_colours_is_taken_in() -> None:
    M, tail = tailed()
    given = {"edges": 4.0, "guide": painted(M)}
    before, after, lower = (
        mask(coarse(M), (256, 256), **given, **told) for told in ({}, {"reach_down": 0.7}, {"threshold": 0.15})
    )
    assert (before & tail).sum() < 0.6 * tail.sum()
    assert (after & tail).sum() > 0.95 * tail.sum()
    assert overlap(after, M) > 0.95
    assert overlap(after, M) > overlap(lower, M) + 0.1
    assert (before & ~after).sum() == 0
    twice = mask(coarse(M), (512, 512), **given, reach_down=0.7)
    assert overlap(twice, tailed(512)[0]) > 0.93


def test_a_colour_that_the_ground_has_too_takes_nothing_in() -> None:
    M, _ = tailed()
    for guide in (painted(torch.zeros_like(M)), torch.zeros(3, 256, 256)):
        given = {"edges": 4.0, "guide": guide}
        before, after = (mask(coarse(M), (256, 256), **given, reach_down=down) for down in (0.0, 0.7))
        assert (after & ~before).sum() <= 0.02 * before.sum()


def test_without_a_picture_nothing_is_reached() -> None:
    M, _ = tailed()
    assert torch.equal(mask(coarse(M), (64, 64), reach_down=0.7), mask(coarse(M), (64, 64)))
    flat = mask(torch.ones(8, 8), (64, 64), clamp=1.0, reach_down=0.7, guide=torch.zeros(3, 64, 64))
    assert flat.all()
    assert not mask(torch.zeros(8, 8), (64, 64), reach_down=0.7, guide=torch.zeros(3, 64, 64)).any()


THRESHOLDS = [rung / 20 for rung in range(10, 20)]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "told",
    [
        {"edges": 4.0},
        {"islands": 0.3},
        {"edges": 4.0, "reach_down": 0.7, "fill_holes": True, "grow": 0.4},
        {"reach_down": 0.7, "fill_holes": True, "grow": 0.4, "islands": 0.3, "smooth": 0.5},
        {"edges": 4.0, "reach_down": 0.7, "fill_holes": True, "islands": 0.3, "soft": True},
    ],
)
@pytest.mark.parametrize("shown", ["disc", "speck", "patch", "split", "patches"])
def test_a_higher_threshold_never_adds_a_pixel(shown: str, told: dict[str, object]) -> None:
    draws = torch.Generator().manual_seed(1)
    M, _ = tailed()
    contrast = torch.full((32, 32), 0.2)
    if shown == "disc":
        contrast = coarse(M) * torch.rand((32, 32), generator=draws).sqrt()
    elif shown == "patches":
        contrast = functional.avg_pool2d(torch.rand((1, 36, 36), generator=draws) ** 4, 5, 1)[0]
    elif shown == "split":  # into two, each small enough for the third to count beside it
        contrast[4:16, 4:28] = contrast[22:28, 4:16] = 1.0
        contrast[4:16, 15:17] = 0.7
    else:  # that drowns in its window, all or a part of it
        contrast[12:16, 12:16] = 1.0
        contrast[14:16] = contrast[14:16].clamp(max=1.0 if shown == "patch" else 0.2)
    told = {"clamp": float(contrast.max() / contrast.mean()), "guide": painted(M), **told}
    masks = [mask(contrast, (192, 320), threshold=level, **told) > 0 for level in THRESHOLDS]
    assert masks[0].any()
    for lower, higher in pairwise(masks):
        assert not (higher & ~lower).any()


def test_without_edges_the_picture_does_not_count() -> None:
    M = disc()
    assert torch.equal(mask(coarse(M), (64, 64), edges=0.0, guide=painted(M)), mask(coarse(M), (64, 64)))


def test_what_would_drown_in_its_window_keeps_the_outline_it_had() -> None:
    contrast = torch.full((32, 32), 0.2)
    contrast[16, 16] = 1.0
    plain = torch.zeros(3, 256, 256)
    assert mask(contrast, (256, 256)).any()
    assert torch.equal(mask(contrast, (256, 256), edges=3.0, guide=plain), mask(contrast, (256, 256)))


@pytest.mark.parametrize("grid", [(1, 1), (1, 40), (2, 3), (40, 1)])
def test_the_smallest_and_the_longest_pictures_have_edges_too(grid: tuple[int, int]) -> None:
    contrast = torch.rand(grid, generator=torch.Generator().manual_seed(0))
    guide = torch.rand((3, 8 * grid[0], 8 * grid[1]), generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert mask(contrast, (30, 20), clamp=1.0, edges=3.0, guide=guide).shape == (30, 20)


@pytest.mark.parametrize("cells", [0.5, 1.0, 2.0])
def test_it_grows_by_cells_of_the_latents(cells: float) -> None:
    M, grown = mask(square(), (128, 128)), mask(square(), (128, 128), grow=cells)
    rows, wider = (one.any(dim=1).nonzero() for one in (M, grown))
    assert rows.min() - wider.min() == wider.max() - rows.max() == cells * 8
    assert (M & ~grown).sum() == 0


def share(*words: object) -> float:
    ran = diffedit("mask", "cat.png", *WORDS, *FAST, "--json", *words)
    assert ran.code == 0, ran.err
    area: float = ran.json["mask_area"]
    assert area == (np.asarray(Image.open("cat.mask.png")) > 0).mean()
    return area


@pytest.mark.usefixtures("sample_here")
def test_each_option_changes_the_mask_and_costs_no_evaluation() -> None:
    plain = share()
    for words in ("--threshold auto", "--smooth 2", "--grow 1", "--fill-holes --islands 0.3 --grow 0.5"):
        assert share(*words.split()) != plain, words
    ran = diffedit("mask", "cat.png", *WORDS, *FAST, "--json", "--grow", 2)
    assert ran.json["evaluations"]["mask"] == 0


@pytest.mark.usefixtures("sample_here")
def test_info_repeats_them() -> None:
    words = ("--threshold", "auto", "--smooth", "0.5", "--fill-holes", "--islands", "0.1", "--grow", "1.0")
    share(*words)
    before = Path("cat.mask.png").read_bytes()
    told = diffedit("info", "cat.mask.png").out.decode()
    assert "--threshold auto" in told
    (command,) = [line for line in told.splitlines() if line.strip().startswith("diffedit mask")]
    again = command.split()[1:]
    again[again.index("PICTURE")] = "cat.png"
    assert diffedit(*again).code == 0
    assert Path("cat.mask.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--threshold often", "neither a number nor auto"),
        ("--maps 2.5", "neither a whole number nor auto"),
        ("--threshold 1.5", "or auto"),
        ("--smooth -1", "--smooth"),
        ("--grow 99", "--grow"),
        ("--islands 2", "--islands"),
    ],
)
@pytest.mark.usefixtures("sample_here")
def test_what_is_out_of_range_is_said(words: str, says: str) -> None:
    ran = diffedit("mask", "cat.png", *WORDS, *words.split())
    assert ran.code == 2
    assert says in ran.err


def test_an_outline_is_where_the_probability_is_high_enough() -> None:
    probabilities = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.3, 0.4, 0.9, 1.0]])
    found = outline(probabilities, (2, 4), 0.3, grow=0, soft=False)
    assert torch.equal(found, probabilities >= 0.3)
    soft = outline(probabilities, (2, 4), 0.4, grow=0, soft=True)
    torch.testing.assert_close(soft, torch.tensor([[0.0, 0.0, 0.0, 0.5], [0.5, 1.0, 1.0, 1.0]]))
    wide = outline(probabilities, (2, 4), 0.95, grow=1, soft=False)
    assert wide.tolist() == [[False, False, False, True], [False, False, True, True]]
    graded = outline(probabilities, (2, 4), 0.4, grow=1, soft=True)
    assert torch.equal(graded > 0, torch.from_numpy(widen((soft > 0).numpy(), 1)))
    assert torch.equal(graded[soft > 0], soft[soft > 0])
    large = outline(probabilities, (20, 40), 0.5, grow=0, soft=False)
    assert large.shape == (20, 40)
    assert large[-1, -1]
    assert not large[0, 0]
