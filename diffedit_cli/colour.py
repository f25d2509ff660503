"""Colour profiles: a picture's colours -> sRGB, which is what models see, and what they painted -> its colours."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # ICC's names
SAME = 2  # levels of 255: a profile that moves no colour further is another wording of sRGB


@dataclass(frozen=True)
class Colours:
    """How a picture's colours become sRGB and back. Without transforms they are sRGB, or Pillow's plain CMYK."""

    forth: ImageCms.ImageCmsTransform | None = None
    back: ImageCms.ImageCmsTransform | None = None
    digest: str = ""  # of the profile, where there are transforms

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """L, RGB or CMYK -> RGB."""
        return image.convert("RGB") if self.forth is None else self.forth.apply(image)

    def from_srgb(self, image: Image.Image, mode: str) -> Image.Image:
        """RGB -> L, RGB or CMYK."""
        return image.convert(mode) if self.back is None else self.back.apply(image)


SRGB = Colours()


def of_profile(profile: bytes, mode: str) -> Colours:
    """The colours of an L, RGB or CMYK picture with this ICC profile. Raises ValueError for one that does not fit."""
    try:
        ours, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        space = ours.profile.xcolor_space.strip()
        if space != SPACES[mode]:
            raise ValueError(f"it is for {space}, the picture is {SPACES[mode]}")
        how = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        forth = ImageCms.buildTransform(ours, srgb, mode, "RGB", *how)
        back = ImageCms.buildTransform(srgb, ours, "RGB", mode, *how)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(str(error) or "it is damaged") from error
    if mode != "CMYK" and _is_srgb(forth, mode):
        return SRGB
    return Colours(forth, back, hashlib.sha256(profile).hexdigest())


def _is_srgb(forth: ImageCms.ImageCmsTransform, mode: str) -> bool:
    ramp = np.linspace(0, 255, 17).astype(np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(17, -1, 3) if mode == "RGB" else ramp[None]
    probe = Image.fromarray(colours)
    moved = np.asarray(forth.apply(probe), dtype=np.int16) - np.asarray(probe.convert("RGB"), dtype=np.int16)
    return bool(np.abs(moved).max() <= SAME)
