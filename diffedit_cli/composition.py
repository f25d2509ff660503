"""What a model painted -> the finished picture, and the record of how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli import artefacts, images
from diffedit_cli.artefacts import Latents, Mask
from diffedit_cli.images import Box, Picture


@dataclass(frozen=True)
class Painted:
    """What a model painted of a part of a picture, (h, w, 3) in [-1, 1], `cells` latents long, and what from."""

    picture: NDArray[np.float32]
    cells: int
    box: Box
    record: Mapping[str, Any]
    latents: Mapping[str, Any] | None = None  # how its inversion was made; an inpainting model has none


@dataclass(frozen=True)
class Edited:
    """The finished picture, what the model painted of it before it was composed, what from, and the record.

    `latents` are those of the whole picture, if it was painted as a whole and not by an inpainting model.
    """

    picture: Picture
    painted: Sequence[Painted]
    mask: Mask
    latents: Latents | None
    record: Mapping[str, Any]

    @property
    def image(self) -> Image.Image:
        """The finished picture in its own mode, of 8 bits."""
        return self.picture.image


def finished(
    picture: Picture,
    mask: Mask,
    latents: Latents | None,
    painted: Sequence[Painted],
    about: Mapping[str, Any],
    feather: float,
) -> Edited:
    """The picture with what was painted in place of what the mask covers, fading in over `feather` latent cells.

    `about` says of what and by which model.
    """
    composed = picture
    for part in painted:
        left, top, right, bottom = part.box
        width = feather * max(right - left, bottom - top) / part.cells
        composed = images.compose(composed, pixels(part.picture), mask.pixels, width, part.box)
    first = painted[0]
    made = {"mask": mask.record(), "edit": first.record} | ({"latents": first.latents} if first.latents else {})
    inner = {stage: {k: v for k, v in part.items() if k not in about} for stage, part in made.items()}
    return Edited(composed, painted, mask, latents, artefacts.record("edit", {**about, **inner}))


def pixels(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """From [-1, 1]."""
    return ((pictures + 1) * 127.5).round().astype(np.uint8)
