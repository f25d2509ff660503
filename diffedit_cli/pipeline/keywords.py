"""The parameters as keyword arguments, for type checkers and editors."""

from __future__ import annotations

import functools
import typing
from typing import Any, TypedDict

from diffedit_cli.pipeline import params
from diffedit_cli.pipeline.prompts import Prompt


class GivenParams(TypedDict, total=False):
    """The fields of `Params` as keyword arguments of functions that construct one."""

    from_: Prompt
    to: Prompt
    from_negative: Prompt
    to_negative: Prompt
    mask_method: str
    segment: str
    segmenter: str
    maps: int | str | None
    region: str
    room: float | None
    paste_above: float | None
    anyway: bool
    mask_strength: float | None
    clamp: float
    threshold: float | str
    smooth: float
    edges: float
    fill_holes: bool
    islands: float
    reach_down: float
    grow: float | None
    soft: bool
    zoom: float | str
    caption: Prompt | None
    invert_guidance: float
    strength: float | None
    invert_every: int | None
    invert_from: float | None
    last_level: float | None
    fixed_point: int
    reg_steps: int
    lambda_auto_corr: float
    lambda_kl: float
    auto_corr_rolls: int
    steps: int | None
    scheduler: str
    guidance: float | None
    guidance_end: float
    guidance_every: int
    keep: float
    align: bool
    negative: Prompt | None
    instruction: str
    feather: float
    seam: str
    clip_skip: int
    eta: float | None
    variants: int
    best: bool
    seed: int
    caption_model: str
    expand: int
    expand_model: str


def fits(name: str, value: Any) -> bool:
    """Whether a value has the type of a parameter; an int may stand for a float."""
    kinds = _kinds()[name]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


@functools.cache
def _kinds() -> dict[str, tuple[type, ...]]:
    return {name: typing.get_args(kind) or (kind,) for name, kind in typing.get_type_hints(params.Params).items()}
