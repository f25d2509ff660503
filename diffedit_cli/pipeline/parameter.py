"""What is said of a parameter beside its field in `Params`: help, range, words, group, and the stages that it concerns.

Checks, command-line options, job-file columns, cache keys, help and the page of parameters derive from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffedit_cli.errors import UsageError

AUTO = "auto"  # a caption that a model writes, a threshold that is the map's own, as many maps as it takes ...
OFF = "off"  # on the command line, a zoom of 1


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, without these where they are open; `most` is infinity for no end."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        inside = self.least <= value <= self.most and (isinstance(value, int) or math.isfinite(value))
        return inside and not ((self.open_least and value == self.least) or (self.open_most and value == self.most))

    def __str__(self) -> str:
        """`between 0 and 1`, `above 0`, `at least 0 and below 1`, for a sentence."""
        if not (self.open_least or self.open_most) and self.most < math.inf:
            return f"between {self.least:g} and {self.most:g}"
        least = f"{'above' if self.open_least else 'at least'} {self.least:g}"
        return (
            least if self.most == math.inf else f"{least} and {'below' if self.open_most else 'at most'} {self.most:g}"
        )


@dataclass(frozen=True)
class Parameter:
    """What is said of a parameter.

    `group` names the options that commands take together. `words` are what may be said in place of a number, with
    their values. `keys` are the records (`cache_keys`) that the parameter always stands in, `changed_in` those that it
    stands in only where it differs from its default: so adding a parameter changes no existing cache key.
    """

    group: str
    help: str
    range: Range | None = None
    choices: tuple[str, ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    changed_in: tuple[str, ...] = ()

    def check(self, name: str, value: Any, usual: float | None = None) -> None:
        """Raises UsageError for a value out of range; `usual` is what the default is where it depends."""
        if self.choices and value not in self.choices:
            known = (" or " if len(self.choices) == 2 else ", ").join(self.choices)
            raise UsageError(f"{flag(name)} {value} is unknown; use {known}.")
        if self.range is None or value in self.words.values():
            return
        if isinstance(value, str) or not self.range.holds(value):
            words = f", {'or ' if len(self.words) == 1 else ''}{' or '.join(self.words)}" if self.words else ""
            shown = f"{value:g}" if isinstance(value, float) else value
            default = "" if usual is None else f"; the default is {usual:g}"
            raise UsageError(f"{flag(name)} must be {self.range}{words}, not {shown}{default}.")


def parameter(default: Any, group: str, help: str, range: Range | None = None, **more: Any) -> Any:
    """A field of `Params` with this default; `more` are fields of `Parameter`."""
    return dataclasses.field(default=default, metadata={"parameter": Parameter(group, help, range, **more)})


def parameters(params: Any) -> dict[str, Parameter]:
    """What is said of each parameter of `Params`, or of one of it, by field, in their order."""
    return {one.name: one.metadata["parameter"] for one in dataclasses.fields(params)}


def flag(name: str) -> str:
    """The command-line spelling of a parameter: `mask_strength` -> `--mask-strength`."""
    return "--" + name.rstrip("_").replace("_", "-")
