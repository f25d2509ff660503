"""Expressions of --mask-method: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import mask_expression
from diffedit_cli.pipeline.mask_expression import Operand, parse
from diffedit_cli.pipeline.params import Params

Bools = NDArray[np.bool_]
MEANINGS: dict[str, Callable[[SimpleNamespace], Bools]] = {
    "noise": lambda m: m.noise,
    "noise & segment": lambda m: m.noise & m.segment,
    "noise and segment": lambda m: m.noise & m.segment,
    "drawn | noise": lambda m: m.drawn | m.noise,
    "drawn OR noise": lambda m: m.drawn | m.noise,
    "Drawn OR NOISE": lambda m: m.drawn | m.noise,
    'segment & !"the collar"': lambda m: m.segment & ~m.collar,
    "segment and not 'the  collar'": lambda m: m.segment & ~m.collar,
    "noise | attention & drawn": lambda m: m.noise | (m.attention & m.drawn),
    "(noise | attention) & drawn": lambda m: (m.noise | m.attention) & m.drawn,
    "!noise & attention": lambda m: ~m.noise & m.attention,
    "!(noise & attention)": lambda m: ~(m.noise & m.attention),
    "!!noise": lambda m: m.noise,
    '((noise))&(segment|drawn)|! "the collar"': lambda m: (m.noise & (m.segment | m.drawn)) | ~m.collar,
    "noise & attention & segment | drawn": lambda m: (m.noise & m.attention & m.segment) | m.drawn,
}
OPERANDS = (
    Operand("noise"),
    Operand("attention"),
    Operand("segment"),
    Operand("drawn"),
    Operand("segment", "the collar"),
)


@pytest.mark.parametrize("text", MEANINGS)
def test_an_expression_of_masks_is_that_of_numpy(text: str) -> None:
    drawn = dict(zip(OPERANDS, np.random.default_rng(0).random((5, 9, 7)) > 0.5, strict=True))
    by_name = {operand.words.removeprefix("the ") or operand.name: mask for operand, mask in drawn.items()}
    found = parse(text).evaluate(lambda operand: drawn[operand].astype(np.uint8) * 255)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, MEANINGS[text](SimpleNamespace(**by_name)) * np.uint8(255))


def test_soft_masks_are_joined_by_least_and_most() -> None:
    grey = dict(zip(OPERANDS, np.random.default_rng(1).integers(0, 256, (5, 9, 7), dtype=np.uint8), strict=True))
    noise, attention, segment, drawn, _ = grey.values()
    found = parse("noise & !segment | drawn & attention").evaluate(grey.__getitem__)
    expected = np.maximum(np.minimum(noise, 255 - segment), np.minimum(drawn, attention))
    np.testing.assert_array_equal(found, expected)


WRONG = {
    "eyes": "unclear from character 1 on (eyes): use auto, noise, attention, both, segment, drawn, or words in quotes",
    "noise & eyes": "unclear from character 9 on (eyes)",
    "noise segment": "unclear from character 7 on (segment): a & or | is missing here",
    'noise "the cat"': 'unclear from character 7 on ("the cat"): a & or | is missing here',
    "noise &": "incomplete at its end: a mask is missing here",
    "& noise": "unclear from character 1 on (& noise): a mask is missing here",
    "(noise | segment": "incomplete at its end: a ) is missing here",
    "noise)": "unclear from character 6 on ()): a & or | is missing here",
    "noise & ()": "unclear from character 10 on ()): a mask is missing here",
    'noise & "the cat': 'unclear from character 9 on ("the cat): use auto',
    'noise & " "': "say between the quotes what the segmenter looks for",
    "noise + segment": "unclear from character 7 on (+ segment)",
    "noise & auto": "unclear from character 9 on (auto): auto stands alone",
    'auto & !"collar"': 'unclear from character 1 on (auto & !"collar"): auto stands alone, in small letters; name',
    "Auto": "unclear from character 1 on (Auto): auto stands alone, in small letters",
    "": "incomplete at its end: a mask is missing here",
    "!" * 50 + "noise": "write at most 20 levels of parentheses and !",
    "(" * 300 + "noise" + ")" * 300: "write at most 20 levels of parentheses and !",
    "noise" + " & noise" * 200: "has 1605 characters; write at most 1000",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:20])
def test_what_is_wrong_is_shown_at_its_place(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        Params(mask_method=text)
    assert WRONG[text] in str(raised.value)
    assert str(raised.value).startswith("--mask-method ")


def test_what_an_expression_needs_is_known() -> None:
    assert [*parse('drawn & !(noise | "a cat") & segment').operands()] == [
        *(Operand("drawn"), Operand("noise"), Operand("segment", "a cat"), Operand("segment")),
    ]
    assert mask_expression.compares("auto", "")
    assert not mask_expression.compares("auto", "a cat")
    assert mask_expression.compares("segment | both", "a cat")
    assert not mask_expression.compares('drawn & "a cat"', "")
    assert mask_expression.draws("noise & drawn")
    assert not mask_expression.draws("auto")


@pytest.mark.parametrize("name", ["mask_method", "segment", "instruction"])
@pytest.mark.parametrize("value", [5, None, ["noise"]], ids=str)
def test_words_are_text(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be text, not "):
        Params(**{name: value})  # type: ignore[arg-type]


def test_words_and_method_must_fit() -> None:
    with pytest.raises(UsageError, match="--mask-method noise & segment names segment; say what to look for"):
        Params(mask_method="noise & segment")
    with pytest.raises(UsageError, match="--segment has no effect, as --mask-method noise does not name segment"):
        Params(mask_method="noise", segment="a cat")
    assert Params(segment="a cat").with_mask_method(attends=True).mask_method == "segment"
    assert Params(segment="a cat", mask_method="noise & segment").with_one_method("noise").segment == ""
