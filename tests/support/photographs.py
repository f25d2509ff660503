"""Photographs of scikit-image in small sizes."""

from __future__ import annotations

from PIL import Image
from skimage import data


def photograph(name: str = "chelsea", size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Returns a photograph of scikit-image, resized to (width, height)."""
    return Image.fromarray(getattr(data, name)()).convert("RGB").resize(size)
