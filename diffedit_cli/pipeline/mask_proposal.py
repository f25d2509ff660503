"""Masks as they are proposed for a picture, sharpened by a closer look at their regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli.engine import evidence
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import zoom


@dataclass(frozen=True)
class MaskProposal:
    """A mask uint8 (H, W), the map (h, w) that it was derived from, and the evidence for --from if it was measured.

    `wide` is the mask at the default threshold if a higher one is set, else the same as `shown`. `explained` (2, h, w)
    is the unexplained error without a prompt, and with --from.
    """

    shown: NDArray[np.uint8]
    wide: NDArray[np.uint8]
    contrast: NDArray[np.float32]
    explained: NDArray[np.float32] | None = None

    def gain(self) -> float | None:
        """Returns how well --from explains the region, or all of the map if the region is empty (engine.evidence)."""
        if self.explained is None:
            return None
        without, told = torch.from_numpy(self.explained)
        if self.shown.any():
            M = torch.from_numpy((self.shown > 0).astype(np.float32))[None]
            weights = torch.nn.functional.adaptive_avg_pool2d(M, without.shape)[0]
        else:
            weights = torch.from_numpy(self.contrast)
        return evidence.gain(without, told, weights)


def as_grey(M: Tensor) -> NDArray[np.uint8]:
    """Returns a mask (H, W), boolean or in [0, 1], as grey values from 0 to 255."""
    return (M * 255).round().byte().numpy() if M.is_floating_point() else M.numpy().astype(np.uint8) * 255


def look_closer(
    look: Callable[[Picture], MaskProposal], picture: Picture, factor: float | None, native: int
) -> MaskProposal:
    """Returns the mask that `look` finds, searched again in crops of its regions, ever closer while that pays.

    The crops are chosen at the default threshold if a higher one is set: other crops would give other maps, and a mask
    that is not a subset of the mask at a lower threshold. `factor` and `native` are those of `zoom.boxes`.
    """
    found = look(picture)
    boxes = zoom.boxes(found.wide > 0, factor, native, specks=False)
    parts = {box: look_closer(look, picture.crop(box), None if factor is None else 1.0, native) for box in boxes}
    if not parts:
        return found
    closer = {box: (part.shown, part.wide) for box, part in parts.items()}
    wider = {box: (part.wide, part.wide) for box, part in parts.items()}
    return replace(
        found,
        shown=zoom.sharpen(found.shown, found.wide, closer),
        wide=zoom.sharpen(found.wide, found.wide, wider),
    )
