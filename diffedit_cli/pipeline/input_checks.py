"""Checks whether a mask or latents file that is provided for an edit was made for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import InputError, NothingToEdit, UsageError
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline import mask_limits, prompts
from diffedit_cli.pipeline.edit_kind import KINDS
from diffedit_cli.pipeline.edit_plan import NOISE, PICTURE, Plan
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.lexicon import PLACING
from diffedit_cli.pipeline.mask_expression import SEGMENT, Operation
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params


def check_given(
    picture: Picture, plan: Plan, mask: Mask | None, latents: Latents | None, inputs: Mapping[str, Any], inpaints: bool
) -> None:
    """Raises InputError for a mask or latents of another edit, NothingToEdit for an empty mask.

    `inputs` are the inputs of all results for the picture. With an inpainting model the mask may have been made with
    other steps.
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
        known = {**about, **levels} if "model" in mask.made else {"picture": about["picture"]}  # else it fits any model
        _check_made("mask", mask.name, mask.made, known)
    if not mask.pixels.any():
        raise NothingToEdit(f"The mask {mask.name} is empty: nothing in it is white; paint what is to change.")


def whole_or_operand(mask: Mask | None, params: Params) -> tuple[Mask | None, Mask | None]:
    """Returns the given mask first if it is the whole mask, or else second, if --mask-method joins it with others.

    A whole mask that was made with a drawn one counts as drawn, because only its file repeats it. Raises UsageError
    for a mask that is missing, or that contradicts the parameters.
    """
    if params.draws and mask is None:
        raise UsageError("--mask-method names drawn; give the file of that mask with --mask.")
    if params.draws or mask is None:
        return None, mask
    expression, method = params.mask_expression, params.mask_method
    if isinstance(expression, Operation) or expression.name == SEGMENT:
        unused = "--segment" if method == AUTO else f"--mask-method {method}"
        joined = f"({method})" if isinstance(expression, Operation) else SEGMENT if method == AUTO else method
        raise UsageError(
            f"--mask is the whole mask, and {unused} has no effect; leave it out, or join both: --mask-method "
            f"{shlex.quote(f'drawn & {joined}')}."
        )
    if mask.made is not None and {"drawn", "mask-method"} <= mask.made.keys():
        kept = {name: mask.made[name] for name in ("picture", "size", "region") if name in mask.made}
        mask = replace(mask, made={**kept, "drawn": mask.digest})
    return mask, None


def check_operand(mask: Mask | None, params: Params) -> None:
    """Raises UsageError unless a mask is given exactly if --mask-method joins it with others."""
    if whole_or_operand(mask, params)[0] is not None:
        raise UsageError("--mask is an operand of --mask-method; name drawn there, or leave it out.")


def unused_guidance(params: Params, folder: ModelFolder) -> list[str]:
    """Returns a warning for each given parameter of prompts and guidance that the model cannot follow."""
    distilled = f"the model {folder.name} is distilled, and takes no guidance; leave it out."
    embedded = (
        f"the model {folder.name} has guidance as an input of its network, without a negative prompt; leave it out."
    )
    none, plain = folder.guidance == "none", folder.guidance != "classifier-free"
    unused = {
        "--guidance": none and params.guidance not in (None, 1.0),
        "--invert-guidance": none and params.invert_guidance != 1.0,
        "--negative": plain and params.negative not in (None, ""),
        "--from-negative": plain and params.from_negative != "",
        "--to-negative": plain and params.to_negative != "",
    }
    why = distilled if none else embedded
    said = [f"{option} has no effect: {why}" for option, is_unused in unused.items() if is_unused]
    if params.clip_skip and not FAMILIES[folder.family].learns_words:
        said.append(f"--clip-skip has no effect: the model {folder.name} does not read CLIP's layers; leave it out.")
    return said


def unused_source(plan: Plan) -> list[str]:
    """Returns a warning for each parameter that holds an edit to its source if the edit starts from something else."""
    given = {"--keep": plan.given.keep, "--align": plan.given.align} if plan.start != PICTURE else {}
    start = "noise" if plan.start == NOISE else "a fill from the surroundings"
    return [
        f"{option} has no effect: this edit ({plan.kind}) starts from {start} and not from the picture; leave it out."
        for option, value in given.items()
        if value
    ]


def refuse_instruction(params: Params) -> None:
    """Raises UsageError for an instruction, which nothing reads without an inpainting model."""
    if params.instruction:
        raise UsageError("--instruction tells the model of --painter what to do; name one, or leave it out.")


def follow_latents(latents: Latents, params: Params) -> Params:
    """Returns the parameters; strength and levels that are None, and a caption `auto`, are the latents' own."""
    made = latents.made
    if params.caption == AUTO and isinstance(made.get("caption"), str):
        params = replace(params, caption=made["caption"])
    names = {"strength": "strength", "invert_from": "invert-from", "last_level": "last-level"}
    said = {field: made.get(name, 0.0) for field, name in names.items()}
    return params.with_defaults({field: value for field, value in said.items() if isinstance(value, int | float)})


def params_for_mask(mask: Mask | None, params: Params) -> Params:
    """Returns the parameters, with the kind of edit that the mask was found for if --from is empty."""
    kind = None if mask is None or mask.made is None else mask.made.get("region")
    return replace(params, region=kind) if kind in KINDS and params.region == AUTO and not params.from_ else params


def check_seen(gain: float | None, limit: float | None, picture: Picture, plan: Plan) -> None:
    """Raises NothingToEdit if the gain of --from is below the limit: the picture does not show what it names."""
    if gain is not None and limit is not None and gain < limit:
        thing = _thing(plan.given)
        what = f'"{thing}" is not' if thing.partition(" ")[0] in PLACING else f"No {thing} is"
        raise NothingToEdit(
            f"{what} seen in {picture.name}; name in --from something that the picture "
            "shows, or edit nevertheless with --anyway."
        )


def _thing(params: Params) -> str:
    """Returns the words of --from that --to drops, or all of them if a thing keeps its name."""
    source = str(params.from_)
    if not isinstance(params.from_, str) or params.region in ("attribute", "background"):
        return source.removeprefix("a ").removeprefix("an ")
    return " ".join(params.telling_words)


def check_latents(latents: Latents, params: Params, about: Mapping[str, Any]) -> None:
    """Raises InputError for latents of another picture, model, caption or noise schedule, UsageError for a zoom.

    Raises UsageError also for --align with an inversion that changed its predictions.

    The latents are those of the whole picture, so no crop of it can be zoomed in on.
    """
    if params.zoom not in (AUTO, 1):
        raise UsageError(
            f"--zoom {params.zoom} repaints crops, but --latents are of the whole picture; leave out one of them."
        )
    changed = next((name for name in ("fixed-point", "reg-steps") if latents.made.get(name)), None)
    if params.align and changed:
        raise UsageError(
            f"--align repeats what the network predicted in the inversion, and the latents file {latents.name} was "
            f"made with --{changed}, which changes it; leave out --align."
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
    made = {"clip-skip": Params.clip_skip, "last-level": 0.0, **made}  # in a record only if not the default
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
    """Returns the names of a model and its adapters, for a message."""
    return " + ".join([record.get("model-name", "?"), *record.get("lora", ()), *record.get("embedding", ())])
