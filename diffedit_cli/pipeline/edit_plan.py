"""Derives from the kind of an edit which prompts find its region, which prompt is painted, and where it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.pipeline import cache_keys, edit_kind, prompts
from diffedit_cli.pipeline import params as parameters
from diffedit_cli.pipeline.edit_kind import Change
from diffedit_cli.pipeline.param_fields import FEATHER, POISSON
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Prompt, Sentences

PICTURE, NOISE, FILL = "picture", "noise", "fill"
"""The latents that an edit starts from inside of its region.

These are the picture's own inversion, noise alone, or a smooth fill from the surroundings. The last two need no
inversion by the network.
"""

FRESH = {"strength": 1.0, "invert_from": 1.0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "object": {"room": 0.4},
    "attribute": {"room": 0.1, "strength": 0.6},
    "background": {"room": 0.0, "grow": 0.0, **FRESH},
    "everything": {"room": 0.0},
    "add": {"room": 0.0, "mask_strength": 0.75, **FRESH},
    "remove": {"room": 0.12, "strength": 0.7, "invert_from": 1.0, "guidance": 1.0},
}
"""Default parameters of each kind of edit; see docs/regions.md."""
NOWHERE = {"strength": 0.4}  # removal without a known place: with more noise a new thing would be painted
PASTE_ABOVE = 50.0  # of 255: smallest difference of a colour that counts as a change
ADD_MAPS = 2  # noise draws for an addition: it needs a place, not an outline
WHOLE = 0.7  # factor on the threshold for an object that stays: its parts outside the mask would be lost
STARTS = {"background": NOISE, "add": NOISE, "remove": FILL}
PAINTS_TARGET = ("object", "attribute", "add")
"""The kinds that paint --to in a larger region than they change, so that --to should explain the result."""
CLAIMS = ("object", "attribute", "remove", "background")
"""The kinds whose --from names something that must be in the picture."""


@dataclass(frozen=True)
class Plan:
    """The kind of an edit, and its parameters with all values set.

    `compared` are the parameters of the mask: the network looks for what their --from names. `painted` are the
    parameters of the edit: their --to is painted, and their negative prompt is avoided.
    """

    kind: str
    given: Params
    compared: Params
    painted: Params
    there: Params | None = None
    """Parameters that find the things already in the picture, if something is added beside them."""
    judged: bool = False
    """Whether to measure how well --to explains what is painted.

    Meaningless for the content of a thing that stays (apples in a bowl): --to explains the thing with any content.
    """
    lacks_place: bool = False
    """Whether the edit paints a place that the prompts do not name."""

    @property
    def start(self) -> str:
        """The latents that the edit starts from: PICTURE, NOISE or FILL."""
        return STARTS.get(self.kind, PICTURE)

    @property
    def tightens(self) -> bool:
        """Whether only pixels that truly changed are kept of the painted region."""
        return self.kind in PAINTS_TARGET and (self.given.room != 0 or self.kind == "add")

    @property
    def seam(self) -> str:
        """How the painted region meets the picture: FEATHER, MATCH or POISSON.

        By default POISSON where a thing changes and its surroundings should stay, and FEATHER for another place or
        style, whose rim is a change that is wanted, and for the paper's way without room.
        """
        if self.given.seam != AUTO:
            return self.given.seam
        return POISSON if self.tightens or self.kind == "remove" else FEATHER

    def record(self) -> dict[str, Any]:
        """Returns the record entries that the plan adds: region, and --from if the painted prompt is not --to."""
        told = {} if self.painted.to == self.given.to else prompts.record("from", self.given.from_)
        return cache_keys.region(self.given) | told

    def variant(self, number: int, *, own_noise: bool) -> Plan:
        """Returns the plan of variant `number` alone, counted from 0; `own_noise` as in `Params.variant`."""
        given, painted = (one.variant(number, own_noise=own_noise) for one in (self.given, self.painted))
        return dataclasses.replace(self, given=given, painted=painted)

    @property
    def claims(self) -> bool:
        """Whether the picture must show what --from names.

        Not required with --anyway, or if the mask has a negative prompt, which says more than --from alone.
        """
        return self.kind in CLAIMS and not self.given.anyway and not self.given.guided_mask


def plan_of(params: Params, own: Mapping[str, Any], place: str = "", attends: bool = False) -> Plan:
    """Returns the plan of an edit by a model with defaults of its `own`, by parameter name.

    `place` is the known place of the picture, used if something is removed and the prompts name no place. `attends`
    says whether the model's network has cross-attention to words, so that its attention can show where they are.
    """
    change = _change(params)
    kind = change.kind if params.region == AUTO else params.region
    if kind == "remove" and not change.place:
        change = dataclasses.replace(change, place=place)
    whole = [thing for thing in change.kept if f"{thing} of" in str(params.to)]  # a bowl whose apples change
    beside = [thing for thing in change.kept if thing not in whole]
    usual = {
        **parameters.USUAL,
        "invert_from": 0.0,
        "last_level": 0.0,
        "paste_above": PASTE_ABOVE,
        "negative": " and ".join(beside) if kind in PAINTS_TARGET else "",  # things that stay are not painted twice
    }
    like = "attribute" if kind == "object" and whole else kind
    lacks_place = kind == change.kind == "remove" and not change.place
    placeless = NOWHERE if lacks_place else {}
    full = params.with_defaults({**usual, **own, **DEFAULTS[like], **placeless})
    full = dataclasses.replace(full, region=kind)
    compared, there = _compared(full, change).with_mask_method(attends), _there(full, change)
    given = dataclasses.replace(full, mask_method=compared.mask_method)  # as the record says, and a repetition needs
    return Plan(
        kind,
        given=given,
        compared=compared,
        painted=_painted(given, change),
        there=there and there.with_mask_method(attends),
        judged=kind in PAINTS_TARGET and not whole,
        lacks_place=lacks_place,
    )


def _change(params: Params) -> Change:
    source, target = (_text(prompt) for prompt in (params.from_, params.to))
    if source is None or target is None or not source.strip():
        return Change("object", (), (), (), "")  # embeddings have no words
    return edit_kind.change_of(source, target)


def _text(prompt: Prompt) -> str | None:
    if isinstance(prompt, Sentences):
        return prompt.concept
    return prompt if isinstance(prompt, str) else None


def _compared(full: Params, change: Change) -> Params:
    """Returns the parameters of the mask, with the two prompts that tell the region apart.

    To add something, the prompts are swapped: its place is where --to is seen. A background is what remains without the
    things in it, so --from is compared with its own place phrase, which finds the things.
    """
    if full.region == "add":
        return dataclasses.replace(
            full,
            maps=_few(full.maps),
            from_=full.to,
            to=full.from_,
            from_negative=full.to_negative,
            to_negative=full.from_negative,
        )
    if full.region == "background" and change.kept and isinstance(full.from_, str):
        threshold = full.threshold if isinstance(full.threshold, str) else full.threshold * WHOLE
        return dataclasses.replace(full, to=_place(full.from_), threshold=threshold)
    return full


def _there(full: Params, change: Change) -> Params | None:
    """Returns the parameters that find the things already there; None unless something is added beside them."""
    if full.region != "add" or not change.kept or not isinstance(full.from_, str):
        return None
    strength, bare = max(parameters.MASK_STRENGTH, 1 / full.step_count), _place(full.from_)
    return dataclasses.replace(full, region="object", to=bare, mask_strength=strength, maps=_few(full.maps))


def _few(maps: int | str | None) -> int | str | None:
    """Returns fewer maps for AUTO: an addition needs a place, not a settled outline."""
    return ADD_MAPS if maps == AUTO else maps


def _painted(full: Params, change: Change) -> Params:
    """Returns the parameters of the edit; for a background or a removal only the place phrase is painted."""
    if full.region in ("background", "remove") and _text(full.to) is not None and full.region == change.kind:
        return dataclasses.replace(full, to=change.place)
    return full


def _place(prompt: str) -> str:
    """Returns the place phrase of a prompt, without its things."""
    return edit_kind.change_of(prompt, prompt).place
