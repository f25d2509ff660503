"""What is wrong with a result, as far as that can be seen without looking: for a warning in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.composition import Edited
from diffedit_cli.images import Picture
from diffedit_cli.plan import JUDGED, Plan

SAME = 18  # of 255: a colour that changed by no more looks as it did
LEFT = 0.4  # of what was to go: as it was before
SEAM = 2.0  # times the step of colours that the picture itself has across the rim
LEAST_SEAM = 24.0  # of 255: a step that nobody sees is none


def warning(edited: Edited, picture: Picture, plan: Plan, limit: float | None) -> str | None:
    """What went wrong, and what to try, if anything did."""
    if plan.kind in JUDGED and limit is not None and edited.unexplained is not None and edited.unexplained > limit:
        return (
            f"The result of {picture.name} hardly shows {plan.given.to}; try another --seed, --variants 4 --best, or "
            "other words."
        )
    if plan.kind in ("object", "remove") and edited.mask.made is not None and _left(edited, picture) > LEFT:
        return (
            f"Much of what was in {picture.name} is left; try another --seed, a lower --threshold, or a higher "
            "--guidance."
        )
    if _seam(edited, picture) > SEAM:
        return f"The edit of {picture.name} has a seam; try --feather 1, or more --room."
    return None


def _left(edited: Edited, picture: Picture) -> float:
    """The share of the masked pixels that look as they did."""
    before, after = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (picture.image, edited.image))
    apart = np.abs(before - after).max(axis=2)[edited.mask.pixels]
    return float((apart <= SAME).mean()) if apart.size else 0.0


def _seam(edited: Edited, picture: Picture) -> float:
    """How much larger the step of colours across the mask's rim is than the picture's own was."""
    M = edited.mask.pixels
    steps = []
    for image in (picture.image, edited.image):
        pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
        across = [
            np.abs(np.diff(pixels, axis=axis)).max(axis=2)[M.take(range(1, M.shape[axis]), axis) != _before(M, axis)]
            for axis in (0, 1)
        ]
        steps.append(float(np.concatenate(across).mean()) if sum(map(len, across)) else 0.0)
    before, after = steps
    return after / max(before, 1.0) if after > LEAST_SEAM else 0.0


def _before(M: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    return M.take(range(M.shape[axis] - 1), axis)
