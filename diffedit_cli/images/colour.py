"""Colour profiles: a picture's colours -> sRGB, which is what models see, and what they painted -> its colours."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from diffedit_cli.images import icc_profiles

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


def stated_profile(
    cicp: tuple[int, int] | None, chunks: Iterable[tuple[bytes, bytes]], has_profile: bool, mode: str
) -> bytes:
    """A profile for what a file says in numbers of an L or RGB picture; none for sRGB, or where it has its own.

    `cicp` are ITU-T H.273's, which go before a profile, and `chunks` are PNG's. Raises ValueError.
    """
    if mode not in ("L", "RGB"):
        return b""
    if cicp is not None:
        return icc_profiles.of_cicp(*cicp, mode == "L")
    said = dict(chunks)
    if has_profile or b"sRGB" in said or not (b"gAMA" in said or b"cHRM" in said):
        return b""
    try:
        (gamma,) = struct.unpack(">I", said.get(b"gAMA", bytes(4)))
        corners = struct.unpack(">8I", said[b"cHRM"]) if b"cHRM" in said else ()
    except struct.error as error:
        raise ValueError("a chunk of another length") from error
    return icc_profiles.of_chunks(gamma, corners, mode == "L")


def _is_srgb(forth: ImageCms.ImageCmsTransform, mode: str) -> bool:
    ramp = np.linspace(0, 255, 17).astype(np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(17, -1, 3) if mode == "RGB" else ramp[None]
    probe = Image.fromarray(colours)
    moved = np.asarray(forth.apply(probe), dtype=np.int16) - np.asarray(probe.convert("RGB"), dtype=np.int16)
    return bool(np.abs(moved).max() <= SAME)
