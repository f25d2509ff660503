"""All parameters of an edit: what they mean together, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import prompts
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
MOST_MAPS = 10  # that AUTO draws: as many as the paper always does
MASK_STRENGTH, STRENGTH, GUIDANCE = 0.5, 0.9, 7.5  # where neither the kind of edit nor the model has its own
USUAL = {"mask_strength": MASK_STRENGTH, "strength": STRENGTH, "guidance": GUIDANCE}
SEED_LIMIT = 2**63
VARIANTS_ETA = 0.6  # of several results; at 1 objects are right less often: 38 % of 24, at 0.6 58 %, at 0 62 %
REFINEMENTS = (
    "smooth",
    "edges",
    "fill_holes",
    "islands",
    "reach_down",
    "grow",
    "soft",
)  # of the mask, beyond the paper


@dataclass(frozen=True, kw_only=True)
class Params(EditParams, InversionParams, MaskParams, PromptParams):
    """Parameters of mask, inversion and edit. Raises UsageError for a value out of range."""

    def __post_init__(self) -> None:
        for name, said in parameters(self).items():
            value = getattr(self, name)
            if name in PROMPTS and isinstance(value, str) and not _is_text(value):
                raise UsageError(f"{flag(name)} holds bytes that are not text; write it in UTF-8.")
            if value is not None:
                said.check(name, value, USUAL.get(name) if said.range is SHARE else None)
        self._check_levels()
        self._check_together()

    def _check_levels(self) -> None:
        """Raises UsageError for a share of the steps that is less than one."""
        for name in ("mask_strength", "strength"):
            share = USUAL[name] if getattr(self, name) is None else getattr(self, name)
            if levels_up_to(share, self.steps) < 1:
                raise UsageError(
                    f"{flag(name)} {share:g} of --steps {self.steps} is less than one step; "
                    f"raise {flag(name)} or --steps."
                )

    def _check_together(self) -> None:
        """Raises UsageError for parameters that do not go with each other."""
        if self.soft and self.grow:
            raise UsageError("--grow widens a mask's edge, and with --soft it has none; lower --threshold instead.")
        if self.fixed_point and self.scheduler != "ddim":
            raise UsageError(
                f"--fixed-point needs a single-step solver, and --scheduler {self.scheduler} is multistep; use "
                "--scheduler ddim, or leave out --fixed-point."
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
        """Where it is not given: the scheduler's own."""
        return self.invert_every or SCHEDULERS[self.scheduler]

    @property
    def edit_eta(self) -> float:
        """Where it is not given: 0, but so much for several variants, which would else be the same."""
        if self.eta is not None:
            return self.eta
        return 0.0 if self.variants == 1 else VARIANTS_ETA

    def variant(self, number: int) -> Params:
        """What makes one of the variants alone, from 0, which is the edit without others; its mask is the first's.

        So is its inversion, but for one that is nothing but noise: then that alone makes the difference.
        """
        eta = self.eta
        if eta is None:
            eta = VARIANTS_ETA if number and self.invert_from != 1 else 0.0
        return dataclasses.replace(self, seed=self.seed + number, eta=eta, variants=1, best=False)

    @property
    def guided_mask(self) -> bool:
        """Only different negatives keep the guidance scale from cancelling out of the mask (see engine.contrast)."""
        return self.from_negative != self.to_negative

    def prompts_of(self, stages: Iterable[str] = ("mask", "invert", "edit")) -> dict[str, Prompt]:
        """What these stages are told, by the options' names."""
        told: dict[str, Prompt] = {}
        if "mask" in stages:
            told |= {"from": self.from_, "to": self.to}
            if self.guided_mask:
                told |= {"from-negative": self.from_negative, "to-negative": self.to_negative}
        if "invert" in stages:
            told["caption"] = self.inversion_caption
        if "edit" in stages:
            told |= {"to": self.to, "negative": self.negative or ""}
        return told

    def masked_by(self, attends: bool) -> Params:
        """With AUTO made out: both maps if the model `attends` to words, and some of --from are to give way.

        Where nothing gives way, as when something is added, the old words do not show the place.
        """
        if self.mask_method != AUTO:
            return self
        method = "both" if attends and prompts.replaced_words(self.from_, self.to) else "noise"
        return dataclasses.replace(self, mask_method=method)

    def filled(self, defaults: Mapping[str, Any]) -> Params:
        """With these values for what is None; what has a value keeps it."""
        absent = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **absent) if absent else self

    @property
    def most_maps(self) -> int:
        return MOST_MAPS if isinstance(self.maps, str) else self.maps

    @property
    def telling_words(self) -> list[str]:
        """What the attention mask looks for. Raises UsageError if --from is no words."""
        return prompts.telling_words(self.from_, self.to)

    @property
    def growth(self) -> float:
        """Where it is not given: 0.4 cells, so that what comes has room and no rim of what was stays; 0 if soft."""
        if self.grow is not None:
            return self.grow
        return 0.0 if self.soft else 0.4

    @property
    def zoom_factor(self) -> float | None:
        """None: as far as it pays."""
        return None if isinstance(self.zoom, str) else self.zoom

    @property
    def binarisation(self) -> dict[str, Any]:
        """The keyword arguments of engine.mask_refinement.mask."""
        threshold = None if self.threshold == AUTO else self.threshold
        refined = {name: getattr(self, name) for name in REFINEMENTS} | {"grow": self.growth}
        return {"clamp": self.clamp, "threshold": threshold, **refined}


def _is_text(words: str) -> bool:
    """Whether none of it stands for a byte of another encoding."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def levels_up_to(strength: float, steps: int) -> int:
    """How many of `steps` levels lie up to `strength`, rounded down but for the last bits of a float product."""
    return min(steps, int(steps * strength + 1e-6))
