"""The figures of piebench equal an independent computation; what they mean at the edges of a mask."""

from __future__ import annotations

from pathlib import Path

import figures_by_hand as by_hand
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from tiny_backbones import CLIP_HEADS, DINO_HEADS, write_clip, write_dino, write_squeezenet
from transformers import CLIPTokenizer

pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from benchmarks.piebench.backbones import Backbone, ClipScore, Lpips, Structure, find, lpips_heads, small_size
from benchmarks.piebench.cases import decoded, overlap, ringed
from benchmarks.piebench.figures import FIGURES, Compared, aligned, measure

PROMPT = "a dog on grass"
Photographs = tuple[NDArray[np.uint8], NDArray[np.uint8]]
STARTS = [112 * row + 30 for row in range(20, 50)]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    write_dino(folder / "dino")
    write_clip(folder / "clip")
    write_squeezenet(folder / "squeezenet.pth")
    return folder


@pytest.fixture(scope="session")
def backbones(files: Path) -> dict[str, Backbone]:
    return {
        "dino": Structure(str(files / "dino"), "cpu", False),
        "squeezenet": Lpips(str(files / "squeezenet.pth"), "cpu", False),
        "clip": ClipScore(str(files / "clip"), "cpu", False),
    }


def weights(file: Path) -> by_hand.Weights:
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


@pytest.fixture(scope="session")
def photographs() -> Photographs:
    """A photograph (96, 112, 3), and the same with a patch and noise everywhere."""
    source = np.array(Image.fromarray(data.astronaut()).resize((112, 96), Image.Resampling.LANCZOS))
    noise = np.random.default_rng(0).normal(0, 12, source.shape)
    made = np.clip(source + noise, 0, 255).astype(np.uint8)
    made[30:60, 40:80] = data.coffee()[100:130, 200:240]
    return source, made


def compared(photographs: Photographs, runs: list[int]) -> Compared:
    return Compared(*photographs, decoded(runs, photographs[0].shape[:2]), PROMPT)


EDGES = {
    "some": [number for start in STARTS for number in (start, 40)],
    "empty": [],
    "past the end": [96 * 112 - 500, 9000, 96 * 112, 3, 20000, 1],
    "nearly whole": [0, 96 * 112 - 300],
}


@pytest.mark.parametrize("runs", EDGES.values(), ids=EDGES)
def test_figures_of_the_background_are_those_computed_by_hand(
    runs: list[int],
    photographs: Photographs,
    backbones: dict[str, Backbone],
    files: Path,
) -> None:
    asked = compared(photographs, runs)
    mask = by_hand.mask_by_hand(runs, *photographs[0].shape[:2])
    one, other = (by_hand.outside(picture, mask) for picture in photographs)
    heads = weights(lpips_heads())
    expected = {
        "psnr": by_hand.psnr(one, other),
        "mse": by_hand.mse(one, other),
        "ssim": by_hand.ssim(one, other),
        "lpips": by_hand.lpips(one, other, weights(files / "squeezenet.pth"), heads),
    }
    for name, value in expected.items():
        found = measure(asked, name, backbones.get(FIGURES[name].backbone))
        assert found is not None
        assert abs(found - value) < min(1e-4, abs(value) / 1e3), name


@pytest.mark.thorough
def test_structure_is_that_computed_by_hand(
    photographs: Photographs, backbones: dict[str, Backbone], files: Path
) -> None:
    """Squares only: DINO's own code and transformers interpolate positions of other shapes in different ways."""
    square = tuple(picture[:96, :96] for picture in photographs)
    expected = by_hand.structure(*square, weights(files / "dino" / "model.safetensors"), DINO_HEADS)
    assert expected > 1e-3
    assert abs(backbones["dino"](*square) - expected) < min(1e-4, expected / 1e3)
    assert backbones["dino"](square[0], square[0]) == 0


@pytest.mark.parametrize("runs", EDGES.values(), ids=EDGES)
def test_clip_scores_are_those_computed_by_hand(
    runs: list[int],
    photographs: Photographs,
    backbones: dict[str, Backbone],
    files: Path,
) -> None:
    asked = compared(photographs, runs)
    tokens = CLIPTokenizer.from_pretrained(files / "clip")(PROMPT)["input_ids"]
    mask = by_hand.mask_by_hand(runs, *photographs[0].shape[:2])
    shown = {"clip_whole": photographs[1], "clip_edited": np.uint8(photographs[1] * mask[..., None])}
    for name, picture in shown.items():
        expected = by_hand.clip_score(picture, tokens, weights(files / "clip" / "model.safetensors"), CLIP_HEADS)
        assert expected > 1
        assert measure(asked, name, backbones["clip"]) == pytest.approx(expected, abs=1e-4), name


def test_a_mask_of_the_whole_picture_has_no_background(
    photographs: Photographs, backbones: dict[str, Backbone]
) -> None:
    asked = compared(photographs, [0, 96 * 112])
    background = {name for name, figure in FIGURES.items() if figure.backbone not in ("dino", "clip")}
    assert background == {"psnr", "mse", "ssim", "lpips"}
    assert all(measure(asked, name, backbones.get(FIGURES[name].backbone)) is None for name in background)
    assert measure(asked, "clip_whole", backbones["clip"]) == measure(asked, "clip_edited", backbones["clip"])


def test_without_a_mask_only_the_whole_picture_has_figures(
    photographs: Photographs, backbones: dict[str, Backbone]
) -> None:
    asked = Compared(*photographs, None, PROMPT)
    found = {name: measure(asked, name, backbones.get(figure.backbone)) for name, figure in FIGURES.items()}
    assert {name for name, value in found.items() if value is not None} == {"structure", "clip_whole"}
    assert measure(Compared(*photographs, None, ""), "clip_whole", backbones["clip"]) is None


def test_an_unchanged_background_has_an_infinite_psnr(photographs: Photographs) -> None:
    source, _ = photographs
    made = source.copy()
    made[30:60, 40:80] = 0
    mask = np.zeros(source.shape[:2], dtype=bool)
    mask[30:60, 40:80] = True
    asked = Compared(source, made, mask, PROMPT)
    assert measure(asked, "psnr", None) == float("inf")
    assert measure(asked, "mse", None) == 0
    assert measure(asked, "ssim", None) == pytest.approx(1, abs=1e-6)


def test_masks_are_lists_of_runs() -> None:
    assert decoded([0, 2, 5, 1], (2, 4)).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert decoded([6, 9], (2, 4)).sum() == 2
    assert not decoded([8, 1, 99, 3], (2, 4)).any()
    assert decoded([0, 262144], (512, 512)).all()
    ring = ringed(decoded([], (4, 5)))
    assert ring.sum() == 14
    assert not ring[1:3, 1:4].any()
    assert overlap(ring, ring) == 1
    assert overlap(ring, ~ring) == 0
    assert overlap(decoded([], (2, 2)), decoded([], (2, 2))) is None


def test_results_are_brought_to_the_size_of_their_source() -> None:
    sheet = np.zeros((8, 32, 3), dtype=np.uint8)
    sheet[:, 24:] = 200
    cut, scaled = aligned(Image.fromarray(sheet), (8, 8))
    assert (cut == 200).all()
    assert not scaled
    same, scaled = aligned(Image.fromarray(sheet), (8, 32))
    assert (same == sheet).all()
    assert not scaled
    large, scaled = aligned(Image.fromarray(sheet).resize((64, 64)), (8, 8))
    assert large.shape == (8, 8, 3)
    assert scaled


@pytest.mark.parametrize(
    ("size", "seen"), [((512, 512), (224, 224)), ((300, 400), (224, 298)), ((900, 300), (480, 160))]
)
def test_dino_sees_the_sizes_that_torchvision_would_make(size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert small_size(*size) == seen


@pytest.mark.parametrize("kind", [Structure, Lpips, ClipScore])
@pytest.mark.parametrize("name", ["missing/model", "https://download.invalid/none.pth"])
def test_a_backbone_that_is_not_here_is_left_out_with_a_reason(kind: type[Backbone], name: str) -> None:
    said = find(kind, name, "cpu", "--it", download=False)
    assert isinstance(said, str)
    assert said == f"{name} is not on this machine; name another with --it, or allow the download with --download."


def test_a_backbone_that_cannot_be_used_is_left_out_with_a_reason(files: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    named = (Lpips, tmp_path / "damaged.pth"), (Lpips, tmp_path / "damaged.safetensors"), (Structure, tmp_path)
    for kind, name in (*named, (ClipScore, files / "dino")):
        said = find(kind, str(name), "cpu", "--it", download=False)
        assert isinstance(said, str)
        assert said.startswith(f"{name} cannot be used (")
