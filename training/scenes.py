"""Draws captioned scenes with exact object masks from Fluent Emoji 3D sprites.

``scene(seed)`` always gives the same picture, caption and masks; ``swap={"cat": "dog"}`` draws the same scene with
another object, which is the true result of an edit. Seeds from ``HELD_OUT`` on are never trained on.
The order of the random draws is part of the contract: a seed must go on meaning the same picture.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.workspace import sprites_folder

HELD_OUT = 10_000_000
CANVAS = 256
OPAQUE = 100  # alpha of 255, above which a pixel is the object's

OBJECTS: dict[str, str] = {
    "cat": "1f408", "dog": "1f415", "rabbit": "1f407", "horse": "1f40e", "cow": "1f404", "pig": "1f416",
    "sheep": "1f411", "elephant": "1f418", "tiger": "1f405", "duck": "1f986", "penguin": "1f427", "chick": "1f424",
    "deer": "1f98c", "apple": "1f34e", "pear": "1f350", "orange": "1f34a", "lemon": "1f34b", "strawberry": "1f353",
    "grapes": "1f347", "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2", "rose": "1f339", "tulip": "1f337",
    "sunflower": "1f33b", "ball": "26bd", "balloon": "1f388", "cake": "1f370", "burger": "1f354", "teapot": "1fad6",
    "hat": "1f3a9", "house": "1f3e0",
}  # fmt: skip
"""The name of each object and the code of its sprite."""

FRUIT = {"apples": "apple", "pears": "pear", "oranges": "orange", "lemons": "lemon", "strawberries": "strawberry"}
MIXED_FRUIT = "fruits"

Colour = tuple[float, float, float]
Pixels = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a place looks like: gradients of sky and ground (top, bottom), what stands about, how one says it."""

    phrase: str
    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    landmark: str = ""


PLACES: dict[str, Place] = {
    "grass": Place(
        phrase="on the grass",
        sky=((110, 180, 250), (205, 232, 255)),
        ground=((120, 190, 80), (70, 140, 50)),
        landmark="1f333",
    ),
    "beach": Place(
        phrase="on the beach",
        sky=((90, 190, 245), (190, 235, 255)),
        ground=((245, 222, 170), (225, 190, 125)),
        landmark="1f334",
    ),
    "snow": Place(
        phrase="in the snow",
        sky=((175, 195, 220), (225, 235, 245)),
        ground=((245, 250, 255), (205, 220, 240)),
        landmark="1f332",
    ),
    "desert": Place(
        phrase="in the desert",
        sky=((250, 190, 120), (255, 230, 180)),
        ground=((225, 160, 85), (185, 115, 55)),
        landmark="1f335",
    ),
    "night": Place(
        phrase="at night",
        sky=((12, 16, 48), (50, 50, 100)),
        ground=((40, 60, 60), (20, 32, 40)),
    ),
    "table": Place(
        phrase="on a table",
        sky=((200, 175, 160), (225, 205, 190)),
        ground=((165, 105, 65), (120, 70, 40)),
    ),
}
CLOUD, MOON = "2601-fe0f", "1f319"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn scene. ``kind`` is one, two, bowl or empty; ``masks`` are 8-bit, white where the object is."""

    picture: Image.Image
    caption: str
    kind: str
    objects: tuple[str, ...]
    place: str
    masks: dict[str, Image.Image]


@functools.cache
def sprite(code: str) -> Image.Image:
    """The sprite of an emoji, cropped to what is drawn."""
    image = Image.open(sprites_folder() / f"{code}.webp").convert("RGBA")
    return image.crop(image.getbbox())


def with_article(name: str) -> str:
    """``a cat``, ``an apple``, but ``grapes``."""
    if name == "grapes":
        return name
    return ("an " if name[0] in "aeo" else "a ") + name


def scene(
    seed: int,
    kind: str | None = None,
    objects: Sequence[str] | None = None,
    place: str | None = None,
    swap: Mapping[str, str] | None = None,
    size: int = CANVAS,
) -> Scene:
    """The scene of a seed; each of the other arguments replaces what the seed would have chosen."""
    rng = random.Random(seed)
    drawn_place = rng.choice(list(PLACES))
    lot = rng.random()
    names: Sequence[str] = rng.sample(list(OBJECTS), 2)
    fruit = rng.choice([*FRUIT, MIXED_FRUIT])
    place = place or drawn_place
    kind = kind or ("bowl" if lot < 0.12 else "two" if lot < 0.34 else "empty" if lot < 0.38 else "one")
    names = objects or names
    replace = swap or {}
    picture, horizon = _background(place, rng)
    masks: dict[str, Image.Image] = {}
    if kind == "one":
        names = [replace.get(names[0], names[0])]
        width = rng.uniform(80, 165)
        x = rng.uniform(width * 0.45, CANVAS - width * 0.45)
        masks[names[0]] = _draw_object(picture, names[0], rng, horizon, width, x)
    elif kind == "two":
        names = [replace.get(name, name) for name in names]
        left_first = rng.random() < 0.5
        for name, left in ((names[0], left_first), (names[1], not left_first)):
            width = rng.uniform(70, 115)
            x = CANVAS * (0.27 if left else 0.73) + rng.uniform(-14, 14)
            masks[name] = _draw_object(picture, name, rng, horizon, width, x)
    elif kind == "bowl":
        fruit = objects[0] if objects else fruit
        names = [replace.get(fruit, fruit)]
        masks[names[0]] = _draw_bowl(picture, names[0], rng, horizon)
    else:
        names = []
    caption = _caption(kind, names, PLACES[place].phrase, rng.random())
    if size != CANVAS:
        picture = picture.resize((size, size))
        masks = {name: mask.resize((size, size)) for name, mask in masks.items()}
    return Scene(picture=picture, caption=caption, kind=kind, objects=tuple(names), place=place, masks=masks)


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


def _jitter(colour: Colour, rng: random.Random, spread: float = 14) -> Colour:
    red, green, blue = (min(255.0, max(0.0, value + rng.uniform(-spread, spread))) for value in colour)
    return red, green, blue


def _gradient(height: int, top: Colour, bottom: Colour) -> Pixels:
    at = np.linspace(0, 1, height)[:, None]
    return np.array(top)[None] * (1 - at) + np.array(bottom)[None] * at


def _background(name: str, rng: random.Random) -> tuple[Image.Image, int]:
    """The empty place, and the row of its horizon."""
    place = PLACES[name]
    horizon = int(CANVAS * rng.uniform(0.42, 0.62))
    pixels = np.zeros((CANVAS, CANVAS, 3))
    pixels[:horizon] = _gradient(horizon, _jitter(place.sky[0], rng), _jitter(place.sky[1], rng))[:, None]
    ground = _gradient(CANVAS - horizon, _jitter(place.ground[0], rng), _jitter(place.ground[1], rng))
    pixels[horizon:] = ground[:, None]
    if name != "table":
        _hills(pixels, name, horizon, rng)
    picture = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
    draw = ImageDraw.Draw(picture)
    if name == "night":
        for _ in range(rng.randint(8, 24)):
            x, y, radius = rng.uniform(0, CANVAS), rng.uniform(0, horizon * 0.8), rng.uniform(0.6, 1.8)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 220))
        _decorate(picture, MOON, rng, (24, 44), (0, horizon * 0.3))
    elif name == "table":
        for plank in range(1, rng.randint(3, 6)):
            y = horizon + (CANVAS - horizon) * plank / 6
            seam = tuple(int(value * 0.86) for value in place.ground[0])
            draw.line((0, y, CANVAS, y), fill=seam, width=2)
    else:
        for _ in range(rng.randint(0, 2)):
            _decorate(picture, CLOUD, rng, (36, 70), (0, horizon * 0.35))
        if rng.random() < 0.6:
            _decorate(picture, place.landmark, rng, (40, 80), (horizon - 40, horizon - 30), standing=True)
    return picture, horizon


def _hills(pixels: Pixels, name: str, horizon: int, rng: random.Random) -> None:
    """A wavy edge of the ground; on the beach it is the sea."""
    waves = np.arange(CANVAS) / CANVAS * 2 * math.pi * rng.uniform(0.5, 1.6) + rng.uniform(0, 6)
    edge = horizon - (np.sin(waves) * rng.uniform(2, 12)).astype(int)
    colour = _jitter(PLACES[name].ground[0], rng, 6)
    if name == "beach":
        colour = _jitter((60, 150, 215), rng, 8)
    rows = np.arange(CANVAS)[:, None]
    pixels[(rows >= edge[None]) & (rows < horizon + 14)] = colour


def _decorate(
    picture: Image.Image,
    code: str,
    rng: random.Random,
    widths: tuple[float, float],
    tops: tuple[float, float],
    standing: bool = False,
) -> None:
    image = sprite(code)
    width = rng.uniform(*widths)
    image = image.resize((int(width), int(width * image.height / image.width)), Image.Resampling.LANCZOS)
    x = int(rng.uniform(-0.2 * width, CANVAS - 0.8 * width))
    y = int(rng.uniform(tops[0], max(tops)))
    if standing:
        y = int(rng.uniform(tops[1] + 30, tops[1] + 44)) - image.height
    picture.paste(image, (x, y), image)


def _draw_object(
    picture: Image.Image, name: str, rng: random.Random, horizon: int, width: float, x: float
) -> Image.Image:
    bottom = rng.uniform(max(horizon + 24, width * 0.6), CANVAS - 8)
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    _put(picture, mask, name, random.Random(rng.random()), x, bottom, width)
    return mask


def _put(
    picture: Image.Image, mask: Image.Image, name: str, rng: random.Random, centre: float, bottom: float, width: float
) -> None:
    """Paste an object with its shadow; add where it stands to the mask."""
    image = sprite(OBJECTS[name])
    height = width * image.height / image.width
    if height > width * 1.25:
        width *= 1.25 * width / height
        height = width * image.height / image.width
    image = image.resize((max(8, int(width)), max(8, int(height))), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    lit = ImageEnhance.Brightness(image.convert("RGB")).enhance(rng.uniform(0.9, 1.08))
    lit.putalpha(image.getchannel("A"))
    stand(picture, mask, lit, int(centre - lit.width / 2), int(bottom - lit.height), bottom)


def stand(picture: Image.Image, mask: Image.Image, image: Image.Image, x: int, y: int, bottom: float) -> None:
    """Paste a sprite at (x, y) over its shadow at `bottom`, soft for a picture of any size; add it to the mask."""
    shadow, rim = Image.new("L", picture.size, 0), image.width * 0.07
    ImageDraw.Draw(shadow).ellipse((x, bottom - rim, x + image.width, bottom + rim), fill=80)
    picture.paste((20, 20, 30), (0, 0), shadow.filter(ImageFilter.GaussianBlur(max(picture.size) / 64)))
    picture.paste(image, (x, y), image)
    is_opaque: Callable[[int], int] = lambda alpha: 255 if alpha > OPAQUE else 0  # noqa: E731
    mask.paste(255, (x, y), image.getchannel("A").point(is_opaque))


_PILE = ((-0.27, 0.50), (0, 0.58), (0.27, 0.50), (-0.36, 0.36), (-0.12, 0.40), (0.12, 0.40), (0.36, 0.36))


def _draw_bowl(picture: Image.Image, fruit: str, rng: random.Random, horizon: int) -> Image.Image:
    """A bowl with seven fruits; the mask covers the fruits that can be seen."""
    width = rng.uniform(120, 170)
    centre = rng.uniform(width * 0.55, CANVAS - width * 0.55)
    bottom = rng.uniform(max(horizon + 30, width * 0.9), CANVAS - 8)
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    mixed = [rng.choice(list(FRUIT.values())) for _ in range(len(_PILE))]
    size = width * 0.34
    for (right, up), any_fruit in zip(_PILE, mixed, strict=True):
        name = FRUIT.get(fruit) or any_fruit
        own = random.Random(rng.random())
        _put(picture, mask, name, own, centre + right * width, bottom - up * width + size * 0.35, size)
    depth = width * 0.42
    colour = tuple(map(int, _jitter((70, 120, 200), rng, 30)))
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
