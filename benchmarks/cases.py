"""Edits with known truth: held-out scenes of the drawn worlds, and the same scenes with the edit done.

``draw_case(number)`` draws SceneBench's first cases, of the present world; ``draw_case_of(kind, number)`` those of the
wider world by kind of edit. The same arguments always give the same case.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.places import CANVAS, PLACES
from training.scenes import FRUIT, HELD_OUT, OBJECTS, PRESENT, WIDER, Scene, scene, with_article

FIRST_SEED = HELD_OUT + 2_000_000  # apart from the seeds that training looks at while it goes
KINDS = ("object", "two", "colour", "place", "add", "remove", "bowl")
FIRST_OF_KINDS = 4_000_000  # after a world's held-out seeds began: the other benchmarks' lie before, the judge's after
SEEDS_OF_A_KIND = 100_000
BESIDE_EVERY = 4  # of the edits of colour one has a second object beside the one that changes
SEEN = 8  # of 255, by which a channel has changed


@dataclass(frozen=True)
class Case:
    """One edit: pictures (256, 256, 3) bytes, masks (256, 256) bool; `old` becomes `new`, `kept` are the others.

    `old` is "" where something is added, `new` where it is removed; where the place changes they are the places' names,
    and both masks are empty.
    """

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
    empty: NDArray[np.uint8]
    """The picture with neither the old object nor the new one; the true result where the place changes."""
    seed: int
    """Of the scene before the edit."""

    @property
    def changed(self) -> NDArray[np.bool_]:
        """All that the true edit touches: both objects, with their shadows."""
        return self.mask | self.new_mask | differing(self.picture, self.result)


def differing(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where two pictures differ for more than the eye overlooks: (256, 256)."""
    return np.asarray(np.abs(one.astype(int) - other).max(axis=2) > SEEN)


def draw_case(number: int) -> Case:
    """About 60 % one object, 25 % two, 15 % bowls of fruit."""
    rng = random.Random(number)
    lot = rng.random()
    kind = "one" if lot < 0.6 else "two" if lot < 0.85 else "bowl"
    before = scene(FIRST_SEED + number, kind=kind)
    old = before.objects[0]
    names = list(FRUIT) if kind == "bowl" else [name for name in OBJECTS if name not in before.objects]
    new = rng.choice([name for name in names if name != old])
    after = scene(FIRST_SEED + number, kind=kind, swap={old: new})
    empty = without_fruit(before, after, FIRST_SEED + number)
    if kind != "bowl":
        empty = pixels(scene(FIRST_SEED + number, kind=kind, removed=old))
    return _case(kind, number, FIRST_SEED + number, before, after, old, new, empty)


def draw_case_of(kind: str, number: int) -> Case:
    """One of KINDS; the objects are in their colours where the world's `draw_names` gives them one."""
    world = PRESENT if kind == "bowl" else WIDER
    seed = world.held_out + FIRST_OF_KINDS + KINDS.index(kind) * SEEDS_OF_A_KIND + number
    return _DRAWN[kind](number, seed, random.Random(f"{kind} {number}"))


def describe(drawn: Scene) -> str:
    """What a person would type: the objects, without the place."""
    if drawn.kind == "bowl":
        return f"a bowl of {drawn.objects[0]}"
    return " and ".join(with_article(name) for name in drawn.objects)


def describe_place(drawn: Scene) -> str:
    """The objects, if there are any, and the place: ``a cat on the grass``, ``on the grass``."""
    return f"{describe(drawn)} {PLACES[drawn.place].phrase}".strip()


def pixels(drawn: Scene) -> NDArray[np.uint8]:
    return np.asarray(drawn.picture)


def without_fruit(before: Scene, after: Scene, seed: int) -> NDArray[np.uint8]:
    """The place with its bowl where neither scene has fruit, and the bare place where one has."""
    fruit = differing(pixels(before), pixels(after))
    for drawn in (before, after):
        fruit |= mask_of(drawn, drawn.objects[0])
    return np.where(fruit[..., None], pixels(scene(seed, kind="empty")), pixels(before))


def mask_of(drawn: Scene, name: str) -> NDArray[np.bool_]:
    """Where an object is: nowhere, if the scene does not show it."""
    if name not in drawn.masks:
        return np.zeros((CANVAS, CANVAS), dtype=bool)
    return np.asarray(drawn.masks[name]) > 127


def _case(
    kind: str,
    number: int,
    seed: int,
    before: Scene,
    after: Scene,
    old: str,
    new: str,
    empty: NDArray[np.uint8],
    describe: Callable[[Scene], str] = describe,
) -> Case:
    return Case(
        number=number,
        kind=kind,
        source=describe(before),
        target=describe(after),
        old=old,
        new=new,
        picture=pixels(before),
        result=pixels(after),
        mask=mask_of(before, old),
        new_mask=mask_of(after, new),
        kept={name: mask_of(before, name) for name in before.objects if name in after.objects},
        empty=empty,
        seed=seed,
    )


def _exchanged(
    kind: str, number: int, seed: int, scene_kind: str, objects: list[str] | None, old: str, new: str
) -> Case:
    def drawn(swap: dict[str, str] | None = None, removed: str = "") -> Scene:
        return scene(seed, scene_kind, objects, swap=swap, world=WIDER, fitted=bool(swap), removed=removed)

    return _case(kind, number, seed, drawn(), drawn({old: new}), old, new, pixels(drawn(removed=old)))


def _object(number: int, seed: int, rng: random.Random) -> Case:
    shown = scene(seed, "one", world=WIDER).objects
    return _exchanged("object", number, seed, "one", None, shown[0], WIDER.draw_other(rng, shown))


def _two(number: int, seed: int, rng: random.Random) -> Case:
    """One of the two is exchanged, either."""
    shown = scene(seed, "two", world=WIDER).objects
    return _exchanged("two", number, seed, "two", None, rng.choice(shown), WIDER.draw_other(rng, shown))


def _colour(number: int, seed: int, rng: random.Random) -> Case:
    thing = rng.choice(list(WIDER.colours))
    old, new = (f"{colour} {thing}" for colour in rng.sample(WIDER.colours[thing], 2))
    beside = [WIDER.draw_other(rng, (old,))] if number % BESIDE_EVERY == BESIDE_EVERY - 1 else []
    return _exchanged("colour", number, seed, "two" if beside else "one", [old, *beside], old, new)


def _place(number: int, seed: int, rng: random.Random) -> Case:
    before = scene(seed, "one", world=WIDER)
    place = rng.choice([name for name in WIDER.places if name != before.place])
    after = scene(seed, "one", place=place, world=WIDER)
    return _case("place", number, seed, before, after, before.place, place, pixels(after), describe_place)


def _add(number: int, seed: int, rng: random.Random) -> Case:
    """Beside an object; every other one in an empty place, which is named."""
    alone = number % 2 == 1
    before = scene(seed, "empty" if alone else "one", world=WIDER)
    new = WIDER.draw_other(rng, before.objects)
    after = scene(seed, "empty" if alone else "one", world=WIDER, added=new)
    named = describe_place if alone else describe
    return _case("add", number, seed, before, after, "", new, pixels(before), named)


def _remove(number: int, seed: int, rng: random.Random) -> Case:
    """One of two objects; every other one the only object, where the place is named."""
    alone = number % 2 == 1
    before = scene(seed, "one" if alone else "two", world=WIDER)
    old = rng.choice(before.objects)
    after = scene(seed, "one" if alone else "two", world=WIDER, removed=old)
    named = describe_place if alone else describe
    return _case("remove", number, seed, before, after, old, "", pixels(after), named)


def _bowl(number: int, seed: int, rng: random.Random) -> Case:
    before = scene(seed, "bowl")
    old = before.objects[0]
    new = rng.choice([name for name in FRUIT if name != old])
    after = scene(seed, "bowl", swap={old: new})
    return _case("bowl", number, seed, before, after, old, new, without_fruit(before, after, seed))


_DRAWN: dict[str, Callable[[int, int, random.Random], Case]] = {
    "object": _object,
    "two": _two,
    "colour": _colour,
    "place": _place,
    "add": _add,
    "remove": _remove,
    "bowl": _bowl,
}
