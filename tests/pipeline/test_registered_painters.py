"""Painters that move the picture: what they return is put back into register before it is composed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from command import diffedit, settled
from PIL import Image
from scipy import ndimage
from tiny_painters import write_kontext

from diffedit_cli.engine.registration import Motion, undo
from diffedit_cli.images import codecs
from diffedit_cli.images.masks import Mask
from diffedit_cli.models import registry
from diffedit_cli.models.devices import choose_device
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.params import Params


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photograph, a drawn mask, and a model of which only the settings are read."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    Image.fromarray(skimage.data.astronaut()).save("photo.png")
    drawn = Image.new("L", (512, 512))
    drawn.paste(255, (160, 96, 320, 240))
    drawn.save("drawn.png")
    write_kontext(tmp_path / "kontext")
    return tmp_path


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@dataclass
class Mover:
    """A painter that returns the picture moved, red where the mask was."""

    motion: Motion
    native_size: int = 512
    multiple: int = 8
    factor: int = 8
    evaluations: int = 0

    def paint(self, picture: torch.Tensor, M: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        cells = M.repeat_interleave(self.factor, 0).repeat_interleave(self.factor, 1)
        edited = torch.where(cells > 0, torch.tensor(RED)[None, :, None, None], picture)
        undone = Motion(-self.motion.dx / self.motion.scale, -self.motion.dy / self.motion.scale, 1 / self.motion.scale)
        return torch.from_numpy(undo(edited[0].permute(1, 2, 0).numpy(), undone)).permute(2, 0, 1)[None]


RED = (1.0, -1.0, -1.0)


@pytest.mark.parametrize("motion", [Motion(3.5, -2, 1), Motion(0, 0, 1.01), Motion(3.5, -2, 1.01), Motion(0, 0, 1)])
def test_a_painter_that_moves_the_picture_is_put_back_into_register(
    here: Path, monkeypatch: pytest.MonkeyPatch, motion: Motion
) -> None:
    monkeypatch.setattr(InpaintingStage, "_loaded", lambda _: Mover(motion))
    words = (
        "edit",
        "photo.png",
        "--mask",
        "drawn.png",
        "--to",
        "dog",
        "--painter",
        "kontext",
        "--zoom",
        1,
        "--feather",
        0,
        "--seam",
        "feather",  # which leaves the painted colours as they are
    )
    ran = diffedit(*words, "--json")
    assert ran.code == 0, ran.err
    changed = pixels("photo.edited.png")
    inside = pixels("drawn.png")[..., 0] > 0
    assert (changed[~inside] == pixels("photo.png")[~inside]).all()
    inner = ndimage.binary_erosion(inside, iterations=2)  # within 2 px of the rim, which a moved box would not reach
    assert np.abs(changed[inner] - (255, 0, 0)).max() < 16
    record = diffedit("info", "photo.edited.png", "--json").json["edit"]
    if motion == Motion(0, 0, 1):
        assert "registered" not in record
        assert not [one for one in ran.warnings if "moved the picture" in one]
    else:
        assert record["registered"] == pytest.approx([motion.dx, motion.dy, motion.scale], abs=0.05)
        assert [one for one in ran.warnings if "moved the picture by" in one and "this was undone" in one]
    first = (here / "photo.edited.png").read_bytes()
    assert diffedit(*words, "--force").code == 0
    assert (here / "photo.edited.png").read_bytes() == first


@pytest.mark.usefixtures("here")
def test_a_painter_that_stays_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte what the painter returned, with any mask, and however unlike the picture it is."""
    stage = InpaintingStage(registry.find("kontext").as_painter(), choose_device("cpu"), "float32")
    photo = codecs.from_image(Image.open("photo.png").resize((96, 64)))
    seen: list[torch.Tensor] = []

    def same(picture: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        seen.append(picture.clone())
        return seen[-1]

    def noise(picture: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        seen.append(torch.rand(picture.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        return seen[-1]

    for made, box in itertools.product((same, noise), ((0, 0, 96, 64), (8, 8, 9, 9), (40, 20, 80, 60))):
        drawn = Image.new("L", (96, 64))
        drawn.paste(255, box)
        painter = Mover(Motion(0, 0, 1), native_size=96)
        monkeypatch.setattr(painter, "paint", made)
        monkeypatch.setattr(stage, "_inpainter", painter)
        found = stage.paint(photo, Mask(np.asarray(drawn) > 0), Params(to="dog"), torch.Generator(), lambda *_: None)
        assert found.motion is None
        assert (found.picture == seen[-1][0].permute(1, 2, 0).numpy()).all()
