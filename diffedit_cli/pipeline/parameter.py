"""Metadata of the fields of `Params`: help, range, words, group, and the records that they belong to.

Checks, command-line options, job-file columns, cache keys, help and the page of parameters derive from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffedit_cli.errors import UsageError

AUTO = "auto"  # a caption by a model, a threshold derived from the map, as many maps as needed ...
OFF = "off"  # word for a zoom of 1 on the command line


@dataclass(frozen=True)
class Range:
    """An interval from `least` to `most`; an open end is excluded, and `most` may be infinite."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        inside = self.least <= value <= self.most and (isinstance(value, int) or math.isfinite(value))
        return inside and not ((self.open_least and value == self.least) or (self.open_most and value == self.most))

    def __str__(self) -> str:
        """Returns the interval in words: `between 0 and 1`, `above 0`, `at least 0 and below 1`."""
        if not (self.open_least or self.open_most) and self.most < math.inf:
            return f"between {self.least:g} and {self.most:g}"
        least = f"{'above' if self.open_least else 'at least'} {self.least:g}"
        return (
            least if self.most == math.inf else f"{least} and {'below' if self.open_most else 'at most'} {self.most:g}"
        )


@dataclass(frozen=True)
class Parameter:
    """Metadata of one parameter.

    `group` names a set of options that a command takes together. `parse` raises UsageError for an invalid value that is
    none of the `choices`; without it all others are invalid. `words` maps words that may replace a number to their
    values. `keys` are the records (see `cache_keys`) that always contain the parameter. `changed_in` are the records
    that contain it only if it differs from its default, so that adding a parameter does not change existing cache keys.
    `sometimes_in` are the records that contain it only for certain values of other parameters (see `cache_keys`).
    """

    group: str
    help: str
    range: Range | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], object] | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    changed_in: tuple[str, ...] = ()
    sometimes_in: tuple[str, ...] = ()

    def check(self, name: str, value: Any, usual: float | None = None) -> None:
        """Raises UsageError for an invalid value; `usual` is the default to name if the field's own is None."""
        if self.choices and value not in self.choices:
            if self.parse is not None:
                self.parse(value)
                return
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
    """Returns a field of `Params` with this default; `more` are fields of `Parameter`."""
    return dataclasses.field(default=default, metadata={"parameter": Parameter(group, help, range, **more)})


def parameters(params: Any) -> dict[str, Parameter]:
    """Returns the metadata of every parameter of `Params` or of an instance, by field name, in field order."""
    return {one.name: one.metadata["parameter"] for one in dataclasses.fields(params)}


def flag(name: str) -> str:
    """Returns the command-line spelling of a parameter: `mask_strength` -> `--mask-strength`."""
    return "--" + name.rstrip("_").replace("_", "-")
