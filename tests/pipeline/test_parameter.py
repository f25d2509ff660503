"""A parameter is declared in one place: checks, options, columns of job files, help and cache keys derive from it."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest

from diffedit_cli.cli import reference
from diffedit_cli.cli.options import KINDS
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import cache_keys, keywords
from diffedit_cli.pipeline.parameter import AUTO, Parameter, Range, parameters
from diffedit_cli.pipeline.params import Params

MADE_UP = """
import dataclasses, sys
from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import param_fields, parameter, params

params.Params = dataclasses.make_dataclass(
    "Params",
    [("sparkle", "float", parameter.parameter(
        0.0, param_fields.MASK, "How much it sparkles.", parameter.Range(0, 1), changed_in=("mask",)))],
    bases=(params.Params,), frozen=True, kw_only=True,
)
from diffedit_cli.cli import commands, config_file, job_columns, options, reference, session
from diffedit_cli.pipeline import cache_keys, keywords

made = params.Params(sparkle=0.5)
assert cache_keys.mask(made)["sparkle"] == 0.5
assert cache_keys.all_parameters(made)["sparkle"] == 0.5
assert "sparkle" not in cache_keys.mask(params.Params())  # no cache key of before changes
try:
    params.Params(sparkle=1.5)
except UsageError as error:
    assert str(error) == "--sparkle must be between 0 and 1, not 1.5."
else:
    raise AssertionError
assert keywords.fits("sparkle", 1) and not keywords.fits("sparkle", "much")
assert job_columns.convert_column(session.OF_A_PICTURE, "sparkle", "0,5") == ("sparkle", 0.5)
assert "sparkle" in options.EDITING  # and so in the settings of a folder
assert "`--sparkle`" in reference.parameters_page()
sys.argv = ["diffedit", "mask", "--help-all"]
commands.main()
"""


def test_a_parameter_that_is_added_is_found_everywhere() -> None:
    ran = subprocess.run([sys.executable, "-c", MADE_UP], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "--sparkle" in ran.stdout
    assert "How much it sparkles." in ran.stdout


@pytest.mark.parametrize(
    ("given", "words", "inside", "outside"),
    [
        (Range(0, 1), "between 0 and 1", (0, 0.5, 1), (-0.1, 1.1)),
        (Range(0, 1, open_least=True), "above 0 and at most 1", (0.1, 1), (0, 1.1)),
        (Range(0, 1, open_most=True), "at least 0 and below 1", (0, 0.9), (-1, 1)),
        (Range(0, open_least=True), "above 0", (0.1, 1e9), (0, -1)),
        (Range(1), "at least 1", (1, 1e9), (0.9,)),
    ],
)
def test_a_range_says_what_it_holds(
    given: Range, words: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert str(given) == words
    assert all(map(given.holds, inside))
    assert not any(map(given.holds, (*outside, math.nan, math.inf, -math.inf)))
    assert given.holds(10**400) is (given.most == math.inf)  # more than a float can be


@pytest.mark.parametrize("name", [name for name, said in parameters(Params).items() if said.range])
def test_every_range_is_checked(name: str) -> None:
    given = parameters(Params)[name].range
    assert given is not None
    below = given.least if given.open_least else given.least - 1
    wrong = [below, *([given.most if given.open_most else given.most + 1] if given.most < math.inf else [])]
    for value in wrong:
        if keywords.fits(name, value := int(value) if value == int(value) else value):
            with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be"):
                Params(**{name: value})


def test_every_parameter_has_a_group_and_help() -> None:
    said = parameters(Params).values()
    assert all(one.group and one.help.endswith(".") for one in said)


def records_of(params: Params) -> dict[str, str]:
    """The stages that have to be computed again if one of these changes."""
    found = {
        "mask": [cache_keys.mask(params), cache_keys.reference(params), cache_keys.bare(params)],
        "inversion": cache_keys.inversion(params),
        "edit": cache_keys.edit(params),
    }
    return {stage: repr(record) for stage, record in found.items()}


BASES: list[dict[str, Any]] = [
    {"from_": "cat", "to": "dog", "mask_method": "both"},
    {"from_": "cat", "to": "dog", "mask_method": "noise", "from_negative": "snow", "maps": 4},
    {"from_": "cat", "to": "dog", "mask_method": "both", "maps": 4, "invert_from": 0.2, "last_level": 0.3},
    {"from_": "cat", "to": "dog", "mask_method": "noise", "invert_from": 1.0, "eta": 0.5, "reg_steps": 2, "soft": True},
    {"from_": "cat", "to": "dog", "mask_method": "attention", "variants": 3, "scheduler": "ddim", "edges": 0},
    {"from_": "cat", "to": "dog", "mask_method": "segment | noise", "segment": "a cat"},
]


def others(name: str, said: Parameter, value: Any) -> list[Any]:
    """Other values that a parameter may have."""
    if said.choices:
        return [choice for choice in said.choices if choice not in (value, AUTO)]
    if isinstance(value, bool):
        return [not value]
    if said.range is None and not isinstance(value, int | float):
        return ["a house", "a tree"]
    span = said.range or Range(0, 9)
    numbers = [span.least, span.least + 0.25, min(span.most, 9), 1, 2, 3, 0.5, *said.words.values()]
    kind = KINDS[str(Params.__dataclass_fields__[name].type)]
    whole = kind in (int, int | None)
    return [int(one) if whole else one for one in numbers if not isinstance(one, str) and one != value]


MODELS_OF_PROMPTS = {
    "expand",
    "expand_model",
    "caption_model",
}  # they change a prompt, and so the stages of that prompt


@pytest.mark.parametrize("name", sorted(parameters(Params).keys() - MODELS_OF_PROMPTS))
def test_the_page_names_the_stages_that_a_parameter_concerns(name: str) -> None:
    said, changed = parameters(Params)[name], set()
    for base in BASES:
        before = Params(**base)
        for value in others(name, said, getattr(before, name)):
            try:
                after = dataclasses.replace(before, **{name: value})
            except UsageError:  # with the rest of this base
                continue
            one, other = records_of(before), records_of(after)
            changed |= {stage for stage in one if one[stage] != other[stage]}
    named = {reference.STAGES[record] for record in (*said.keys, *said.changed_in, *said.sometimes_in)}
    assert changed == ({"mask", "inversion", "edit"} if "every prompt" in named else named)
