"""Whether a mask or latents file that is given to an edit was made for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffedit_cli import limits, prompts
from diffedit_cli.artefacts import Latents, Mask
from diffedit_cli.errors import InputError, NothingToEdit, UsageError
from diffedit_cli.images import Picture
from diffedit_cli.params import AUTO, Params, levels_up_to


def check_mask(mask: Mask, picture: Picture, params: Params | None, about: Mapping[str, Any]) -> None:
    """Raises InputError for a mask of another picture, model or number of steps, NothingToEdit for an empty one.

    Without `params` the steps may differ: an inpainting model has its own.
    """
    limits.check_size(mask, picture)
    if mask.made is not None:
        levels = {} if params is None else {"steps": params.steps, "clip-skip": params.clip_skip}
        _check_made("mask", mask.name, mask.made, {**about, **levels})
    if not mask.pixels.any():
        raise NothingToEdit(f"The mask {mask.name} is empty: nothing in it is white; paint what is to change.")


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
        "scheduler": params.scheduler,
        "clip-skip": params.clip_skip,
    }
    if params.caption not in (None, AUTO):
        ours |= prompts.record("caption", params.caption)
    _check_made("latents file", latents.name, latents.made, ours)
    if len(latents.trajectory) != levels_up_to(params.strength, params.steps) + 1:
        raise InputError(
            f"The latents file {latents.name} holds another number of levels than it says; "
            "make it again with diffedit invert."
        )


def _check_made(what: str, name: str, made: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    made = {"clip-skip": Params.clip_skip, **made}  # said only where not the default
    for key in ("picture", "model", "steps", "strength", "scheduler", "caption", "caption-embeds", "clip-skip"):
        if key in about and made.get(key) != about[key]:
            stated, ours = (_model_of(said) if key == "model" else said.get(key) for said in (made, about))
            told = key != "picture" and key in made
            detail = f"{key} {stated}, not {ours}" if told else f"another {key.removesuffix('-embeds')}"
            remedy = "diffedit mask" if what == "mask" else "diffedit invert"
            raise InputError(f"The {what} {name} was made for {detail}; make it again with {remedy}.")


def _model_of(record: Mapping[str, Any]) -> str:
    """A model and what is added to it, in words."""
    return " + ".join([record.get("model-name", "?"), *record.get("lora", ()), *record.get("embedding", ())])
