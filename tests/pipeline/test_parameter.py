"""A parameter is declared in one place: checks, options, columns of job files, help and cache keys derive from it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import keywords
from diffedit_cli.pipeline.parameter import Range, parameters
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
assert cache_keys.everything(made)["sparkle"] == 0.5
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
