"""Whether a mask or latents file that is given to an edit was made for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffedit_cli.errors import InputError, NothingToEdit, UsageError
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import mask_limits, prompts
from diffedit_cli.pipeline.edit_kind import KINDS
from diffedit_cli.pipeline.edit_plan import Plan
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params


def check_given(
    picture: Picture, plan: Plan, mask: Mask | None, latents: Latents | None, inputs: Mapping[str, Any], inpaints: bool
) -> None:
    """Raises InputError for a mask or latents of something else, NothingToEdit for an empty mask.

    `inputs` is what results for the picture depend on; where an inpainting model paints, a mask may be of other steps.
    """
    if mask is not None:
        check_mask(mask, picture, None if inpaints else plan.given, inputs)
    if latents is not None:
        check_latents(latents, plan.given, inputs)


def check_mask(mask: Mask, picture: Picture, params: Params | None, about: Mapping[str, Any]) -> None:
    """Raises InputError for a mask of another picture, model or number of steps, NothingToEdit for an empty one.

    Without `params` the steps may differ: an inpainting model has its own.
    """
    mask_limits.check_size(mask, picture)
    if mask.made is not None:
        levels = {} if params is None else {"steps": params.steps, "clip-skip": params.clip_skip}
        _check_made("mask", mask.name, mask.made, {**about, **levels})
    if not mask.pixels.any():
        raise NothingToEdit(f"The mask {mask.name} is empty: nothing in it is white; paint what is to change.")


def follow_latents(latents: Latents, params: Params) -> Params:
    """The parameters with those of the latents where they give none."""
    made = latents.made
    names = {"strength": "strength", "invert_from": "invert-from", "last_level": "last-level"}
    said = {field: made.get(name, 0.0) for field, name in names.items()}
    return params.filled({field: value for field, value in said.items() if isinstance(value, int | float)})


def params_for_mask(mask: Mask | None, params: Params) -> Params:
    """The parameters with the kind of edit that a mask was found for, where no --from tells it."""
    kind = None if mask is None or mask.made is None else mask.made.get("region")
    return replace(params, region=kind) if kind in KINDS and params.region == AUTO and not params.from_ else params


def check_seen(gain: float | None, limit: float | None, picture: Picture, plan: Plan) -> None:
    """Raises NothingToEdit where --from does not explain the picture: what it names is not there."""
    if gain is not None and limit is not None and gain < limit:
        raise NothingToEdit(
            f"No {_thing(plan.given)} is seen in {picture.name}; say in --from what is there, or paint nevertheless "
            "with --anyway."
        )


def _thing(params: Params) -> str:
    """What --from names and --to does not, or all of it where a thing is only to look otherwise."""
    source = str(params.from_)
    if not isinstance(params.from_, str) or params.region in ("attribute", "background"):
        return source.removeprefix("a ").removeprefix("an ")
    return " ".join(params.telling_words)


def check_latents(latents: Latents, params: Params, about: Mapping[str, Any]) -> None:
    """Raises InputError for latents of another picture, model, caption or way through the levels.

    And UsageError for a zoom: the latents are those of the whole picture.
    """
    if params.zoom not in (AUTO, 1):
        raise UsageError(
            f"--zoom {params.zoom} paints parts of the picture, the latents are of all of it; leave one out."
        )
    ours = {
        **about,
        "steps": params.steps,
        "strength": params.strength,
        "last-level": params.last_level or 0.0,
        "scheduler": params.scheduler,
        "clip-skip": params.clip_skip,
    }
    if params.caption not in (None, AUTO):
        ours |= prompts.record("caption", params.caption)
    _check_made("latents file", latents.name, latents.made, ours)


def _check_made(what: str, name: str, made: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    made = {"clip-skip": Params.clip_skip, "last-level": 0.0, **made}  # said only where not the default
    keys = (
        "picture",
        "model",
        "steps",
        "strength",
        "last-level",
        "scheduler",
        "caption",
        "caption-embeds",
        "clip-skip",
    )
    for key in keys:
        if key in about and made.get(key) != about[key]:
            stated, ours = (_model_of(said) if key == "model" else said.get(key) for said in (made, about))
            told = key != "picture" and key in made
            detail = f"{key} {stated}, not {ours}" if told else f"another {key.removesuffix('-embeds')}"
            remedy = "diffedit mask" if what == "mask" else "diffedit invert"
            raise InputError(f"The {what} {name} was made for {detail}; make it again with {remedy}.")


def _model_of(record: Mapping[str, Any]) -> str:
    """A model and what is added to it, in words."""
    return " + ".join([record.get("model-name", "?"), *record.get("lora", ()), *record.get("embedding", ())])
