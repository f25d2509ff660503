"""What a batch of training shows, and what becomes of two checkpoints: their mean, and the words of each."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from training.blend import blend
from training.latents import ANYTHING, Index
from training.loss import loss_of, mixed
from training.unet import UnetTrainer, UnetTraining, build_scheduler
from training.words import CAPACITY, TOKEN

RNG = random.Random(0)


def drawn(index: Index[int], *wanted: tuple[bool, str]) -> set[int]:
    return {index.draw(kind, RNG) for kind in wanted for _ in range(50)}


def test_scenes_are_found_by_what_they_show() -> None:
    index = Index[int]()
    scenes = [("one", ("cat",)), ("one", ("dog",)), ("two", ("dog", "cat")), ("two", ("hat", "car")), ("empty", ())]
    for at, (kind, objects) in enumerate(scenes):
        index.add(at, (kind, objects, "grass"))
    assert drawn(index, (False, ANYTHING)) == {0, 1, 4}
    assert drawn(index, (True, ANYTHING)) == {2, 3}
    assert drawn(index, (False, "dog"), (True, "dog")) == {1, 2}
    assert drawn(index, (False, "hat")) == {0, 1, 4}  # none shows it alone


def test_what_is_weak_is_shown_more_often() -> None:
    trainer = UnetTrainer.__new__(UnetTrainer)
    trainer.rng = random.Random(0)
    trainer.settings = UnetTraining(often=("dog", "dog", "hat"), often_share=0.3)
    wanted = [trainer._wanted(two_share=0.25) for _ in range(20_000)]
    names = Counter(name for _, name in wanted)
    shares = {name: round(count / len(wanted), 1) for name, count in names.items()}
    assert shares == {ANYTHING: 0.7, "dog": 0.2, "hat": 0.1}
    assert round(sum(two for two, _ in wanted) / len(wanted), 2) == 0.25
    trainer.settings = UnetTraining()
    assert {trainer._wanted(0.0) for _ in range(100)} == {(False, ANYTHING)}


def test_a_blend_is_the_mean_of_what_both_know() -> None:
    embedding = "text_encoder.token_embedding.weight"

    def checkpoint(value: float, wider_pictures: int) -> dict[str, object]:
        weights = {"unet.weight": torch.full((2, 2), value), embedding: torch.full((CAPACITY, 3), value)}
        return {"settings": {}, "pictures": 10, "wider_pictures": wider_pictures, "average": weights, "optimizer": {}}

    mixed = blend(checkpoint(0.0, 0), checkpoint(1.0, 4), 0.75)
    assert mixed["average"]["unet.weight"].tolist() == [[0.75] * 2] * 2
    rows = mixed["average"][embedding][:, 0]
    assert (rows[TOKEN["cat"]], rows[TOKEN["fox"]]) == (0.75, 1.0)  # the first has never seen a fox
    assert mixed["model"] is mixed["average"]
    assert (mixed["step"], mixed["wider_pictures"], "optimizer" in mixed) == (0, 4, False)
    both = blend(checkpoint(0.0, 1), checkpoint(1.0, 4), 0.75)
    assert both["average"][embedding][TOKEN["fox"], 0] == 0.75


def test_a_mixed_scene_holds_a_rectangle_of_the_one_before() -> None:
    torch.manual_seed(0)
    x_0 = torch.arange(200.0).view(200, 1, 1, 1).expand(-1, 3, 32, 32)
    seen = mixed(x_0)
    other = seen != x_0
    assert torch.equal(seen[other], x_0.roll(1, 0)[other])
    assert torch.equal(other, other[:, :1].expand_as(other))
    rows, columns = other[:, 0].any(2), other[:, 0].any(1)
    assert torch.equal(other[:, 0], rows[:, :, None] & columns[:, None])  # a rectangle
    for sides in (rows.sum(1), columns.sum(1)):
        assert (sides.min(), sides.max()) == (8, 24)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_loss_asks_for_the_scene_of_the_words_whatever_is_seen(share: float) -> None:
    levels = build_scheduler().alphas_cumprod
    x_0 = 4 * torch.randn((64, 2, 32, 32), generator=torch.Generator().manual_seed(0))
    contradicted: list[bool] = []

    def oracle(x_t: Tensor, t: Tensor, _: Tensor) -> Tensor:
        """Knows the scene, and looks how near the noisy one is to it."""
        signal = levels[t].view(-1, 1, 1, 1)
        noise = (x_t - signal.sqrt() * x_0) / (1 - signal).sqrt()
        contradicted.extend((noise.var((1, 2, 3)) > 1.3).tolist())
        return (signal.sqrt() * x_t - x_0) / (1 - signal).sqrt()

    torch.manual_seed(0)
    loss, error = loss_of(oracle, x_0, torch.zeros(64, 16), levels, UnetTraining(mixed_share=share, centre=0.6))
    assert loss < 1e-9
    assert error < 1e-9
    assert any(contradicted) == bool(share)
