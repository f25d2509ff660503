"""Emoji sprites, in their own colours or repainted."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.workspace import sprites_folder

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (355, 0.88, 0.88),
    "orange": (27, 0.90, 0.98),
    "yellow": (50, 0.85, 0.99),
    "green": (97, 0.75, 0.62),
    "blue": (214, 0.82, 0.90),
    "purple": (272, 0.66, 0.75),
    "pink": (333, 0.42, 0.99),
}
"""Hue (degrees), saturation and value of each named colour, to which the middle of a sprite's paint is moved."""

PAINT: dict[str, tuple[float, float]] = {
    "1f388": (280, 10), "1f697": (310, 10), "2602-fe0f": (230, 300), "1fad6": (310, 35),
    "1f9e2": (175, 230), "1f339": (320, 20), "1f337": (300, 350), "1f4d5": (310, 360), "1f3b8": (310, 360),
    "1f381": (10, 65), "1f34e": (300, 45), "1f69c": (125, 165), "1f69a": (335, 60),
    "1f68c": (12, 60), "1f41f": (175, 240), "1f426": (310, 8), "1f3c0": (330, 45),
    "1f6e9-fe0f": (325, 365), "1f438": (125, 170), "1f422": (125, 205),
}  # fmt: skip
"""First and last hue of each sprite's paint in degrees; its leaves, windows and lamps lie outside."""
REPAINTED = {"1f438": "green", "1f422": "green", "1f69c": "green"}
"""Sprites of a bluish green, which the VAE reproduces as blue."""
EDGE = 12  # degrees of hue over which paint fades out
FAINT, STRONG = 0.1, 0.25  # saturations between which paint fades in: greys are not paint
DARK, LIT = 0.2, 0.4  # values between which paint fades in: black lines are not paint


@functools.cache
def sprite(code: str, colour: str = "") -> Image.Image:
    """Returns an emoji's sprite (RGBA), cropped to its visible part, repainted if a colour of ``COLOURS`` is given."""
    colour = colour or REPAINTED.get(code, "")
    image = Image.open(sprites_folder() / f"{code}.webp").convert("RGBA")
    image = image.crop(image.getbbox())
    return painted(image, PAINT[code], colour) if colour else image


def painted(image: Image.Image, hues: tuple[float, float], colour: str) -> Image.Image:
    """Returns the picture with the colours between two hues changed to a named colour; light and shade are kept."""
    plain = np.asarray(image.convert("RGB"), dtype=float)
    hue, saturation, value = np.moveaxis(np.asarray(image.convert("RGB").convert("HSV")) / 255, 2, 0)
    reach = (hues[1] - hues[0]) % 360 / 2
    off = (hue * 360 - hues[0] - reach + 180) % 360 - 180  # distance from the middle of the paint
    strength = ((reach + EDGE - np.abs(off)) / EDGE).clip(0, 1)
    strength *= ((saturation - FAINT) / (STRONG - FAINT)).clip(0, 1)
    strength *= ((value - DARK) / (LIT - DARK)).clip(0, 1)
    seen = (strength > 0.5) & (np.asarray(image.getchannel("A")) > 127)
    if not seen.any():
        return image
    to_hue, to_saturation, to_value = COLOURS[colour]
    bands = (
        (to_hue + 0.4 * off) / 360 % 1,
        _shifted(saturation, float(np.median(saturation[seen])), to_saturation),
        _shifted(value, float(np.median(value[seen])), to_value),
    )
    paint = Image.merge("HSV", [Image.fromarray((band * 255).round().astype("uint8")) for band in bands])
    mixed = plain + (np.asarray(paint.convert("RGB")) - plain) * strength[..., None]
    made = Image.fromarray(mixed.round().astype("uint8"))
    made.putalpha(image.getchannel("A"))
    return made


def _shifted(band: NDArray[np.float64], middle: float, aim: float) -> NDArray[np.float64]:
    """Maps values in [0, 1] so that `middle` becomes `aim`: down by a factor, up by a power, to clip none."""
    if aim <= middle:
        return band * (aim / middle)
    return band ** (math.log(aim) / math.log(middle))
