"""What a model painted -> the finished picture, and the record of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli import artefacts, images
from diffedit_cli.artefacts import Latents, Mask
from diffedit_cli.images import Picture


@dataclass(frozen=True)
class Painted:
    """What a model painted under a mask, (h, w, 3) in [-1, 1], `cells` latents long, and from what parameters."""

    picture: NDArray[np.float32]
    cells: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Edited:
    """The finished picture, what the model painted before it was composed (h, w, 3), what from, and the record.

    An inpainting model paints without latents.
    """

    image: Image.Image
    decoded: NDArray[np.uint8]
    mask: Mask
    latents: Latents | None
    record: Mapping[str, Any]


def finished(
    picture: Picture, mask: Mask, latents: Latents | None, painted: Painted, about: Mapping[str, Any], feather: float
) -> Edited:
    """The picture with what was painted in place of what the mask covers, fading in over `feather` latent cells.

    `about` says of what and by which model.
    """
    decoded = pixels(painted.picture)
    image = images.compose(picture, decoded, mask.pixels, feather * max(picture.size) / painted.cells)
    made = {"mask": mask.record(), "edit": painted.record} | ({"latents": latents.made} if latents else {})
    inner = {stage: {k: v for k, v in part.items() if k not in about} for stage, part in made.items()}
    return Edited(image, decoded, mask, latents, artefacts.record("edit", {**about, **inner}))


def pixels(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """From [-1, 1]."""
    return ((pictures + 1) * 127.5).round().astype(np.uint8)
