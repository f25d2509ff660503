"""Profiles of models that are distilled to few steps, recognised by what their files say. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.engine.networks.family import Family
from diffedit_cli.errors import UsageError

AUTO, NO = "auto", "no"
TRAILING = "trailing"  # spacing of timesteps that begins at pure noise, as distilled models were trained
FEW_MAPS = 2  # noise draws for the mask: 4 evaluations, as many as the edit has steps
NAMES = {
    "turbo": r"(?<![a-z])(xl|sd)?turbo(?![a-z])",
    "lightning": r"(?<![a-z])lightning(?![a-z])",
    "lcm": r"(?<![a-z])lcm(?![a-z])",
    "dmd2": r"(?<![a-z])dmd2?(?![a-z])",
    "hyper": r"(?<![a-z])hyper(?![a-z]).*[0-9][-_ ]?steps?(?![a-z])",
    "schnell": r"(?<![a-z])schnell(?![a-z])",
    "distilled": r"$^",  # by settings only: names say "undistilled", too
}
"""How the names of distilled models and LoRAs tell the way of distillation, as words of their own."""
SCHEDULERS = {"LCMScheduler": "lcm", "TCDScheduler": "hyper"}
"""Schedulers that only models of one kind ship."""
_STEPS = re.compile(r"(?<![0-9])([1-9][0-9]?)[-_ ]?steps?(?![a-z])")


@dataclass(frozen=True)
class Profile:
    """What a distilled model needs in place of the usual defaults.

    Attributes:
        kind: A key of NAMES.
        steps: Noise levels.
        why: What the files say, in words.
        embedded: Whether guidance is an input of the network, which keeps it.
    """

    kind: str
    steps: int
    why: str
    embedded: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Default parameters: few steps, no guidance unless it is embedded, every level inverted, few maps."""
        guidance = {} if self.embedded else {"guidance": 1.0}
        return {"steps": self.steps, "maps": FEW_MAPS, "invert_every": 1} | guidance

    def __str__(self) -> str:
        guidance = "the usual guidance" if self.embedded else "without guidance"
        return f"{self.kind}: {self.steps} steps, {guidance}, {self.why}"


def profile(
    family: Family,
    said: str,
    names: Iterable[str],
    index: Mapping[str, Any],
    denoiser: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> Profile | None:
    """Returns the profile of a model, None for one that is not distilled.

    Args:
        family: Row of the model's family.
        said: A key of NAMES that the user says, AUTO to read the files, or NO.
        names: Names of the model, its source and its LoRAs.
        index: Content of `model_index.json`.
        denoiser: Settings of the denoising network.
        scheduler: Settings of the scheduler.

    Raises:
        UsageError: If `said` is none of these.
    """
    if said not in (AUTO, NO, *NAMES):
        raise UsageError(f"--distilled {said} is unknown; use {AUTO}, {NO}, {', '.join(NAMES)}.")
    names = [name.lower() for name in names]
    found: tuple[str, str] | None = (said, "as --distilled says")
    if said in (AUTO, NO):
        found = _told(family, names, index, denoiser, scheduler) if said == AUTO else None
    if found is None:
        return None
    steps = next((int(told[1]) for name in names if (told := _STEPS.search(name))), family.few_steps)
    kind, why = found
    return Profile(kind, steps, why, family.guidance_by(index, denoiser) == "embedded")


def _told(
    family: Family,
    names: list[str],
    index: Mapping[str, Any],
    denoiser: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> tuple[str, str] | None:
    """Returns the kind that the files say, and what says so."""
    for name in names:
        for way, pattern in NAMES.items():
            if re.search(pattern, name):
                return way, f"as the name {name} says"
    if kind := SCHEDULERS.get(str(scheduler.get("_class_name"))):
        return kind, f"as its scheduler {scheduler['_class_name']} says"
    if family.guidance_by(index, denoiser) == "none":
        return "distilled", f"as its {'is_distilled' if index.get('is_distilled') else 'guidance_embeds'} says"
    return None
