"""The places of the drawn world: appearance, phrase in captions, and pictures without objects.

The order of the random draws is part of the contract, as in ``scenes``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.sprites import sprite

CANVAS = 256

Colour = tuple[float, float, float]
Pixels = NDArray[np.float64]
CLOUD, MOON, EARTH = "2601-fe0f", "1f319", "1f30d"
TREES = ("1f333", "1f332")
BUILDINGS = ("1f3e2", "1f3ec", "1f3e8")
ON_WALLS, ON_FLOORS = ("1fa9f", "1f5bc-fe0f"), ("1f6cb-fe0f", "1fab4", "1f4fa")
CORALS = ("1fab8", "1f41a", "1faa8")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place: its phrase in captions, colour gradients of sky and ground (top, bottom), and its furnishing."""

    phrase: str
    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    furnish: Callable[[Image.Image, Place, int, random.Random], None]
    """Draws the characteristic objects into the picture, given the place, the row of the horizon and a generator."""
    landmark: str = ""
    flat: bool = False
    far: Colour | None = None
    """Colour of an area behind the ground, such as the sea behind the beach."""


def background(name: str, rng: random.Random) -> tuple[Image.Image, int]:
    """Returns the place without objects, and the row of its horizon, which depends on the generator alone."""
    place = PLACES[name]
    horizon = int(CANVAS * rng.uniform(0.42, 0.62))
    pixels = np.zeros((CANVAS, CANVAS, 3))
    pixels[:horizon] = _gradient(horizon, jitter(place.sky[0], rng), jitter(place.sky[1], rng))[:, None]
    ground = _gradient(CANVAS - horizon, jitter(place.ground[0], rng), jitter(place.ground[1], rng))
    pixels[horizon:] = ground[:, None]
    if not place.flat:
        _hills(pixels, place, horizon, rng)
    picture = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
    place.furnish(picture, place, horizon, rng)
    return picture, horizon


def jitter(colour: Colour, rng: random.Random, spread: float = 14) -> Colour:
    red, green, blue = (min(255.0, max(0.0, value + rng.uniform(-spread, spread))) for value in colour)
    return red, green, blue


def _gradient(height: int, top: Colour, bottom: Colour) -> Pixels:
    at = np.linspace(0, 1, height)[:, None]
    return np.array(top)[None] * (1 - at) + np.array(bottom)[None] * at


def _hills(pixels: Pixels, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws a wavy upper edge of the ground, or of the area behind it."""
    waves = np.arange(CANVAS) / CANVAS * 2 * math.pi * rng.uniform(0.5, 1.6) + rng.uniform(0, 6)
    edge = horizon - (np.sin(waves) * rng.uniform(2, 12)).astype(int)
    colour = jitter(place.ground[0], rng, 6)
    if place.far:
        colour = jitter(place.far, rng, 8)
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


def _landmark(
    picture: Image.Image, code: str, rng: random.Random, horizon: int, widths: tuple[float, float] = (40, 80)
) -> None:
    _decorate(picture, code, rng, widths, (horizon - 40, horizon - 30), standing=True)


def _clouds(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws clouds, and often the landmark."""
    for _ in range(rng.randint(0, 2)):
        _decorate(picture, CLOUD, rng, (36, 70), (0, horizon * 0.35))
    if rng.random() < 0.6:
        _landmark(picture, place.landmark, rng, horizon)


def _stars(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws stars, and the landmark high among them."""
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(8, 24)):
        x, y, radius = rng.uniform(0, CANVAS), rng.uniform(0, horizon * 0.8), rng.uniform(0.6, 1.8)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 220))
    _decorate(picture, place.landmark, rng, (24, 44), (0, horizon * 0.3))


def _planks(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    draw = ImageDraw.Draw(picture)
    for plank in range(1, rng.randint(3, 6)):
        y = horizon + (CANVAS - horizon) * plank / 6
        draw.line((0, y, CANVAS, y), fill=_shade(place.ground[0], 0.86), width=2)


def _trees(picture: Image.Image, _place: Place, horizon: int, rng: random.Random) -> None:
    """Draws a wood, far trees first."""
    for widths in ((28, 44), (34, 60), (50, 90)):
        for _ in range(rng.randint(2, 4)):
            _landmark(picture, rng.choice(TREES), rng, horizon, widths)


def _street(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws a skyline, houses in front of it, and a pavement with its kerb."""
    draw = ImageDraw.Draw(picture)
    left = -rng.uniform(0, 20)
    while left < CANVAS:
        width, height = rng.uniform(22, 46), rng.uniform(0.35, 0.85) * horizon
        draw.rectangle(
            (left, horizon - height, left + width, horizon), fill=_shade((125, 175, 228), rng.uniform(0.85, 1.05))
        )
        left += width
    draw.rectangle((0, horizon, CANVAS, horizon + 14), fill=_shade(place.ground[0], 1.15))
    for _ in range(rng.randint(2, 4)):
        _landmark(picture, rng.choice(BUILDINGS), rng, horizon, (46, 84))
    draw.line((0, horizon + 15, CANVAS, horizon + 15), fill=_shade(place.ground[0], 0.7), width=3)


def _craters(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws craters under a sky of stars."""
    _stars(picture, place, horizon, rng)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(4, 9)):
        depth = rng.uniform(0.12, 1)
        x, y, width = rng.uniform(0, CANVAS), horizon + depth * (CANVAS - horizon), depth * rng.uniform(14, 34)
        for drop, light in ((1.5, 1.1), (0, 0.78)):
            box = (x - width, y - width * 0.3 + drop, x + width, y + width * 0.3 + drop)
            draw.ellipse(box, fill=_shade(place.ground[1], light))


def _walls(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws floorboards that run to the back, a skirting board, and often something on the wall and in front of it."""
    draw = ImageDraw.Draw(picture)
    middle = CANVAS * rng.uniform(0.35, 0.65)
    for board in range(-9, 10):
        line = (middle + board * 26, horizon, middle + board * 60, CANVAS)
        draw.line(line, fill=_shade(place.ground[1], 0.92), width=2)
    draw.rectangle((0, horizon - 7, CANVAS, horizon), fill=(240, 238, 232))
    if rng.random() < 0.7:
        _decorate(picture, rng.choice(ON_WALLS), rng, (40, 70), (6, horizon * 0.3))
    if rng.random() < 0.7:
        _landmark(picture, rng.choice(ON_FLOORS), rng, horizon, (46, 80))


def _road(picture: Image.Image, place: Place, horizon: int, rng: random.Random) -> None:
    """Draws a verge, clouds, often the landmark, and the road with its dashes."""
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, horizon - 4, CANVAS, horizon + 15), fill=_shade((105, 170, 75), rng.uniform(0.9, 1.1)))
    _clouds(picture, place, horizon, rng)
    draw.line((0, horizon + 17, CANVAS, horizon + 17), fill=(235, 235, 230), width=4)
    y, shift = horizon + (CANVAS - horizon) * 0.55, rng.uniform(0, 64)
    for at in range(-1, 5):
        left = at * 64 + shift
        draw.polygon([(left + 4, y), (left + 40, y), (left + 36, y + 7), (left, y + 7)], fill=(250, 245, 225))


def _depths(picture: Image.Image, _place: Place, horizon: int, rng: random.Random) -> None:
    """Draws corals on the ground and bubbles in the water."""
    for _ in range(rng.randint(1, 3)):
        _landmark(picture, rng.choice(CORALS), rng, horizon, (30, 70))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(6, 16)):
        x, y, radius = rng.uniform(0, CANVAS), rng.uniform(0, horizon), rng.uniform(2, 6)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(125, 205, 235), outline=(215, 245, 255))


def _shade(colour: Colour, light: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(value * light)) for value in colour)
    return red, green, blue


PLACES: dict[str, Place] = {
    "grass": Place(
        phrase="on the grass",
        sky=((110, 180, 250), (205, 232, 255)),
        ground=((120, 190, 80), (70, 140, 50)),
        furnish=_clouds,
        landmark="1f333",
    ),
    "beach": Place(
        phrase="on the beach",
        sky=((90, 190, 245), (190, 235, 255)),
        ground=((245, 222, 170), (225, 190, 125)),
        furnish=_clouds,
        landmark="1f334",
        far=(60, 150, 215),
    ),
    "snow": Place(
        phrase="in the snow",
        sky=((175, 195, 220), (225, 235, 245)),
        ground=((245, 250, 255), (205, 220, 240)),
        furnish=_clouds,
        landmark="1f332",
    ),
    "desert": Place(
        phrase="in the desert",
        sky=((250, 190, 120), (255, 230, 180)),
        ground=((225, 160, 85), (185, 115, 55)),
        furnish=_clouds,
        landmark="1f335",
    ),
    "night": Place(
        phrase="at night",
        sky=((12, 16, 48), (50, 50, 100)),
        ground=((40, 60, 60), (20, 32, 40)),
        furnish=_stars,
        landmark=MOON,
    ),
    "table": Place(
        phrase="on a table",
        sky=((200, 175, 160), (225, 205, 190)),
        ground=((165, 105, 65), (120, 70, 40)),
        furnish=_planks,
        flat=True,
    ),
    "forest": Place(
        phrase="in the forest",
        sky=((150, 200, 245), (215, 235, 250)),
        ground=((70, 122, 46), (48, 82, 34)),
        furnish=_trees,
    ),
    "city": Place(
        phrase="in the city",
        sky=((130, 175, 225), (220, 225, 235)),
        ground=((215, 195, 185), (180, 155, 142)),
        furnish=_street,
        flat=True,
    ),
    "moon": Place(
        phrase="on the moon",
        sky=((10, 12, 32), (22, 24, 52)),
        ground=((205, 215, 232), (165, 178, 205)),
        furnish=_craters,
        landmark=EARTH,
    ),
    "room": Place(
        phrase="in a room",
        sky=((185, 212, 238), (208, 228, 244)),
        ground=((238, 205, 155), (220, 178, 120)),
        furnish=_walls,
        flat=True,
    ),
    "road": Place(
        phrase="on a road",
        sky=((120, 185, 250), (215, 235, 255)),
        ground=((66, 66, 96), (44, 44, 68)),
        furnish=_road,
        landmark="26f0-fe0f",
        flat=True,
    ),
    "sea": Place(
        phrase="under the sea",
        sky=((70, 175, 225), (25, 95, 170)),
        ground=((232, 208, 155), (205, 172, 112)),
        furnish=_depths,
    ),
}
