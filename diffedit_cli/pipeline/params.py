"""The parameters of an edit as one validated dataclass, with the values that are derived from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import mask_expression, prompts
from diffedit_cli.pipeline.mask_expression import SEGMENT
from diffedit_cli.pipeline.param_fields import (
    SCHEDULERS,
    SHARE,
    EditParams,
    InversionParams,
    MaskParams,
    PromptParams,
)
from diffedit_cli.pipeline.parameter import AUTO, flag, parameters
from diffedit_cli.pipeline.prompts import Prompt

PROMPTS = ("from_", "to", "from_negative", "to_negative", "caption", "negative")
WORDS = ("instruction", "segment", "mask_method")
MOST_MAPS = 10  # limit of AUTO: as many as the paper always draws
MASK_STRENGTH, STRENGTH, GUIDANCE, STEPS = 0.5, 0.9, 7.5, 16  # used if neither the kind of edit nor the model sets one
USUAL: dict[str, Any] = {
    "mask_strength": MASK_STRENGTH, "strength": STRENGTH, "guidance": GUIDANCE, "steps": STEPS, "maps": AUTO
}  # fmt: skip
STRENGTHS = ("mask_strength", "strength")
SEED_LIMIT = 2**63
VARIANTS_ETA = 0.6  # eta of --variants; of 24 object edits 38 % succeed at eta 1, 58 % at 0.6, 62 % at 0
REFINEMENTS = (
    "smooth",
    "edges",
    "fill_holes",
    "islands",
    "reach_down",
    "grow",
    "soft",
)  # parameters that refine the mask beyond the paper


@dataclass(frozen=True, kw_only=True)
class Params(EditParams, InversionParams, MaskParams, PromptParams):
    """Parameters of mask, inversion and edit. Raises UsageError for a value out of range or an invalid combination."""

    def __post_init__(self) -> None:
        for name, said in parameters(self).items():
            value = getattr(self, name)
            if name in WORDS and not isinstance(value, str):
                raise UsageError(f"{flag(name)} must be text, not {value!r:.80}; give a string.")
            if name in (*PROMPTS, *WORDS) and isinstance(value, str) and not _is_text(value):
                raise UsageError(f"{flag(name)} holds bytes that are not text; write it in UTF-8.")
            if value is not None:
                said.check(name, value, USUAL.get(name) if said.range is SHARE else None)
        self._check_levels()
        self._check_together()

    def _check_levels(self) -> None:
        """Raises UsageError if a given strength covers less than one of the steps."""
        for name in STRENGTHS:
            share = getattr(self, name)
            if share is not None and levels_up_to(share, self.step_count) < 1:
                raise UsageError(
                    f"{flag(name)} {share:g} of --steps {self.step_count} is less than one step; "
                    f"raise {flag(name)} or --steps."
                )

    def _check_together(self) -> None:
        """Raises UsageError for parameters that exclude each other."""
        mask_expression.check_words(self.mask_method, self.segment)
        if self.soft and self.grow:
            raise UsageError("--grow widens a mask's edge, and with --soft it has none; lower --threshold instead.")
        if self.fixed_point and self.scheduler != "ddim":
            raise UsageError(
                f"--fixed-point needs a single-step solver, and --scheduler {self.scheduler} is multistep; use "
                "--scheduler ddim, or leave out --fixed-point."
            )
        if self.align and (self.fixed_point or self.reg_steps):
            other = "--fixed-point" if self.fixed_point else "--reg-steps"
            raise UsageError(
                f"--align repeats what the network predicted in the inversion, and {other} changes it; leave out one "
                "of them."
            )
        if self.variants > 1 and self.edit_eta == 0:
            raise UsageError(
                f"With --eta 0 nothing is drawn, so --variants {self.variants} would be the same picture each time; "
                "leave --eta out, or raise it."
            )
        if self.best and self.variants < 2:
            raise UsageError("--best chooses among several results; ask for them with --variants.")
        if not 0 <= self.seed <= SEED_LIMIT - self.variants:
            raise UsageError(f"--seed must be between 0 and {SEED_LIMIT - self.variants}, not {self.seed}.")

    @property
    def inversion_caption(self) -> Prompt:
        return self.from_ if self.caption is None else self.caption

    @property
    def inversion_stride(self) -> int:
        """Levels per step of the inversion: `invert_every`, or the default of the scheduler."""
        return self.invert_every or SCHEDULERS[self.scheduler]

    @property
    def edit_eta(self) -> float:
        """The eta of the edit: `eta`, or 0 for one result and VARIANTS_ETA for several, which would be equal at 0."""
        if self.eta is not None:
            return self.eta
        return 0.0 if self.variants == 1 else VARIANTS_ETA

    def variant(self, number: int, *, own_noise: bool = False) -> Params:
        """Returns the parameters of variant `number`, counted from 0; variant 0 equals the edit without other variants.

        All variants share the mask of the first one. With `own_noise` each starts from noise of its own, which makes
        them differ; otherwise they share what they start from, and eta makes them differ.
        """
        eta = self.eta
        if eta is None:
            eta = VARIANTS_ETA if number and not own_noise else 0.0
        return dataclasses.replace(self, seed=self.seed + number, eta=eta, variants=1, best=False)

    @property
    def guided_mask(self) -> bool:
        """Whether guidance affects the mask; it cancels out unless the negatives differ (see engine.diffedit)."""
        return self.from_negative != self.to_negative

    def prompts_of(self, stages: Iterable[str] = ("mask", "invert", "edit")) -> dict[str, Prompt]:
        """Returns the prompts of these stages by option name."""
        told: dict[str, Prompt] = {}
        if "mask" in stages and self.compares:
            told |= {"from": self.from_, "to": self.to}
            if self.guided_mask:
                told |= {"from-negative": self.from_negative, "to-negative": self.to_negative}
        if "invert" in stages:
            told["caption"] = self.inversion_caption
        if "edit" in stages:
            told |= {"to": self.to, "negative": self.negative or ""}
            told |= {"caption": self.inversion_caption} if self.keep else {}
        return told

    def with_mask_method(self, attends: bool) -> Params:
        """Returns the parameters with `mask_method` AUTO replaced by the method that fits the edit and the model.

        That is the segmenter if it is told what to look for; else both maps if the model `attends` to words and --to
        drops words of --from, else noise alone: if no word is dropped, the old words do not show the region, and the
        word for a look (red) attends less to the thing than the predictions differ in it (docs/masks.md).
        """
        if self.mask_method != AUTO:
            return self
        if self.segment.strip():
            return dataclasses.replace(self, mask_method=SEGMENT)
        shows = attends and self.region != "attribute" and prompts.replaced_words(self.from_, self.to)
        method = "both" if shows else "noise"
        return dataclasses.replace(self, mask_method=method)

    def with_one_method(self, method: str) -> Params:
        """Returns the parameters of a single mask of the expression, one that is made from the network's maps."""
        return self if self.mask_method == method else dataclasses.replace(self, mask_method=method, segment="")

    def with_defaults(self, defaults: Mapping[str, Any]) -> Params:
        """Returns a copy with these defaults in place of None, at least one step; other values are unchanged."""
        absent = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        absent |= {name: max(absent[name], 1 / self.step_count) for name in STRENGTHS if name in absent}
        return dataclasses.replace(self, **absent) if absent else self

    @property
    def step_count(self) -> int:
        """Number of noise levels: `steps`, or the usual number."""
        return self.steps or STEPS

    @property
    def most_maps(self) -> int:
        """The largest number of noise draws that the contrast map averages."""
        return self.maps if isinstance(self.maps, int) else MOST_MAPS

    @property
    def telling_words(self) -> list[str]:
        """The words that the attention map looks for. Raises UsageError if --from is not words."""
        return prompts.telling_words(self.from_, self.to)

    @property
    def growth(self) -> float:
        """Latent cells that the mask grows by: `grow`, or 0 if soft, else 0.4.

        0.4 cells leave room for the new object and no rim of the old one.
        """
        if self.grow is not None:
            return self.grow
        return 0.0 if self.soft else 0.4

    @property
    def zoom_factor(self) -> float | None:
        """The fixed zoom factor; None to zoom as far as it pays."""
        return None if isinstance(self.zoom, str) else self.zoom

    @property
    def binarisation(self) -> dict[str, Any]:
        """Keyword arguments of engine.mask_refinement.mask."""
        threshold = None if self.threshold == AUTO else self.threshold
        refined = {name: getattr(self, name) for name in REFINEMENTS} | {"grow": self.growth}
        return {"clamp": self.clamp, "threshold": threshold, **refined}


def _is_text(words: str) -> bool:
    """Whether a string has no surrogates, which Python decodes bytes of another encoding to."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def levels_up_to(strength: float, steps: int) -> int:
    """Returns how many of `steps` levels lie up to `strength` (0 to 1), rounded down except for float errors."""
    return min(steps, int(steps * strength + 1e-6))
