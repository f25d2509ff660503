"""Reads the kind of an edit from the words of its two prompts, by position and short lists, without a model.

| kind       | what differs                                | --from                 | --to                          |
|------------|---------------------------------------------|------------------------|-------------------------------|
| everything | the medium or the style                     | a photo of a cat       | a watercolour of a cat        |
| object     | a thing is replaced by another              | a cat on the grass     | a dog on the grass            |
| remove     | a thing goes, and nothing replaces it       | a cat and a rose       | a rose                        |
| add        | a thing comes, and nothing is replaced      | a man                  | a man wearing glasses         |
| attribute  | how the same thing looks, or what it does   | a red car; a dog sits  | a blue car; a dog runs        |
| background | the place phrase alone                      | a cat on the grass     | a cat in the snow; a cat      |
| everything | a thing and the place, and no word stays    | a cat on the grass     | a dog in the snow             |
| object     | nothing, or several of these at once        | a cat on the grass     | a black cat in the snow       |

`phrases` splits a prompt into phrases. Parts of a body (*closed eyes*) are looks of their owner. If only the looks of a
place differ, the kind is background for scenery (*a stormy sky*) and attribute for any other place (*a marble table*).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from diffedit_cli.pipeline.phrases import JOINTS, LITTLE, MEDIA, PLACING, Phrase, read, tokens_of

KINDS = ("object", "attribute", "background", "everything", "add", "remove")


@dataclass(frozen=True)
class Change:
    """The edit that two prompts ask for; all words are lower case, without weights and punctuation."""

    kind: str
    """One of KINDS."""
    old: tuple[str, ...]
    """The words of --from that --to drops, without articles and other function words: ``("cat",)``."""
    new: tuple[str, ...]
    """The words that only --to has."""
    kept: tuple[str, ...]
    """The things that both prompts name alike, as --to words them: ``("a rose",)``."""
    dropped: tuple[str, ...]
    """The things that only --from names, if the kind is remove; else empty."""
    added: tuple[str, ...]
    """The things that only --to names, if the kind is add; else empty."""
    place: str
    """The place phrase of --to, such as ``"on the grass"``, or an empty string."""


def change_of(source: str, target: str) -> Change:
    """Returns the kind of edit that two prompts ask for, with the words and things that differ."""
    (old_style, before), (new_style, after) = read(source), read(target)
    pairs = _match(before, after)
    gone = [phrase for number, phrase in enumerate(before) if number not in pairs]
    come = [phrase for number, phrase in enumerate(after) if number not in pairs.values()]
    same = [(before[one], after[two]) for one, two in pairs.items()]
    kind = _kind(gone, come, same) if before and after else "object"
    old, new = _content(tokens_of(source)), _content(tokens_of(target))
    both_placed = all(any(phrase.is_place for phrase in side) for side in (before, after))
    is_all_new = both_placed and old != new and not set(old) & set(new) - MEDIA
    if before and after and (old_style != new_style or (kind == "object" and is_all_new)):
        kind = "everything"
    alike = [two for one, two in same if one.looks == two.looks and _does_the_same(one, two, kind == "attribute")]
    return Change(
        kind=kind,
        old=tuple(word for word in old if word not in new),
        new=tuple(word for word in new if word not in old),
        kept=_things(phrase for phrase in after if phrase in alike),
        dropped=_things(gone) if kind == "remove" else (),
        added=_things(come) if kind == "add" else (),
        place=_place(phrase for phrase in after if phrase.is_place),
    )


def _kind(gone: Sequence[Phrase], come: Sequence[Phrase], same: Sequence[tuple[Phrase, Phrase]]) -> str:
    """Returns the kind, from phrases that only one prompt has and from differences between phrases that both have."""
    lost, won = ([phrase for phrase in side if not phrase.is_place] for side in (gone, come))
    unlike = [one for one, two in same if one.looks != two.looks]
    looks = any(not phrase.is_scenery for phrase in unlike)
    was, does = (frozenset[str]().union(*(pair[side].does for pair in same)) for side in (0, 1))
    acts = bool(was - does and does - was)
    moved = any(phrase.is_scenery for phrase in unlike)
    if lost and won:
        return "object"
    if lost or won:
        several = looks or acts or moved or any(phrase.is_place for phrase in (come if lost else gone))
        return "object" if several else "remove" if lost else "add"
    turned = was == does and any({one.link, two.link} <= PLACING and one.link != two.link for one, two in same)
    if gone or come or moved or turned:
        return "object" if looks or acts else "background"
    return "attribute" if looks or was != does else "object"


def _does_the_same(one: Phrase, two: Phrase, strictly: bool) -> bool:
    """Whether two phrases name the same actions; unless `strictly`, one may leave some of them out."""
    return one.does == two.does or (not strictly and (one.does <= two.does or two.does <= one.does))


def _match(before: list[Phrase], after: list[Phrase]) -> dict[int, int]:
    """Pairs phrases of --from and --to by their head, most alike first; returns index -> index.

    A phrase that is a place in one prompt (a boat on a lake) and a thing in the other (a lake) becomes a place in both.
    """
    pairs: dict[int, int] = {}
    for likeness in (3, 2, 1, 0):
        for number, one in enumerate(before):
            for other, two in enumerate(after):
                is_free = number not in pairs and other not in pairs.values()
                alike = (one.head == two.head) + (one.is_place == two.is_place) + (one.looks == two.looks)
                fits = one.head == two.head or one.is_likeness_of(two) or two.is_likeness_of(one)
                if is_free and fits and alike >= likeness:
                    pairs[number] = other
    for number, other in pairs.items():
        if before[number].is_place != after[other].is_place:
            before[number] = replace(before[number], is_place=True)
            after[other] = replace(after[other], is_place=True)
    return pairs


def _content(tokens: Iterable[str]) -> list[str]:
    """Returns the content words, each once, in order."""
    words = [word for token in tokens if token not in LITTLE for word in token.split("_")]
    return list(dict.fromkeys(words))


def _text(words: Iterable[str]) -> str:
    return " ".join(word for word in words if word not in JOINTS - {"and"}).strip().replace("_", " ")


def _place(phrases: Iterable[Phrase]) -> str:
    """Joins place phrases with their prepositions; a phrase that its counterpart made a place may have none."""
    words = [
        word for phrase in phrases for word in (phrase.link, *phrase.words) if word != phrase.link or word in LITTLE
    ]
    return _text(words).removeprefix("and ")


def _things(phrases: Iterable[Phrase]) -> tuple[str, ...]:
    """Returns the things as the prompt words them; "of" joins a thing and its content: a bowl of apples."""
    texts: list[str] = []
    last = -2
    for phrase in phrases:
        if phrase.is_place:
            continue
        if texts and phrase.link == "of" and phrase.number == last + 1:
            texts[-1] += " of " + _text(phrase.words)
        else:
            texts.append(_text(phrase.words))
        last = phrase.number
    return tuple(texts)
