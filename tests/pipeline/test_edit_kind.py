"""What kind of edit two prompts ask for: pairs as benchmarks have them, the drawn world's, and what each field says."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffedit_cli.pipeline.edit_kind import KINDS, Change, change_of

PAIRS = json.loads(Path(__file__).with_name("prompt_pairs.json").read_text())
"""What a benchmark would file it under, --from, --to, the kind of edit.

All were written, and split at random, before the rule was run on any, and it was tuned on the first half alone. Who
wrote the pairs wrote the rule, though: of 46 pairs by others, mostly of PIE-Bench, it first told 40 (44 after a second
look); then of 25 fresh ones from other benchmarks 22 (23 after a third).
"""

ANNOTATED = json.loads(Path(__file__).with_name("annotated_pairs.json").read_text(encoding="utf-8"))
"""Pairs of PIE-Bench's ten types by a language model that had not seen the rule, each with the kinds that fit it.

They came in sets, split before anybody looked. The rule as it was told 372 of the first 480. It was then tuned on them,
and on each further hundred after it had been measured there: 93, 94, 91, 92, 94, 89, 92, 98, 93, 97, 94, 93. On the
last two hundred it was not tuned: 99 and 97.
"""


def misread(half: str) -> list[list[str]]:
    return [pair for pair in ANNOTATED[half] if change_of(*pair[1:3]).kind not in pair[3]]


def test_pairs_that_were_written_without_the_rule_are_told() -> None:
    """Of those that it was not tuned on 98 of 100, which no change of the rule may lower unseen."""
    assert all(Counter(pair[0] for pair in ANNOTATED["held_out"])[kind] == 20 for kind, *_ in ANNOTATED["held_out"])
    assert len(ANNOTATED["held_out"]) == 200
    assert len(misread("held_out")) <= 4
    assert len(misread("tuning")) <= 0.025 * len(ANNOTATED["tuning"])


def wrong(half: str) -> list[list[str]]:
    return [pair for pair in PAIRS[half] if change_of(*pair[1:3]).kind != pair[3]]


def test_every_pair_that_the_rule_was_tuned_on_is_told() -> None:
    assert len(PAIRS["tuning"]) == 85
    assert wrong("tuning") == []


def test_so_is_every_pair_that_it_was_not_tuned_on() -> None:
    assert len(PAIRS["held_out"]) == 86
    assert wrong("held_out") == []


def test_the_halves_share_no_pair() -> None:
    pairs = [tuple(pair[1:3]) for half in PAIRS.values() for pair in half]
    assert len(set(pairs)) == len(pairs)
    assert {pair[3] for half in PAIRS.values() for pair in half} == set(KINDS)


def drawn_pairs() -> Iterator[tuple[str, str, str]]:
    """Edits of the built-in model's world in every form of its captions, each with its kind."""
    scenes = pytest.importorskip("training.scenes", reason="a source distribution has no training")
    places = [place.phrase for place in pytest.importorskip("training.places").PLACES.values()]
    names, fruits, rng = scenes.WIDER.names, [*scenes.FRUIT, scenes.MIXED_FRUIT], random.Random(0)
    for number in range(150):
        colour, thing = rng.choice([name for name in names if " " in name]).split()
        bare = number % 4 == 1  # where "orange and red balloon" may well be one balloon
        unlike = [name for name in names if name.split()[-1] not in (thing, "orange" if bare else "")]
        other, third = rng.sample(unlike, 2)
        where, there = rng.sample(places, 2)
        one, two, coloured = (scenes.with_article(name) for name in (thing, other, f"{colour} {thing}"))
        bowl, another = (f"a bowl of {fruit}" for fruit in rng.sample(fruits, 2))
        if bare:
            one, two, third, coloured = thing, other, third, f"{colour} {thing}"
        else:
            third = scenes.with_article(third)
        form = ("{} {}", "a photo of {} {}", "{} {}", "{}")[number % 4]
        for kind, old, new in (
            ("object", one, two),
            ("object", coloured, two),
            ("object", f"{one} and {third}", f"{two} and {third}"),
            ("object", bowl, another),
            ("attribute", one, coloured),
            ("attribute", coloured, one),
            ("attribute", f"{coloured} and {two}", f"{one} and {two}"),
            ("add", one, f"{one} and {two}"),
            ("add", one, f"{two} and {one}"),
            ("add", one, f"{one} with {two}"),
            ("remove", f"{two} with {one}", two),
            ("remove", f"{coloured} and {two}", two),
            ("remove", f"{coloured} and {two}", coloured),
        ):
            yield form.format(old, where), form.format(new, where), kind
        for what in (one, coloured, bowl, f"{one} and {two}"):
            yield f"{what} {where}", f"{what} {there}", "background"
            yield f"a photo of {what} {where}", f"a photo of {what} {there}", "background"
            yield what, f"{what} {there}", "background"
            yield f"{what} {where}", what, "background"
        yield where, there, "background"
        yield where, f"{coloured} {where}", "add"
        yield f"{one} {where}", where, "remove"
        yield f"a photo of {one} {where}", f"a photo {where}", "remove"
        yield f"a picture {where}", f"{two} {where}", "add"
        yield f"a picture {where}", f"a picture {there}", "background"
        yield f"{coloured} {where}", f"an oil painting of {coloured} {where}", "everything"
        yield f"{one} {where}", where.split(" ", 1)[1], "remove"


def test_every_edit_of_the_drawn_world_is_told() -> None:
    pairs = list(drawn_pairs())
    assert len(pairs) == 150 * 37
    assert [(*pair, told) for *pair, kind in pairs if (told := change_of(*pair).kind) != kind] == []


def change(line: str) -> Change:
    source, target = line.split(" -> ")
    return change_of(source, target)


def phrases(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("; ") if part)


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ("cat -> dog", "cat", "dog"),
        ("a cat on the grass -> a cat in the snow", "grass", "snow"),
        ("a cat and a rose -> a rose", "cat", ""),
        ("a man -> a man wearing glasses", "", "wearing glasses"),
        ("a red car -> a blue car", "red", "blue"),
        ("a RED ball, big. -> a blue cat", "red ball big", "blue cat"),
        ("a photo of a cat -> a pencil sketch of a cat", "photo", "pencil sketch"),
        ("a house -> pixel art of a house", "", "pixel art"),
        ("a woman in front of a mountain -> a woman next to a beach", "mountain", "beach"),
        ("a statue made of stone -> a statue made of gold", "stone", "gold"),
        ("the (cat)1.5++ -> the (small)1.4 dog", "cat", "small dog"),
        ("a [round] cake -> a [square] cake", "round", "square"),
        ("a cat -> a cat", "", ""),
        (" -> a cat", "", "cat"),
    ],
)
def test_the_words_that_give_way_and_those_that_come(line: str, old: str, new: str) -> None:
    assert (change(line).old, change(line).new) == (tuple(old.split()), tuple(new.split()))


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("a cat and a rose -> a dog and a rose", "a rose"),
        ("a cat and a rose on the grass -> a rose on the grass", "a rose"),
        ("cat and rose -> dog and rose", "rose"),
        ("a cat on the grass -> a dog on the grass", ""),
        ("a photo of a cat on the grass -> a photo of a cat on the beach", "a cat"),
        ("a cat, the Rose -> a dog, my Rose", "my rose"),
        ("a red car and a blue bus -> a green car and a blue bus", "a blue bus"),
        ("a bowl of apples -> a bowl of oranges", "a bowl"),
        ("a bowl of apples and a cup -> a bowl of apples and a spoon", "a bowl of apples"),
        ("a man wearing a hat and a scarf -> a man wearing a scarf", "a man; a scarf"),
        ("a statue of a lion in a park -> a statue of a lion in a desert", "a statue of a lion"),
        ("a statue made of stone and a bench -> a statue made of gold and a bench", "a bench"),
        ("a dog sitting on grass and a ball -> a dog running on grass and a ball", "a ball"),
        ("a girl with blue eyes and a cup -> a girl with green eyes and a cup", "a cup"),
        ("a woman with black hair is holding a phone -> a woman with black hair is holding a cup", "a woman"),
        ("a knight with a sword -> pixel art of a knight with a sword", "a knight; a sword"),
    ],
)
def test_what_both_name_alike_is_kept(line: str, kept: str) -> None:
    assert change(line).kept == phrases(kept)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("a rose", "a cat and a rose"),
        ("on the grass", "a cat on the grass"),
        ("the grass", "a cat on the grass"),
        ("grass", "a red balloon and a cat on the grass"),
        ("a man", "a man wearing a black hat"),
        ("a man", "a man in a suit"),
        ("a table", "a table with a cup on it"),
        ("a dog", "a dog next to a bicycle"),
        ("a cat on a sofa", "a cat on a sofa and a ball"),
        ("a girl in the forest", "a girl with a basket of apples in the forest"),
        ("a woman walking along the river", "a woman walking her dog along the river"),
        ("a cat", "a cat, a vase of roses and two (big)1.2 cups"),
        ("a photo of a giraffe", "a photo of a lion and a giraffe"),
        ("a cat without a hat", "a cat with a hat"),
    ],
)
def test_what_goes_is_removed_and_what_comes_is_added(less: str, more: str) -> None:
    assert (change_of(more, less).kind, change_of(less, more).kind) == ("remove", "add")


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("a cat", ""),
        ("a cat on the grass", "on the grass"),
        ("A cat, On the (grass)1.2.", "on the grass"),
        ("the grass", "the grass"),
        ("a car at night", "at night"),
        ("a fish under the sea", "under the sea"),
        ("a bicycle on the road in front of a building", "on the road in front of a building"),
        ("a man sitting on a rock with trees in the background", "on a rock with trees in the background"),
        ("a house with mountains behind it", "with mountains behind it"),
        ("a bottle with a blue background", "with a blue background"),
        ("a horse in a field of sunflowers", "in a field of sunflowers"),
        ("a cat near a lake", "near a lake"),
        ("a cat near a ball", ""),
        ("a woman in a red dress", ""),
        ("a man holding a flower", ""),
        ("a cat and a rose on top of a fence", "on top of a fence"),
        ("a bird flying in the air", ""),
    ],
)
def test_where_it_is(target: str, place: str) -> None:
    assert change_of("a cat on the grass", target).place == place


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("a cat on grass -> a dog in snow", "everything"),
        ("a black cat on grass -> a black dog in snow", "object"),
        ("a cat on grass -> a dog", "object"),
        ("a cat on the grass -> a black cat in the snow", "object"),
        ("a (cat)1.5 on grass -> a (cat)0.5 on grass", "object"),
        ("a cat -> a photo of a cat", "object"),
        (" -> a cat", "object"),
        ("a cat -> ", "object"),
        ("an orange -> an apple", "object"),
        ("an orange -> an orange car", "object"),
        ("an orange car -> a red car", "attribute"),
        ("an orange -> a green orange", "attribute"),
        ("a cat -> a cat with closed eyes", "attribute"),
        ("a cat -> a statue of a cat", "attribute"),
        ("a cat -> a silver cat sculpture", "attribute"),
        ("a white bear grazes on ice -> a white bear jumps on ice", "attribute"),
        ("a painted canvas on an easel -> a painted canvas on a wall", "background"),
        ("a cat sitting on a chair -> a cat in black and white", "everything"),
        ("a painting of a cat on grass -> a painting of a dog in snow", "everything"),
        ("a cat -> a cartoon cat", "everything"),
    ],
)
def test_the_rest_of_the_rules(line: str, kind: str) -> None:
    assert change(line).kind == kind


@pytest.mark.parametrize(
    ("line", "told", "meant"),
    [
        ("a bride looks at the groom -> a bride looks away from the groom", "object", "attribute"),
        ("a boat on a sea -> a boat on a sea under a full moon", "background", "add"),
        ("an apple with two faces -> an apple with two hands", "attribute", "object"),
        ("a cat wearing headphones on a gray background -> a cat on a plain gray background", "object", "remove"),
        ("orange and red balloon -> red balloon", "attribute", "remove"),
    ],
)
def test_known_limits(line: str, told: str, meant: str) -> None:
    assert change(line).kind == told != meant


def test_any_words_in_any_order_are_read() -> None:
    rng = random.Random(1)
    words = sorted({word for pair in PAIRS["tuning"] for word in " ".join(pair[1:3]).split()})
    words += [*",.()[]+-'_|\u2019", "in the style of", "behind", "(cat)1.5", "style", "without"]
    for _ in range(2000):
        source, target = (" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(2))
        assert change_of(source, target).kind in KINDS
        assert change_of(source, source).kind == "object"


def test_only_the_standard_library_is_needed() -> None:
    heavy = "[n for n in ('torch', 'numpy', 'diffusers') if n in sys.modules]"
    code = f"import sys, diffedit_cli.pipeline.edit_kind; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
