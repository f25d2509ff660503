"""What each result depends on, under the names of the options: parts of cache keys and of metadata.

Most parameters say beside their field in `Params` which records they stand in; here is what depends on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffedit_cli.pipeline import prompts
from diffedit_cli.pipeline.param_fields import MASK_METHODS
from diffedit_cli.pipeline.parameter import AUTO, flag, parameters
from diffedit_cli.pipeline.params import USUAL, Params

Record = dict[str, Any]


def everything(params: Params) -> Record:
    """Every parameter; None where it is not given."""
    return _record(params, parameters(params), {})


def contrast(params: Params) -> Record:
    """What the contrast map depends on."""
    negatives = ["from_negative", "to_negative", "guidance"] if params.guided_mask else []
    return _standing(params, "contrast") | _record(params, negatives) | text(params)


def reference(params: Params) -> Record:
    """What the prediction for --from depends on that --to is compared with."""
    negative = ["from_negative", "guidance"] if params.guided_mask else []
    return _standing(params, "reference") | _record(params, negative) | text(params)


def bare(params: Params) -> Record:
    """What a prediction without a prompt depends on, for the noises of the mask."""
    return _standing(params, "bare") | text(params)


def attention(params: Params) -> Record:
    """What the attention map depends on: with a number of maps only on words of --to. Raises UsageError."""
    words = {"words": params.telling_words}
    if params.maps == AUTO:  # as many as the contrast needs
        return words | contrast(params)
    return words | _record(params, ["maps"]) | reference(params)


def maps(params: Params) -> dict[str, Record]:
    """What each of the maps depends on that the mask is made from, by its name."""
    records = {"contrast": contrast, "attention": attention}
    return {name: records[name](params) for name in MASK_METHODS[params.mask_method]}


def mask(params: Params) -> Record:
    """What the mask depends on."""
    return contrast(params) | _standing(params, "mask")


def inversion(params: Params) -> Record:
    """What the inversion depends on."""
    record = _standing(params, "inversion") | {"invert-every": params.inversion_stride}
    record |= _record(params, ["last_level"]) if params.last_level else {}
    record |= _record(params, ["invert_from", "seed"]) if params.invert_from else {}
    if params.reg_steps:
        record |= _standing(params, "regularisation")
        record |= _record(params, ["seed"] if params.lambda_auto_corr else [])
    return record | prompts.record("caption", params.inversion_caption) | text(params)


def edit(params: Params) -> Record:
    """What the edit depends on beside its mask and its inversion."""
    return repainting(params) | _standing(params, "edit") | region(params)


def region(params: Params) -> Record:
    """What decides where and how is painted, as far as it is given."""
    return _standing(params, "region")


def repainting(params: Params) -> Record:
    """What the network's part of the edit depends on beside its mask and its inversion."""
    record = _standing(params, "repainting")
    record |= {"eta": params.edit_eta, "seed": params.seed} if params.edit_eta else {}
    return record | prompts.record("negative", params.negative or "") | text(params)


def text(params: Params) -> Record:
    """What every embedding of a prompt depends on, where it is not the default."""
    return _standing(params, "text")


def zeros(params: Params, names: Iterable[str]) -> Record:
    """Of these levels those that are 0, which no record says else: where a model has another default."""
    levels = [name for name in ("invert_from", "last_level") if name in names]
    return _record(params, [name for name in levels if not getattr(params, name)])


def _standing(params: Params, record: str) -> Record:
    """The parameters that say that they stand in a record, always or where they differ from their default."""
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
