"""What is done to a mask beyond the paper: on made maps, by scikit-image as an oracle, and by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command import FAST, WORDS, diffedit
from PIL import Image
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from diffedit_cli.engine.diffedit import binarise
from diffedit_cli.engine.refine import mask, otsu

CAT = Path(__file__).parent.parent / "sample_images" / "cat.png"


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
