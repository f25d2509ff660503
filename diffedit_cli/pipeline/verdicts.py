"""Detects faults of a result that can be measured, for a warning in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.images import pictures
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import zoom
from diffedit_cli.pipeline.composition import EditVariant
from diffedit_cli.pipeline.edit_plan import PAINTS_TARGET, Plan
from diffedit_cli.pipeline.param_fields import POISSON

Bools = NDArray[np.bool_]
Pixels = NDArray[np.int16]

SAME = 18  # of 255: a colour that changed by no more looks unchanged
LEFT = 0.4  # share of unchanged pixels above which the old thing counts as left
SEAM = 2.0  # times the picture's own step of colours across the rim
LEAST_SEAM = 24.0  # of 255: a smaller step is not visible


def best(results: Sequence[EditVariant]) -> EditVariant:
    """Returns the result that --to explains best (engine.evidence)."""
    return min(results, key=lambda result: result.unexplained or 0.0)


def warning(edited: EditVariant, picture: Picture, plan: Plan, limit: float | None) -> str | None:
    """Returns what went wrong and what to try, or None; `limit` is the largest error --to may leave unexplained."""
    if (
        plan.kind in PAINTS_TARGET
        and limit is not None
        and edited.unexplained is not None
        and edited.unexplained > limit
    ):
        return (
            f"The result of {picture.name} hardly shows {plan.given.to}; try another --seed, --variants 4 --best, or "
            "other words."
        )
    M, before, after = _around(edited, picture)
    thing = _without_room(M, plan.given.room or 0.0) if plan.kind == "remove" else M
    if plan.kind in ("object", "remove") and edited.mask.made is not None and _left(thing, before, after) > LEFT:
        larger = "a lower --threshold, " if plan.given.compares else ""
        return f"Much of the old content of {picture.name} is left; try another --seed, {larger}or a higher --guidance."
    if plan.kind != "background" and _seam(M, before, after) > SEAM:  # the rim of a background is a thing's own outline
        blending = "" if plan.seam == POISSON else "--seam poisson, "
        return f"The edit of {picture.name} has a seam; try {blending}--feather 1, or more --room."
    return None


def _around(edited: EditVariant, picture: Picture) -> tuple[Bools, Pixels, Pixels]:
    """Returns the mask (h, w) and the colours (h, w, 3) before and after, in the mask's box and a pixel around it."""
    M, (width, height) = edited.mask.pixels, picture.size
    left, top, right, bottom = pictures.bounds(M, (0, 0, width, height)) or (0, 0, width, height)
    box = max(0, left - 1), max(0, top - 1), min(width, right + 1), min(height, bottom + 1)
    before, after = (
        np.asarray(one.crop(box).image.convert("RGB"), dtype=np.int16) for one in (picture, edited.picture)
    )
    return zoom.inside(M, box), before, after


def _without_room(M: Bools, room: float) -> Bools:
    """Undoes the growth of a mask by `room` times its longer side: that margin looks as it did before the edit."""
    from scipy import ndimage

    reach = room * max(M.shape) / (1 + 2 * room)
    inner: Bools = ndimage.distance_transform_edt(M) > reach
    return inner if inner.any() else M


def _left(M: Bools, before: Pixels, after: Pixels) -> float:
    """Returns the share of the masked pixels that look as they did before the edit."""
    apart = np.abs(before - after).max(axis=2)[M]
    return float((apart <= SAME).mean()) if apart.size else 0.0


def _seam(M: Bools, before: Pixels, after: Pixels) -> float:
    """Returns the step of colours across the mask's rim, relative to the picture's own; 0 if it is not visible."""
    was, now = (_step(M, pixels) for pixels in (before, after))
    return now / max(was, 1.0) if now > LEAST_SEAM else 0.0


def _step(M: Bools, pixels: Pixels) -> float:
    """Returns the mean difference of neighbouring pixels of which one is masked; 0 if there are none."""
    across = [np.abs(np.diff(pixels, axis=axis)).max(axis=2)[np.diff(M, axis=axis)] for axis in (0, 1)]
    return float(np.concatenate(across).mean()) if sum(map(len, across)) else 0.0
