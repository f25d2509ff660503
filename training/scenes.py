"""Draws captioned scenes with exact object masks from Fluent Emoji 3D sprites.

``scene(seed)`` always returns the same picture, caption and masks. ``swap={"cat": "dog"}`` draws the same scene with
another object, which is the true result of an edit; so are ``added="dog"`` and ``removed="cat"``. ``edited(seed)``
chooses an edit from the seed. ``scene(seed, world=WIDER)`` draws from more objects, colours and places; there
``place="snow"`` leaves the objects where they are.
Seeds from a world's ``held_out`` on are never used for training. The order of the random draws is part of the
contract: a seed must always yield the same picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.places import CANVAS, PLACES, background, jitter
from training.sprites import COLOURS, sprite

HELD_OUT = 10_000_000
OPAQUE = 100  # alpha (of 255) above which a pixel belongs to the object
COLOURED = 0.75  # share of objects drawn in a colour, of those that come in colours
PLACE_EDITS = 0.2  # share of edits that change the place, in a world where the objects then stay where they are
COLOUR_EDITS = 0.5  # share of recolourings among edits of coloured objects
COUNT_EDITS = 0.3  # share of edits, except of bowls, that add or remove an object
ADDED_WIDTHS = (64, 115)

OBJECTS: dict[str, str] = {
    "cat": "1f408", "dog": "1f415", "rabbit": "1f407", "horse": "1f40e", "cow": "1f404", "pig": "1f416",
    "sheep": "1f411", "elephant": "1f418", "tiger": "1f405", "duck": "1f986", "penguin": "1f427", "chick": "1f424",
    "deer": "1f98c", "apple": "1f34e", "pear": "1f350", "orange": "1f34a", "lemon": "1f34b", "strawberry": "1f353",
    "grapes": "1f347", "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2", "rose": "1f339", "tulip": "1f337",
    "sunflower": "1f33b", "ball": "26bd", "balloon": "1f388", "cake": "1f370", "burger": "1f354", "teapot": "1fad6",
    "hat": "1f3a9", "house": "1f3e0",
}  # fmt: skip
"""Sprite code by object name."""

FRUIT = {"apples": "apple", "pears": "pear", "oranges": "orange", "lemons": "lemon", "strawberries": "strawberry"}
MIXED_FRUIT = "fruits"

PAINTED_AS = {"ball": "1f3c0", "hat": "1f9e2"}
"""Sprites for coloured objects whose own sprite has no paint: a basketball for a ball, a cap for a hat."""

MORE_OBJECTS: dict[str, str] = {
    "bear": "1f43b", "fox": "1f98a", "lion": "1f981", "monkey": "1f412", "panda": "1f43c", "mouse": "1f401",
    "frog": "1f438", "turtle": "1f422", "fish": "1f41f", "whale": "1f433", "owl": "1f989", "bird": "1f426",
    "banana": "1f34c", "pineapple": "1f34d", "watermelon": "1f349", "pizza": "1f355", "donut": "1f369",
    "truck": "1f69a", "train": "1f682", "plane": "1f6e9-fe0f", "boat": "26f5", "rocket": "1f680", "tractor": "1f69c",
    "mushroom": "1f344", "guitar": "1f3b8", "umbrella": "2602-fe0f", "crown": "1f451", "robot": "1f916",
    "snowman": "26c4", "gift": "1f381", "book": "1f4d5",
}  # fmt: skip

OF_ANY_COLOUR = (
    "ball", "balloon", "bird", "book", "bus", "car", "gift", "guitar", "hat", "plane", "teapot", "tractor", "truck",
    "umbrella",
)  # fmt: skip
BUT_GREEN = tuple(colour for colour in COLOURS if colour != "green")
IN_COLOURS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(OF_ANY_COLOUR, tuple(COLOURS)),
    **dict.fromkeys(("fish", "rose", "tulip"), BUT_GREEN),
    "apple": ("red", "yellow", "green"),
}
"""Colours that an object may have in the wider world: those in which it stays recognisable and easy to name."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Objects, places and colours of scenes, and the range of seeds for training: ``first`` up to ``held_out``."""

    objects: Mapping[str, str]
    """Sprite code by object name."""
    places: tuple[str, ...]
    colours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shards: str = ""
    """Prefix of the names of its files of latents."""
    first: int = 0
    held_out: int = HELD_OUT
    steady: bool = True
    """Whether the objects stay where they are if another place is requested."""

    @property
    def names(self) -> list[str]:
        """Every object, then every coloured object: ``balloon``, ``red balloon``."""
        return [*self.objects, *(f"{colour} {name}" for name, colours in self.colours.items() for colour in colours)]

    def draw_names(self, rng: random.Random) -> list[str]:
        """Returns two objects, each of them possibly in a colour."""
        names = rng.sample(list(self.objects), 2)
        return [
            f"{rng.choice(self.colours[name])} {name}" if name in self.colours and rng.random() < COLOURED else name
            for name in names
        ]

    def draw_other(self, rng: random.Random, shown: Iterable[str]) -> str:
        """Returns an object, possibly in a colour, that is not shown in any colour."""
        things = {name.rpartition(" ")[2] for name in shown}
        drawn = (name for _ in iter(int, 1) for name in self.draw_names(rng))
        return next(name for name in drawn if name.rpartition(" ")[2] not in things)

    def drawing(self, name: str) -> Image.Image:
        """Returns the sprite of an object, repainted if its name includes a colour."""
        colour, _, thing = name.rpartition(" ")
        return sprite(PAINTED_AS.get(thing, self.objects[thing]) if colour else self.objects[thing], colour)


PRESENT = World(
    objects=OBJECTS,
    places=("grass", "beach", "snow", "desert", "night", "table"),
    steady=False,
)
WIDER = World(
    objects=OBJECTS | MORE_OBJECTS,
    places=tuple(PLACES),
    colours=IN_COLOURS,
    shards="wider-",
    first=20_000_000,
    held_out=30_000_000,
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn scene. ``kind`` is one, two, bowl or empty; ``masks`` are 8-bit, white where the object is."""

    picture: Image.Image
    caption: str
    kind: str
    objects: tuple[str, ...]
    place: str
    masks: dict[str, Image.Image]


def with_article(name: str) -> str:
    """Returns a name with its indefinite article: ``a cat``, ``an apple``, but ``grapes``."""
    if name == "grapes":
        return name
    return ("an " if name[0] in "aeou" else "a ") + name


def scene(
    seed: int, kind: str | None = None, objects: Sequence[str] | None = None, place: str | None = None,
    swap: Mapping[str, str] | None = None, size: int = CANVAS, world: World = PRESENT, fitted: bool = False,
    added: str = "", removed: str = "",
) -> Scene:  # fmt: skip
    """Returns the scene of a seed; each of the other arguments replaces a choice of the seed.

    A swapped object is as wide as the old one or, if ``fitted``, as large as fits into the old one's box. ``added``
    names an object to draw beside the others, ``removed`` an object to leave out; everything else is unchanged.
    """
    rng = random.Random(seed)
    drawn_place = rng.choice(world.places)
    lot = rng.random()
    names: Sequence[str] = world.draw_names(rng)
    fruit = rng.choice([*FRUIT, MIXED_FRUIT])
    place = place or drawn_place
    kind = kind or ("bowl" if lot < 0.12 else "two" if lot < 0.34 else "empty" if lot < 0.38 else "one")
    names = objects or names

    def new(old: str) -> str:
        return (swap or {}).get(old, old)

    def drawing(old: str) -> Image.Image | None:
        if old == removed:
            return None
        image = world.drawing(new(old))
        return _within(world.drawing(old), image) if fitted and new(old) != old else image

    picture, horizon = background(place, random.Random(rng.random()) if world.steady else rng)
    masks: dict[str, Image.Image] = {}
    names = {"one": names[:1], "two": names, "bowl": [objects[0] if objects else fruit]}.get(kind, [])
    if kind == "bowl":
        masks[new(names[0])] = _draw_bowl(picture, new(names[0]), rng, horizon)
    for name, (width, x) in zip(names, _spots(kind, rng), strict=False):
        masks[new(name)] = _draw_object(picture, drawing(name), rng, horizon, width, x)
    names = [new(name) for name in names if name != removed]
    masks.pop(removed, None)
    lot = rng.random()
    if added:
        own = random.Random(f"{seed} added")
        width, x = _room(masks.values(), own)
        masks[added] = _draw_object(picture, world.drawing(added), own, horizon, width, x)
        names.append(added)
    if added or removed:
        kind = ("empty", "one", "two")[len(names)]
    caption = _caption(kind, names, PLACES[place].phrase, lot)
    if size != CANVAS:
        picture = picture.resize((size, size))
        masks = {name: mask.resize((size, size)) for name, mask in masks.items()}
    return Scene(picture=picture, caption=caption, kind=kind, objects=tuple(names), place=place, masks=masks)


def _spots(kind: str, rng: random.Random) -> Iterator[tuple[float, float]]:
    """Yields width and centre of each object that stands on the ground, in pixels, each drawn when it is asked for."""
    if kind == "one":
        width = rng.uniform(80, 165)
        yield width, rng.uniform(width * 0.45, CANVAS - width * 0.45)
    elif kind == "two":
        left_first = rng.random() < 0.5
        for left in (left_first, not left_first):
            width = rng.uniform(70, 115)
            yield width, CANVAS * (0.27 if left else 0.73) + rng.uniform(-14, 14)


def edited(seed: int, world: World = PRESENT) -> Scene:
    """Returns the scene of a seed after an edit chosen by the seed: object, colour, one more, one less, or place."""
    before, rng = scene(seed, world=world), random.Random(f"{seed} edited")
    if before.kind != "bowl" and rng.random() < COUNT_EDITS:
        if before.kind == "empty" or (before.kind == "one" and rng.random() < 0.5):
            return scene(seed, added=world.draw_other(rng, before.objects), world=world)
        return scene(seed, removed=rng.choice(before.objects), world=world)
    if not before.objects or (world.steady and rng.random() < PLACE_EDITS):
        return scene(seed, place=rng.choice([place for place in world.places if place != before.place]), world=world)
    old = rng.choice(before.objects)
    colour, _, thing = old.rpartition(" ")
    if before.kind == "bowl":
        new = rng.choice([fruit for fruit in (*FRUIT, MIXED_FRUIT) if fruit != old])
    elif colour and rng.random() < COLOUR_EDITS:
        new = f"{rng.choice([other for other in world.colours[thing] if other != colour])} {thing}"
    else:
        new = world.draw_other(rng, before.objects)
    return scene(seed, swap={old: new}, world=world, fitted=True)


def _room(masks: Iterable[Image.Image], rng: random.Random) -> tuple[float, float]:
    """Returns width and horizontal centre of an object to be added beside the others."""
    boxes = [box for mask in masks if (box := mask.getbbox())]
    left, right = min((box[0] for box in boxes), default=CANVAS), max((box[2] for box in boxes), default=0)
    start, length = (0, left) if left >= CANVAS - right else (right, CANVAS - right)
    width = min(rng.uniform(*ADDED_WIDTHS), max(length, ADDED_WIDTHS[0]))
    spare = max(0.0, length - width) / 2
    return width, start + length / 2 + rng.uniform(-spare, spare)


def _within(old: Image.Image, new: Image.Image) -> Image.Image:
    """Returns the new sprite as large as fits, standing, into the old one's box: an edit has no more room than that."""
    scale = min(old.width / new.width, old.height / new.height)
    new = new.resize((max(1, int(new.width * scale)), max(1, int(new.height * scale))), Image.Resampling.LANCZOS)
    box = Image.new("RGBA", old.size)
    box.paste(new, ((old.width - new.width) // 2, old.height - new.height))
    return box


def _caption(kind: str, names: Sequence[str], phrase: str, lot: float) -> str:
    if kind == "empty":
        return phrase
    if kind == "bowl":
        thing = bare = f"a bowl of {names[0]}"
    else:
        thing, bare = " and ".join(map(with_article, names)), " and ".join(names)
    if lot < 0.6:
        return f"{thing} {phrase}"
    if lot < 0.72:
        return bare
    return f"a photo of {thing} {phrase}" if lot < 0.8 else thing


def _draw_object(
    picture: Image.Image, image: Image.Image | None, rng: random.Random, horizon: int, width: float, x: float
) -> Image.Image:
    """Pastes an object, unless it is None, and returns its mask."""
    bottom = rng.uniform(max(horizon + 24, width * 0.6), CANVAS - 8)
    mask, own = Image.new("L", (CANVAS, CANVAS), 0), random.Random(rng.random())
    if image:
        _put(picture, mask, image, own, x, bottom, width)
    return mask


def _put(
    picture: Image.Image,
    mask: Image.Image,
    image: Image.Image,
    rng: random.Random,
    centre: float,
    bottom: float,
    width: float,
) -> None:
    """Pastes an object with its shadow, and adds its pixels to the mask."""
    flipped, light = rng.random() < 0.5, rng.uniform(0.9, 1.08)
    height = width * image.height / image.width
    if height > width * 1.25:
        width *= 1.25 * width / height
        height = width * image.height / image.width
    image = image.resize((max(8, int(width)), max(8, int(height))), Image.Resampling.LANCZOS)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    lit = ImageEnhance.Brightness(image.convert("RGB")).enhance(light)
    lit.putalpha(image.getchannel("A"))
    stand(picture, mask, lit, int(centre - lit.width / 2), int(bottom - lit.height), bottom)


def stand(picture: Image.Image, mask: Image.Image, image: Image.Image, x: int, y: int, bottom: float) -> None:
    """Pastes a sprite at (x, y) over its shadow at `bottom`, blurred in proportion to the picture; adds to the mask."""
    shadow, rim = Image.new("L", picture.size, 0), image.width * 0.07
    ImageDraw.Draw(shadow).ellipse((x, bottom - rim, x + image.width, bottom + rim), fill=80)
    picture.paste((20, 20, 30), (0, 0), shadow.filter(ImageFilter.GaussianBlur(max(picture.size) / 64)))
    picture.paste(image, (x, y), image)
    is_opaque: Callable[[int], int] = lambda alpha: 255 if alpha > OPAQUE else 0  # noqa: E731
    mask.paste(255, (x, y), image.getchannel("A").point(is_opaque))


_PILE = ((-0.27, 0.50), (0, 0.58), (0.27, 0.50), (-0.36, 0.36), (-0.12, 0.40), (0.12, 0.40), (0.36, 0.36))


def _draw_bowl(picture: Image.Image, fruit: str, rng: random.Random, horizon: int) -> Image.Image:
    """Draws a bowl with seven fruits; returns a mask of the visible parts of the fruits."""
    width = rng.uniform(120, 170)
    centre = rng.uniform(width * 0.55, CANVAS - width * 0.55)
    bottom = rng.uniform(max(horizon + 30, width * 0.9), CANVAS - 8)
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    mixed = [rng.choice(list(FRUIT.values())) for _ in range(len(_PILE))]
    size = width * 0.34
    for (right, up), any_fruit in zip(_PILE, mixed, strict=True):
        image = PRESENT.drawing(FRUIT.get(fruit) or any_fruit)
        own = random.Random(rng.random())
        _put(picture, mask, image, own, centre + right * width, bottom - up * width + size * 0.35, size)
    depth = width * 0.42
    colour = tuple(map(int, jitter((70, 120, 200), rng, 30)))
    rim = tuple(min(255, value + 35) for value in colour)
    bowl = Image.new("RGBA", (CANVAS * 2, CANVAS * 2), (0, 0, 0, 0))
    draw = ImageDraw.Draw(bowl)
    left, right_end = centre - width / 2, centre + width / 2
    body = (2 * left, 2 * (bottom - 2 * depth), 2 * right_end, 2 * bottom)
    draw.pieslice(body, 0, 180, fill=(*colour, 255))
    edge = (centre - width * 0.53, bottom - depth - 7, centre + width * 0.53, bottom - depth + 6)
    draw.rounded_rectangle([2 * value for value in edge], 10, fill=(*rim, 255))
    bowl = bowl.resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)
    picture.paste(bowl, (0, 0), bowl)
    mask.paste(0, (0, 0), bowl.getchannel("A"))
    return mask
