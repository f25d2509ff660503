"""Where transformers place the words of a prompt: planted attention is found, nothing changes, nothing is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from command import WORDS, diffedit, settled
from PIL import Image
from planted import plant
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError

WRITERS = {family: write for family, write in tiny_families.WRITERS.items() if FAMILIES[family].denoiser != "unet"}
AXIS = {"z-image": 8}  # of queries and keys; the first one turns with the number of the text token there
SIDE, CAT = 16, 3  # cells of the latents, and the place of the watched token


@pytest.fixture(scope="module", params=WRITERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[family](tmp_path_factory.mktemp("family") / "model")


@pytest.fixture
def model(folder: Path) -> Any:
    return families.load(folder, "cpu", torch.float32, name="tiny")


def region() -> Tensor:
    """Cells (h, w) in an odd corner, in whole patches."""
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[4:10, 8:14] = True
    return inside


def prompt(model: Any, length: int, sign: float) -> Embedding:
    """A prompt of tokens of one sign, but for the watched token, which has the other."""
    like = model.embed("a cat")
    tokens = torch.full((1, length, like.tokens.shape[2]), 0.01)
    tokens[..., 0] = -sign
    tokens[0, CAT, 0] = sign
    mask = None if like.mask is None else torch.ones(1, length, dtype=torch.bool)
    return Embedding(tokens, like.pooled, mask, like.guidance)


def test_planted_attention_gives_its_region(family: str, model: Any) -> None:
    plant(model.transformer, AXIS.get(family, 2))
    x_t = torch.where(region(), 1.0, -1.0).expand(1, model.channels, SIDE, SIDE)
    at, text = model.levels(10, SIDE * SIDE)[5], prompt(model, 12, 1.0)
    other = prompt(model, 15 if text.mask is not None else 12, -1.0)
    both = other.followed_by(text)
    with torch.inference_mode():
        before = model.predict(x_t.expand(2, -1, -1, -1), at, both).eps
        model._watch = watch = model.WATCH(text, [CAT])
        during = model.predict(x_t.expand(2, -1, -1, -1), at, both).eps
    assert torch.equal(before, during)
    found = watch.map((SIDE, SIDE))
    patches = found.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(dim=(1, 3)) > found.mean()
    assert torch.equal(patches, region()[::2, ::2])
    assert not any(module._forward_pre_hooks for module in model.transformer.modules())


def test_places_are_those_of_the_words_tokens(model: Any) -> None:
    """The embedding of the word's tokens alone changes with the word, in an encoder without attention."""
    places = model._places("a cat on grass", ["cat"])
    assert places
    assert max(places) < model.embed("a cat on grass").tokens.shape[1]
    assert len(model._places("a cat on grass", ["cat", "grass"])) == 2 * len(places)
    with pytest.raises(ModelError, match='sees none of the words "dog"'):
        model._places("a cat", ["dog"])


@pytest.mark.parametrize("method", ["attention", "both"])
def test_masks_by_attention_cost_no_further_evaluation(
    folder: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, folder, monkeypatch)
    spent = {}
    for name in ("noise", method):
        ran = diffedit(
            "mask", "cat.png", *WORDS, "--mask-method", name, "--maps", 4, "--no-cache", "--json", "-o", f"{name}.png"
        )
        assert ran.code == 0, ran.err
        spent[name] = ran.json["evaluations"]["mask"]
    assert spent[method] == (4 if method == "attention" else spent["noise"])
    masks = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in spent]
    assert method == "both" or not np.array_equal(*masks)  # both may have no place in common, and leave the noise
