"""What a batch of training shows, and what becomes of two checkpoints: their mean, and the words of each."""

from __future__ import annotations

import random
from collections import Counter

import torch

from training.blend import blend
from training.latents import ANYTHING, Index
from training.unet import UnetTrainer, UnetTraining
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
