"""Edits with known truth: held-out scenes of the built-in world, and the same scenes with the edit done."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scenes import FRUIT, HELD_OUT, OBJECTS, Scene, scene, with_article

FIRST_SEED = HELD_OUT + 2_000_000  # apart from the seeds that training looks at while it goes


@dataclass(frozen=True)
class Case:
    """One edit: pictures (256, 256, 3) bytes, masks (256, 256) bool; `old` becomes `new`, `kept` are the others."""

    number: int
    kind: str
    source: str
    target: str
    old: str
    new: str
    picture: NDArray[np.uint8]
    result: NDArray[np.uint8]
    mask: NDArray[np.bool_]  # where the old object is
    new_mask: NDArray[np.bool_]  # where the new one is in the true result
    kept: dict[str, NDArray[np.bool_]]

    @property
    def changed(self) -> NDArray[np.bool_]:
        """All that the true edit touches: both objects, with their shadows."""
        difference = np.abs(self.picture.astype(int) - self.result).max(axis=2) > 8
        return self.mask | self.new_mask | difference


def draw_case(number: int) -> Case:
    """The same number always gives the same case: about 60 % one object, 25 % two, 15 % bowls of fruit."""
    rng = random.Random(number)
    lot = rng.random()
    kind = "one" if lot < 0.6 else "two" if lot < 0.85 else "bowl"
    before = scene(FIRST_SEED + number, kind=kind)
    old = before.objects[0]
    names = list(FRUIT) if kind == "bowl" else [name for name in OBJECTS if name not in before.objects]
    new = rng.choice([name for name in names if name != old])
    after = scene(FIRST_SEED + number, kind=kind, swap={old: new})
    return Case(
        number=number,
        kind=kind,
        source=describe(before),
        target=describe(after),
        old=old,
        new=new,
        picture=np.asarray(before.picture),
        result=np.asarray(after.picture),
        mask=np.asarray(before.masks[old]) > 127,
        new_mask=np.asarray(after.masks[new]) > 127,
        kept={name: np.asarray(mask) > 127 for name, mask in before.masks.items() if name != old},
    )


def describe(drawn: Scene) -> str:
    """What a person would type: the objects, without the place."""
    if drawn.kind == "bowl":
        return f"a bowl of {drawn.objects[0]}"
    return " and ".join(with_article(name) for name in drawn.objects)
