"""Shows pictures on a terminal, two pixels per character.

Half blocks in two colours work on every terminal with colours. Protocols for true pixels (sixel, kitty) have to ask
the terminal first and read the answer from standard input, where a picture may be coming in.
"""

from __future__ import annotations

from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

from diffedit_cli.images import previews

MOST_COLUMNS = 160  # a wider preview would fill the screen
UPPER_HALF = "\N{UPPER HALF BLOCK}"


def strip(path: str, columns: int) -> Segments:
    """Returns the tiles of a preview file as half blocks, at most `columns` characters wide."""
    with Image.open(path) as file:
        image = previews.without_captions(file)
        width = min(columns, MOST_COLUMNS, image.width)
        rows = max(1, round(image.height * width / image.width / 2))
        pixels = image.convert("RGB").resize((width, 2 * rows), Image.Resampling.LANCZOS)
    segments = []
    for row in range(rows):
        for column in range(width):
            upper, lower = (Color.from_rgb(*_pixel(pixels, column, 2 * row + half)) for half in (0, 1))
            segments.append(Segment(UPPER_HALF, Style(color=upper, bgcolor=lower)))
        segments.append(Segment.line())
    return Segments(segments)


def _pixel(image: Image.Image, column: int, row: int) -> tuple[int, int, int]:
    red, green, blue = image.getpixel((column, row))  # type: ignore[misc]
    return int(red), int(green), int(blue)
