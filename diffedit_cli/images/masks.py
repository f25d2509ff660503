"""Masks: which pixels are repainted. Their files are PNG, ours or anyone's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.images import codecs
from diffedit_cli.images.pictures import Picture
from diffedit_cli.storage import files, records

CHANGED = "changed"
"""In the record of the mask of what an edit changed."""
CHOSEN = ("drawn", "within", "exclude", "box", "point", CHANGED)
"""In the records of masks that somebody has chosen."""


@dataclass(frozen=True)
class Mask:
    """A mask of the picture's size, true = repaint, and how it was made (None: drawn by hand).

    A soft one also says how much, as `grey` (H, W), 255 = fully; `pixels` are then those that are not 0.
    """

    pixels: NDArray[np.bool_]
    made: Mapping[str, Any] | None = None
    name: str = ""  # of the file it was read from
    grey: NDArray[np.uint8] | None = None
    contrast: NDArray[np.float32] | None = None  # (h, w), of the whole picture: what it was found in, for people to see

    @classmethod
    def soft(cls, grey: NDArray[np.uint8], made: Mapping[str, Any] | None = None, name: str = "") -> Mask:
        """Of grey values (H, W); of black and white it is a mask like any other."""
        return cls(grey > 0, made, name, None if np.isin(grey, (0, 255)).all() else grey)

    @property
    def shown(self) -> NDArray[np.uint8]:
        """Its pixels as grey, 255 = repaint fully."""
        return self.pixels.astype(np.uint8) * 255 if self.grey is None else self.grey

    @property
    def share(self) -> float:
        """The fraction of the picture that it covers."""
        return float(self.pixels.mean())

    @property
    def digest(self) -> str:
        """Sha256 (hex) of size and pixels."""
        values = np.packbits(self.pixels) if self.grey is None else self.grey
        return hashlib.sha256(f"{self.pixels.shape}".encode() + values.tobytes()).hexdigest()

    @property
    def is_final(self) -> bool:
        """Whether it is taken as it is: drawn by hand, cut down to what somebody chose, or what an edit changed."""
        return self.made is None or any(name in self.made for name in CHOSEN)

    def cut(self, keep: NDArray[np.bool_], made: Mapping[str, Any]) -> Mask:
        """What lies where `keep` is true."""
        grey = None if self.grey is None else self.grey * keep
        return replace(self, pixels=self.pixels & keep, made=made, grey=grey)

    def record(self) -> dict[str, Any]:
        """For the metadata of what is made with this mask."""
        if self.made is not None:
            return dict(self.made)
        return {"drawn": self.digest} | ({} if self.grey is None else {"soft": True})


def union(masks: Sequence[Mask]) -> Mask:
    """All that any of some masks of one size covers, and how the first was made."""
    first, *others = masks
    if not others:
        return first
    return Mask.soft(np.maximum.reduce([mask.shown for mask in masks]), first.made)


def pack_mask(mask: Mask, *, telling: bool = True) -> bytes:
    """An 8-bit greyscale PNG, white = repaint, and grey = in part; not `telling` more than that it is ours."""
    about = {**mask.made, "pixels": mask.digest} if mask.made and telling else {}
    return codecs.encode_png(mask.shown, records.record("mask", about) if mask.made else None)


def load_mask(path: Path, soft: bool = False, max_pixels: int = files.MAX_PIXELS) -> Mask:
    """A mask file, ours or drawn: at least half bright means repaint, or `soft` grey in part. Raises InputError."""
    return as_mask(codecs.load(path, max_pixels), soft)


def as_mask(picture: Picture, soft: bool = False) -> Mask:
    """A picture as a mask: at least half bright means repaint, or `soft` grey in part; transparent means not."""
    image = picture.image
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    grey = np.array(image.convert("L"))
    drawn = Mask.soft(grey, name=picture.name) if soft else Mask(grey >= 128, name=picture.name)
    about = dict(picture.record or {})
    # painted over since: what it says of itself no longer holds
    if about.get("kind") != "mask" or about.pop("pixels", None) != drawn.digest:
        return drawn
    return replace(drawn, made=records.body(about))
