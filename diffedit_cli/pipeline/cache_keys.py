"""The inputs of each result under the names of the options, for cache keys and metadata.

Most parameters declare beside their field in `Params` which records contain them. This module adds those that belong to
a record only for certain values of other parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffedit_cli.pipeline import prompts
from diffedit_cli.pipeline.mask_expression import MASK_METHODS
from diffedit_cli.pipeline.parameter import AUTO, flag, parameters
from diffedit_cli.pipeline.params import USUAL, Params

Record = dict[str, Any]
OF_MAPS = {
    flag(name).removeprefix("--")
    for name in ("anyway", "clamp", "threshold", "smooth", "edges", "fill_holes", "islands", "reach_down")
}
"""Keys of the parameters that make a mask of a map of the diffusion network."""


def all_parameters(params: Params) -> Record:
    """Returns every parameter; None if it is not set."""
    return _record(params, parameters(params), {})


def contrast(params: Params) -> Record:
    """Returns the inputs of the contrast map."""
    negatives = ["from_negative", "to_negative", "guidance"] if params.guided_mask else []
    return _standing(params, "contrast") | _record(params, negatives) | text(params)


def reference(params: Params) -> Record:
    """Returns the inputs of the prediction for --from, which the prediction for --to is compared with."""
    negative = ["from_negative", "guidance"] if params.guided_mask else []
    return _standing(params, "reference") | _record(params, negative) | text(params)


def bare(params: Params) -> Record:
    """Returns the inputs of the prediction without a prompt, for the noise draws of the mask."""
    return _standing(params, "bare") | text(params)


def attention(params: Params) -> Record:
    """Returns the inputs of the attention map. Raises UsageError if --from is not words.

    With a fixed number of maps, --to counts only through the words that are looked for.
    """
    words = {"words": params.telling_words}
    if params.maps == AUTO:  # the contrast map decides how many
        return words | contrast(params)
    return words | _record(params, ["maps"]) | reference(params)


def maps(params: Params) -> dict[str, Record]:
    """Returns the inputs of each map that the mask is made from, by the map's name."""
    records = {"contrast": contrast, "attention": attention}
    return {name: records[name](params) for name in MASK_METHODS[params.mask_method]}


def mask(params: Params) -> Record:
    """Returns the inputs of the mask; without prompts and thresholds if none of its parts is made from a map."""
    if params.compares:
        return contrast(params) | _standing(params, "mask")
    return {name: value for name, value in _standing(params, "mask").items() if name not in OF_MAPS}


def inversion(params: Params) -> Record:
    """Returns the inputs of the inversion."""
    record = _standing(params, "inversion") | {"invert-every": params.inversion_stride}
    record |= _record(params, ["last_level"]) if params.last_level else {}
    record |= _record(params, ["invert_from", "seed"]) if params.invert_from else {}
    if params.reg_steps:
        record |= _standing(params, "regularisation")
        record |= _record(params, ["seed"] if params.lambda_auto_corr else [])
    return record | prompts.record("caption", params.inversion_caption) | text(params)


def edit(params: Params) -> Record:
    """Returns the inputs of the edit besides its mask and its inversion."""
    return repainting(params) | _standing(params, "edit") | region(params)


def region(params: Params) -> Record:
    """Returns the parameters that decide where and how the edit paints, if they differ from their defaults."""
    return _standing(params, "region")


def repainting(params: Params) -> Record:
    """Returns the inputs of the network's part of the edit, besides its mask and its inversion."""
    record = _standing(params, "repainting")
    record |= {"eta": params.edit_eta, "seed": params.seed} if params.edit_eta else {}
    record |= prompts.record("caption", params.inversion_caption) if params.keep else {}
    return record | prompts.record("negative", params.negative or "") | text(params)


def text(params: Params) -> Record:
    """Returns the inputs that all prompt embeddings share, if they differ from their defaults."""
    return _standing(params, "text")


def zeros(params: Params, names: Iterable[str]) -> Record:
    """Returns the levels among `names` that are 0: other records omit them, although the model's default may differ."""
    levels = [name for name in ("invert_from", "last_level") if name in names]
    return _record(params, [name for name in levels if not getattr(params, name)])


def _standing(params: Params, record: str) -> Record:
    """Returns the parameters that declare this record, always or because they differ from their default."""
    defaults = type(params)
    found = [
        name
        for name, said in parameters(params).items()
        if record in said.keys or (record in said.changed_in and getattr(params, name) != getattr(defaults, name))
    ]
    return _record(params, found)


def _record(params: Params, names: Iterable[str], usual: Mapping[str, Any] = USUAL) -> Record:
    record: Record = {}
    for name in names:
        value: Any = usual.get(name) if getattr(params, name) is None else getattr(params, name)
        record |= prompts.record(flag(name).removeprefix("--"), value)
    return record
