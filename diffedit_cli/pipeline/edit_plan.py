"""What the kind of an edit decides: which prompts find its region, which paint it, and what it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.pipeline import cache_keys, edit_kind, prompts
from diffedit_cli.pipeline import params as parameters
from diffedit_cli.pipeline.edit_kind import Change
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Prompt, Sentences

PICTURE, NOISE, FILL = "picture", "noise", "fill"
"""What an edit starts from inside of its region: the picture's own inversion, noise alone, or a smooth fill of what is
around it. The last two ask the network for no inversion."""

FRESH = {"strength": 1.0, "invert_from": 1.0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "object": {"room": 0.4},
    "attribute": {"room": 0.1, "strength": 0.6},
    "background": {"room": 0.0, "grow": 0.0, **FRESH},
    "everything": {"room": 0.0},
    "add": {"room": 0.0, "mask_strength": 0.75, **FRESH},
    "remove": {"room": 0.12, "strength": 0.7, "invert_from": 1.0, "guidance": 1.0},
}
"""Of each kind, what is not given; the figures are in docs/regions.md."""
NOWHERE = {"strength": 0.4}  # to remove where nobody knows the place: what is painted stays a surface
PASTE_ABOVE = 50.0  # of 255: how much a colour must differ to count as changed
ADD_MAPS = 2
WHOLE = 0.7  # of the threshold, for a thing that is kept: what is missed of it is lost
STARTS = {"background": NOISE, "add": NOISE, "remove": FILL}
PAINTS_TARGET = ("object", "attribute", "add")
"""The kinds that paint what --to names, in more room than they change: --to should explain what comes."""
CLAIMS = ("object", "attribute", "remove", "background")
"""The kinds whose --from names what must be there."""


@dataclass(frozen=True)
class Plan:
    """The kind of an edit, and its parameters with all of their values.

    `compared` are those of the mask, whose --from is what the network is asked to see; `painted` are those of the edit,
    whose --to is what is painted and whose negative is what is not.
    """

    kind: str
    given: Params
    compared: Params
    painted: Params
    there: Params | None = None
    """Those that find what is there already, where something is to be added beside it."""
    judged: bool = False
    """Whether it is measured how well --to explains what is painted; of what fills a thing that stays (apples in a
    bowl) that says nothing, as --to explains the thing with either."""
    lacks_place: bool = False
    """Whether what is painted is a place that the prompts do not name."""

    @property
    def start(self) -> str:
        """One of PICTURE, NOISE and FILL."""
        return STARTS.get(self.kind, PICTURE)

    @property
    def tightens(self) -> bool:
        """Whether of what is painted only what truly changed is kept."""
        return self.kind in PAINTS_TARGET and (self.given.room != 0 or self.kind == "add")

    def settles(self, final: bool) -> bool:
        """Whether what is painted takes on the picture's colours at its rim: where that is not what somebody drew as
        the final mask, and always where nothing but what comes or goes may show."""
        return self.kind in ("add", "remove") or (self.tightens and not final)

    def record(self) -> dict[str, Any]:
        """What is painted depends on, beside what the parameters say that the painter is told."""
        told = {} if self.painted.to == self.given.to else prompts.record("from", self.given.from_)
        return cache_keys.region(self.given) | told

    def variant(self, number: int) -> Plan:
        """What makes one of the variants alone, from 0."""
        return dataclasses.replace(self, given=self.given.variant(number), painted=self.painted.variant(number))

    @property
    def claims(self) -> bool:
        """Whether --from names what must be in the picture; with a negative of its own it says more than that."""
        return self.kind in CLAIMS and not self.given.anyway and not self.given.guided_mask


def plan_of(params: Params, own: Mapping[str, float], place: str = "", attends: bool = False) -> Plan:
    """The plan of an edit by a model with these defaults of its `own`, by the parameters' names.

    `place` is where the picture is known to be, which counts where something is removed and the prompts name no place.
    `attends` says whether the model's network attends to words, so that its attention can show where they are.
    """
    change = _change(params)
    kind = change.kind if params.region == AUTO else params.region
    if kind == "remove" and not change.place:
        change = dataclasses.replace(change, place=place)
    whole = [thing for thing in change.kept if f"{thing} of" in str(params.to)]  # a bowl, of which the apples change
    beside = [thing for thing in change.kept if thing not in whole]
    usual = {
        **parameters.USUAL,
        "invert_from": 0.0,
        "last_level": 0.0,
        "paste_above": PASTE_ABOVE,
        "negative": " and ".join(beside) if kind in PAINTS_TARGET else "",  # so that they are not painted twice
    }
    like = "attribute" if kind == "object" and whole else kind
    lacks_place = kind == change.kind == "remove" and not change.place
    placeless = NOWHERE if lacks_place else {}
    full = params.filled({**usual, **own, **DEFAULTS[like], **placeless})
    full = dataclasses.replace(full, region=kind)
    given, there = full.masked_by(attends), _there(full, change)
    return Plan(
        kind,
        given=given,
        compared=_compared(full, change).masked_by(attends),
        painted=_painted(given, change),
        there=there and there.masked_by(attends),
        judged=kind in PAINTS_TARGET and not whole,
        lacks_place=lacks_place,
    )


def _change(params: Params) -> Change:
    source, target = (_text(prompt) for prompt in (params.from_, params.to))
    if source is None or target is None or not source.strip():
        return Change("object", (), (), (), (), (), "")  # embeddings have no words
    return edit_kind.change_of(source, target)


def _text(prompt: Prompt) -> str | None:
    if isinstance(prompt, Sentences):
        return prompt.concept
    return prompt if isinstance(prompt, str) else None


def _compared(full: Params, change: Change) -> Params:
    """Which prompts are told apart to find the region.

    What is to be added is sought where the target sees it; a background is what is left of the things in it, so those
    are sought, where the source sees them.
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
    if full.region != "add" or not change.kept or not isinstance(full.from_, str):
        return None
    strength, bare = parameters.MASK_STRENGTH, _place(full.from_)
    return dataclasses.replace(full, region="object", to=bare, mask_strength=strength, maps=_few(full.maps))


def _few(maps: int | str) -> int | str:
    """A place is chosen where something is added: no outline need be settled."""
    return ADD_MAPS if maps == AUTO else maps


def _painted(full: Params, change: Change) -> Params:
    """What is told to whoever paints: around a thing its place alone, and nothing of what goes."""
    if full.region in ("background", "remove") and _text(full.to) is not None and full.region == change.kind:
        return dataclasses.replace(full, to=change.place)
    return full


def _place(prompt: str) -> str:
    """What is left of a prompt when its things are gone."""
    return edit_kind.change_of(prompt, prompt).place
