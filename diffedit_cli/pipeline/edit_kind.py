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

from diffedit_cli.pipeline.lexicon import (
    ADJECTIVES,
    AIMS,
    CUTS,
    DETERMINERS,
    DIRECTIONS,
    EMPTY,
    GROWN,
    JOINTS,
    LIKENESS,
    LITTLE,
    MEDIA,
    NUMBERS,
    PLACING,
    SHOWING,
    SURFACES,
    singular,
    stem,
)
from diffedit_cli.pipeline.phrases import Phrase, read, tokens_of

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
    depicted = len(before) > 1 < len(after) and _depicts(source, target)
    if before and after and (depicted or old_style != new_style or (kind == "object" and is_all_new)):
        kind = "everything"
    alike = [two for one, two in same if one.looks == two.looks and _does_the_same(one, two, kind == "attribute")]
    return Change(
        kind=kind,
        old=tuple(word for word in old if word not in new),
        new=tuple(word for word in new if word not in old),
        kept=_things(phrase for phrase in after if phrase in alike),
        place=_place(phrase for phrase in after if phrase.is_place),
    )


def _depicts(source: str, target: str) -> bool:
    """Whether one prompt names a medium of all that the other names: a blueprint of a house on a hill."""
    one, two = ([token for token in tokens_of(prompt) if token not in DETERMINERS] for prompt in (source, target))
    short, long = sorted((one, two), key=len)
    before = long[: len(long) - len(short)]
    return long[len(before) :] == short and _names_medium(before[-1:]) and not set(before[:-1]) & (CUTS | LIKENESS)


def _names_medium(last: Sequence[str]) -> bool:
    return last == ["of"] or any(stem(word) in SHOWING for word in last)


def _kind(gone: Sequence[Phrase], come: Sequence[Phrase], same: Sequence[tuple[Phrase, Phrase]]) -> str:
    """Returns the kind, from phrases that only one prompt has and from differences between phrases that both have."""
    moved = [pair for pair in same if pair[0].is_scenery and pair[0].looks != pair[1].looks]
    lost, won = _things_of(gone, come, [one for one, _ in moved]), _things_of(come, gone, [two for _, two in moved])
    if (emptied := _emptied(lost, won, same)) is not None:
        return emptied
    unlike = [one for one, two in same if one.looks != two.looks]
    looks = any(not phrase.is_scenery for phrase in unlike)
    was, does = (frozenset[str]().union(*(pair[side].does for pair in same)) for side in (0, 1))
    acts = bool(was - does and does - was)
    if lost and won:
        return "object"
    aims = all(phrase.link in AIMS or (acts and stem(phrase.link) in was ^ does) for phrase in (*gone, *come))
    if was != does and aims and (lost or won):
        return "attribute"  # points to the sky, or salutes
    is_less, is_more = does < was, was < does
    has_grown = (is_less or is_more) and all(singular(words.split()[-1]) in GROWN for words in was ^ does)
    if has_grown and not (gone or come or looks):
        return "add" if is_more else "remove"  # wings
    if not (gone or come or acts) and (counted := _counted(same)):
        return counted
    if lost or won:
        several = looks or acts or moved or any(phrase.is_place for phrase in (come if lost else gone))
        return "object" if several else "remove" if lost else "add"
    links = ({one.link, two.link} for one, two in same)
    turned = was == does and any(len(pair) > 1 and pair <= PLACING - DIRECTIONS for pair in links)
    one_sided = bool(gone) != bool(come) and not any(
        phrase.is_scenery or phrase.head in SURFACES for phrase in (*gone, *come)
    )
    if one_sided and not (moved or looks or acts):
        return "remove" if gone else "add"  # on a broom
    if gone or come or moved or turned:
        return "object" if looks or acts else "background"
    return "attribute" if looks or was != does else "object"


def _things_of(unmatched: Sequence[Phrase], others: Sequence[Phrase], moved: Sequence[Phrase]) -> list[Phrase]:
    """Returns the unmatched phrases that are things; what a replaced place has belongs to it (a sea with icebergs).

    `others` are the unmatched phrases of the other prompt, and `moved` the places that only look different in it.
    """
    replaced = [phrase for phrase in unmatched if phrase.is_place and any(other.is_place for other in others)]
    numbers = {phrase.number for phrase in (*replaced, *moved)}
    return [p for p in unmatched if not (p.is_place or (p.link == "with" and p.number - 1 in numbers))]


def _emptied(lost: Sequence[Phrase], won: Sequence[Phrase], same: Sequence[tuple[Phrase, Phrase]]) -> str | None:
    """Returns remove for a thing that is left empty (a stork in a nest, an empty nest), add for the reverse.

    What a thing is full of is its look: a glass full of milk, an empty glass.
    """
    for one, two in same:
        for kind, full, empty, other, own in (("remove", one, two, won, lost), ("add", two, one, lost, won)):
            content = full.looks - empty.looks
            is_empty = bool(empty.looks & EMPTY) and not full.looks & EMPTY
            if is_empty and not other and (own or (content and not content <= ADJECTIVES)):
                return "attribute" if own and all(phrase.link == "full_of" for phrase in own) else kind
    return None


def _counted(same: Sequence[tuple[Phrase, Phrase]]) -> str | None:
    """Returns add if more of the same things are named and nothing else differs, remove if fewer."""
    unlike = [pair for pair in same if pair[0].looks != pair[1].looks]
    counts = [(one.count, two.count) for one, two in unlike if (one.looks ^ two.looks) <= NUMBERS.keys()]
    if not counts or len(counts) < len(unlike) or not all(before and after for before, after in counts):
        return None
    return "add" if all(before < after for before, after in counts) else "remove"


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
