"""Converts cells of job files to option values, in the spellings of the programs that write such files."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from diffedit_cli.cli.options import Group
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.parameter import flag

LONGEST = 80  # characters of a value quoted in a message
# A float above EXACT may not be the whole number that was written; no option takes one of more than MOST_DIGITS.
EXACT, MOST_DIGITS = 2**53, 30


def convert_column(groups: Iterable[Group], column: str, value: Any) -> tuple[str, Any]:
    """Returns the parameter name and the converted value of a cell, whose `column` is the long name of an option.

    Raises UsageError for an option that is not in `groups`, or a value that is not of the option's type.
    """
    known = {flag(name).removeprefix("--"): (name, *one) for group in groups for name, one in group.items()}
    if column not in known:
        raise UsageError(f"{column} is not an option that a row of a job file can set.")
    name, annotation, _ = known[column]
    kind, declared = typing.get_args(annotation)
    try:
        if declared.parser:
            words, number = declared.parser.args
            return name, words[value] if isinstance(value, str) and value in words else _as(number, value)
        return name, _as(next(one for one in (*typing.get_args(kind), kind) if one is not type(None)), value)
    except (ValueError, ArithmeticError):
        raise UsageError(f"{column} cannot be {_told(value)}; see diffedit edit --help.") from None


def _told(value: Any) -> str:
    """Returns a value of a job file as text for a message, cut off after LONGEST characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints, or lists nested too deeply
        text = f"such a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _as(kind: type, value: Any) -> Any:
    """Converts a value as tables write it, also 16.0 for 16. Raises ValueError or ArithmeticError for another type."""
    if kind is bool:
        words = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0"), False)
        if (said := str(value).strip().lower()) not in words:
            raise ValueError
        return words[said]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    if kind is float:
        return float(_number(str(value)))
    if kind is int:
        number = Decimal(_number(str(value)))
        inexact = isinstance(value, float) and abs(value) > EXACT
        if inexact or not number.is_finite() or number.adjusted() > MOST_DIGITS or number != int(number):
            raise ValueError
        return int(number)
    return kind(str(value))


def _number(text: str) -> str:
    """Returns 0.5 for 0,5, as some spreadsheets write it. Raises ValueError if the comma may separate thousands."""
    text = text.strip()
    if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text):
        raise ValueError
    return text.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", text) else text
