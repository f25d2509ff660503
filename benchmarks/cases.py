"""Edits with known truth: held-out scenes of the drawn worlds, before and after the edit.

``draw_case(number)`` draws SceneBench's original cases, from the present world; ``draw_case_of(kind, number)`` draws
cases by kind of edit, from the wider world. The same arguments always yield the same case.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.places import CANVAS, PLACES
from training.scenes import FRUIT, HELD_OUT, OBJECTS, PRESENT, WIDER, Scene, scene, with_article

FIRST_SEED = HELD_OUT + 2_000_000  # apart from the held-out seeds that training itself looks at
KINDS = ("object", "two", "colour", "place", "add", "remove", "bowl")
FIRST_OF_KINDS = 4_000_000  # from a world's held_out on: other benchmarks' seeds lie before, the judge's after
SEEDS_OF_A_KIND = 100_000
BESIDE_EVERY = 4  # one in this many recolourings shows a second object
SEEN = 8  # levels of 255 by which a channel must differ to count as changed


@dataclass(frozen=True)
class Case:
    """One edit: pictures (256, 256, 3) bytes, masks (256, 256) bool; `old` becomes `new`, `kept` are the other objects.

    `old` is "" if an object is added, `new` is "" if one is removed. If the place changes, they are the names of the
    places, and both masks are empty.
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
    new_mask: NDArray[np.bool_]  # where the new object is in the true result
    kept: dict[str, NDArray[np.bool_]]
    empty: NDArray[np.uint8]
    """The picture with neither the old nor the new object; if the place changes, the true result."""
    seed: int
    """Seed of the scene before the edit."""

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Pixels that the true edit changes: both objects, with their shadows."""
        return self.mask | self.new_mask | differing(self.picture, self.result)


def differing(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns where two pictures differ visibly (256, 256)."""
    return np.asarray(np.abs(one.astype(int) - other).max(axis=2) > SEEN)


def draw_case(number: int) -> Case:
    """Returns a case of the present world: about 60 % with one object, 25 % with two, 15 % with a bowl of fruit."""
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
    """Returns a case of one of KINDS; objects have a colour where the world's `draw_names` chooses one."""
    world = PRESENT if kind == "bowl" else WIDER
    seed = world.held_out + FIRST_OF_KINDS + KINDS.index(kind) * SEEDS_OF_A_KIND + number
    return _DRAWN[kind](number, seed, random.Random(f"{kind} {number}"))


def describe(drawn: Scene) -> str:
    """Returns the prompt that a person would type: the objects, without the place."""
    if drawn.kind == "bowl":
        return f"a bowl of {drawn.objects[0]}"
    return " and ".join(with_article(name) for name in drawn.objects)


def describe_place(drawn: Scene) -> str:
    """Returns a prompt of the objects, if any, and the place: ``a cat on the grass``, ``on the grass``."""
    return f"{describe(drawn)} {PLACES[drawn.place].phrase}".strip()


def pixels(drawn: Scene) -> NDArray[np.uint8]:
    return np.asarray(drawn.picture)


def without_fruit(before: Scene, after: Scene, seed: int) -> NDArray[np.uint8]:
    """Returns the scene with its bowl, but with the bare place where either scene has fruit."""
    fruit = differing(pixels(before), pixels(after))
    for drawn in (before, after):
        fruit |= mask_of(drawn, drawn.objects[0])
    return np.where(fruit[..., None], pixels(scene(seed, kind="empty")), pixels(before))


def mask_of(drawn: Scene, name: str) -> NDArray[np.bool_]:
    """Returns the mask of an object, empty if the scene does not show it."""
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
    """Exchanges either of two objects."""
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
    """Adds an object beside another; in every other case to an empty place, which the prompts name."""
    alone = number % 2 == 1
    before = scene(seed, "empty" if alone else "one", world=WIDER)
    new = WIDER.draw_other(rng, before.objects)
    after = scene(seed, "empty" if alone else "one", world=WIDER, added=new)
    named = describe_place if alone else describe
    return _case("add", number, seed, before, after, "", new, pixels(before), named)


def _remove(number: int, seed: int, rng: random.Random) -> Case:
    """Removes one of two objects; in every other case the only object, where the prompts name the place."""
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
