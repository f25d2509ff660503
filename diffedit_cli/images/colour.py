"""Conversion between a picture's colours and sRGB, in which models see and paint, by its colour profile."""

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
SAME = 2  # levels of 255: a profile that changes no colour by more is treated as sRGB


@dataclass(frozen=True)
class Colours:
    """Transforms of a picture's colours to sRGB and back. Without transforms they are sRGB, or Pillow's plain CMYK."""

    forth: ImageCms.ImageCmsTransform | None = None
    back: ImageCms.ImageCmsTransform | None = None
    digest: str = ""  # SHA-256 (hex) of the profile; empty without transforms

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Converts an L, RGB or CMYK image to sRGB."""
        return image.convert("RGB") if self.forth is None else self.forth.apply(image)

    def from_srgb(self, image: Image.Image, mode: str) -> Image.Image:
        """Converts an sRGB image to `mode`: L, RGB or CMYK."""
        return image.convert(mode) if self.back is None else self.back.apply(image)


SRGB = Colours()


def of_profile(profile: bytes, mode: str) -> Colours:
    """Returns the colours of an L, RGB or CMYK picture with an ICC profile. Raises ValueError if it does not fit."""
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
    """Returns an ICC profile for the numeric colour description of an L or RGB picture; empty if none is needed.

    `cicp` are ITU-T H.273 primaries and transfer characteristics, which override an embedded profile. `chunks` are a
    PNG's colour chunks, which do not. None is needed for sRGB. Raises ValueError if no profile can express the
    description, or if it is damaged.
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
        raise ValueError("its gAMA or cHRM chunk has the wrong length") from error
    return icc_profiles.of_chunks(gamma, corners, mode == "L")


def _is_srgb(forth: ImageCms.ImageCmsTransform, mode: str) -> bool:
    ramp = np.linspace(0, 255, 17).astype(np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(17, -1, 3) if mode == "RGB" else ramp[None]
    probe = Image.fromarray(colours)
    moved = np.asarray(forth.apply(probe), dtype=np.int16) - np.asarray(probe.convert("RGB"), dtype=np.int16)
    return bool(np.abs(moved).max() <= SAME)
