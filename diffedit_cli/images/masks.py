"""Masks of the pixels to repaint, and their files: PNG written by diffedit, or any picture."""

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
"""Key in the record of a mask that shows what an edit changed."""
CHOSEN = ("drawn", "within", "exclude", "box", "point", CHANGED)
"""Keys in the records of masks that a user chose."""


@dataclass(frozen=True)
class Mask:
    """A mask `pixels` (H, W) of the picture's size, true = repaint, with the record `made` (None: drawn by hand).

    A soft mask also has the amount as `grey` (H, W), 255 = repaint fully; its `pixels` are those where `grey` is not 0.
    """

    pixels: NDArray[np.bool_]
    made: Mapping[str, Any] | None = None
    name: str = ""  # path of the file it was read from
    grey: NDArray[np.uint8] | None = None
    contrast: NDArray[np.float32] | None = None  # (h, w), the map it was thresholded from, for previews

    @classmethod
    def soft(cls, grey: NDArray[np.uint8], made: Mapping[str, Any] | None = None, name: str = "") -> Mask:
        """Returns a soft mask of grey values (H, W), or a hard mask if all are 0 or 255."""
        return cls(grey > 0, made, name, None if np.isin(grey, (0, 255)).all() else grey)

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The mask as grey values (H, W), 255 = repaint fully."""
        return self.pixels.astype(np.uint8) * 255 if self.grey is None else self.grey

    @property
    def share(self) -> float:
        """The fraction of the picture that the mask covers."""
        return float(self.pixels.mean())

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of size and values."""
        values = np.packbits(self.pixels) if self.grey is None else self.grey
        return hashlib.sha256(f"{self.pixels.shape}".encode() + values.tobytes()).hexdigest()

    @property
    def is_final(self) -> bool:
        """Whether the mask is used unchanged: drawn by hand, restricted by a user, or the change of an edit."""
        return self.made is None or any(name in self.made for name in CHOSEN)

    def cut(self, keep: NDArray[np.bool_], made: Mapping[str, Any]) -> Mask:
        """Returns the part of the mask where `keep` (H, W) is true, with the record `made`."""
        grey = None if self.grey is None else self.grey * keep
        return replace(self, pixels=self.pixels & keep, made=made, grey=grey)

    def record(self) -> dict[str, Any]:
        """Returns the record of the mask, for the metadata of results made with it."""
        if self.made is not None:
            return dict(self.made)
        return {"drawn": self.digest} | ({} if self.grey is None else {"soft": True})


def union(masks: Sequence[Mask]) -> Mask:
    """Returns the union of masks of equal size, with the record of the first."""
    first, *others = masks
    if not others:
        return first
    return Mask.soft(np.maximum.reduce([mask.shown for mask in masks]), first.made)


def pack_mask(mask: Mask, *, with_record: bool = True) -> bytes:
    """Returns an 8-bit greyscale PNG: white = repaint, grey = repaint in part.

    If not `with_record`, the record says only that diffedit made the mask. A mask drawn by hand has no record.
    """
    about = {**mask.made, "pixels": mask.digest} if mask.made and with_record else {}
    return codecs.encode_png(mask.shown, records.record("mask", about) if mask.made else None)


def load_mask(path: Path, soft: bool = False, max_pixels: int = files.MAX_PIXELS) -> Mask:
    """Reads a mask from a picture file; see `as_mask`. Raises InputError, or DeviceError if memory is short."""
    return as_mask(codecs.load(path, max_pixels), soft)


def as_mask(picture: Picture, soft: bool = False) -> Mask:
    """Converts a picture to a mask: brightness of at least 128 of 255 means repaint, transparent means keep.

    If `soft`, grey means repaint in part. The record of a mask that diffedit wrote is kept if the pixels still match.
    """
    image = picture.image
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    grey = np.array(image.convert("L"))
    drawn = Mask.soft(grey, name=picture.name) if soft else Mask(grey >= 128, name=picture.name)
    about = dict(picture.record or {})
    # painted over since it was written: its record no longer holds
    if about.get("kind") != "mask" or about.pop("pixels", None) != drawn.digest:
        return drawn
    return replace(drawn, made=records.body(about))
