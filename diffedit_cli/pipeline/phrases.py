"""Splits a prompt into phrases: what they name, look like, do and where they are, by position and `lexicon`.

A prompt is cut at commas, conjunctions, prepositions and verbs. The last word of a phrase is its head, the words before
it are its looks. A phrase after *on*, *in*, *at*, *under*... is a place. Clothes (*in a dress*), and phrases after
*with*, *and*, *of*, *next to* or a verb, are things. Parts of a body and poses (*on two legs*) count as actions of
their owner; materials, colours and contents (*made of ice*, *in blue*, *full of eggs*) as its looks. A word in -ing or
-ed is a verb after a noun, and a look before one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from diffedit_cli.pipeline.lexicon import (
    ABOUT,
    ADJECTIVES,
    ADVERBS,
    BACKGROUND,
    BODY,
    CLOTHES,
    COLOURS,
    COMPOUND,
    COPULAS,
    COVERED,
    CUTS,
    DETERMINERS,
    DIRECTIONS,
    DRAWN,
    DRAWN_BY,
    FINITE,
    JOINTS,
    LIKENESS,
    LINKS,
    LITTLE,
    MADE,
    MATERIALS,
    MEDIA,
    NEIGHBOUR,
    NO_VERBS,
    NUMBERS,
    PASSING,
    PATTERNS,
    PHOTOGRAPHS,
    PICTURED,
    PLACING,
    PLAIN,
    PLAIN_VERBS,
    PLURALS,
    POSTURE,
    PRINTED,
    PRONOUNS,
    SCENERY,
    SEEMING,
    SHOWING,
    SKY,
    STATES,
    STYLE_LINKS,
    STYLES,
    TRAILED,
    TRAILING,
    TRANSITIVE,
    WHERE,
    singular,
    stem,
)

_WEIGHT = re.compile(r"\)(?:\d+(?:\.\d+)?)?[+-]*")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[,.;:!?|]")


@dataclass(frozen=True)
class Phrase:
    """A thing or a place, with its looks and actions."""

    number: int
    link: str  # preposition, conjunction or verb directly before it, or empty
    words: tuple[str, ...]
    looks: frozenset[str]
    head: str  # singular
    is_place: bool
    does: frozenset[str] = frozenset()  # verb stems, predicates after "is", and parts of its body

    @property
    def is_scenery(self) -> bool:
        return self.is_place and (self.head in SCENERY | BACKGROUND or self.link == "against")

    @property
    def count(self) -> int:
        """How many it names; 0 if that is unknown (dogs)."""
        found = [NUMBERS[word] for word in self.looks if word in NUMBERS]
        return found[0] if found else int(singular(self.words[-1]) == self.words[-1])

    def is_likeness_of(self, other: Phrase) -> bool:
        """Whether this phrase depicts the other, as a cat sculpture depicts a cat."""
        return self.head in LIKENESS and other.head in self.looks


def read(prompt: str) -> tuple[frozenset[str], list[Phrase]]:
    """Returns the words that name the medium or style, and the phrases of the rest of the prompt."""
    style, rest = _style(tokens_of(prompt))
    phrases = _phrases(rest)
    if len(phrases) > 1 and phrases[0].head in PHOTOGRAPHS and phrases[0].link == ",":  # a photo on the grass
        del phrases[0]
    if phrases:
        before = takewhile(lambda word: singular(word) != phrases[0].head, phrases[0].words)
        named = phrases[0].looks & STYLES & set(before)  # a cartoon cat, but not a screen showing a cartoon
        style += named
        phrases[0] = replace(phrases[0], looks=phrases[0].looks - named)
    return frozenset(map(singular, style)) - LITTLE - PLAIN - {"style"}, phrases


def tokens_of(prompt: str) -> list[str]:
    """Returns the words in lower case, without weights and brackets; stops become commas.

    Compounds such as "in front of" become one token, joined by underscores.
    """
    text = COMPOUND.sub(lambda found: found[0].replace(" ", "_"), " ".join(_WEIGHT.sub(" ", prompt.lower()).split()))
    return ["," if word in ".,;:!?|" else word for word in _WORD.findall(text)]


def _style(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Splits tokens into the words that name the medium or style, and the rest.

    Examples of a style are "an oil painting of", ", anime style" and "in watercolour".
    """
    style: list[str] = []
    while "of" in tokens[1:]:
        at = tokens.index("of", 1)
        if singular(tokens[at - 1]) not in MEDIA or set(tokens[: at - 1]) & (CUTS - {"and"}):
            break
        style, tokens = style + tokens[:at], tokens[at + 1 :]
    rest: list[str] = []
    parts = [part.split() for part in " ".join(tokens).split(",")]
    for number, part in enumerate(parts):
        opening = part[: next((at for at, word in enumerate(part) if word in CUTS - {"and"}), len(part))]
        is_style = bool(opening) and (singular(opening[-1]) in MEDIA or (number > 0 and bool(STYLES & set(part))))
        if is_style and len(parts) > 1:
            style += part
        else:
            said, left = _clause(part)
            style += said
            rest += [",", *left]
    return (style, rest) if set(rest) - {","} else ([], [",", *tokens])


def _clause(part: list[str]) -> tuple[list[str], list[str]]:
    """Splits a part into the style, which a preposition introduces or the last words name, and the rest."""
    for at, word in enumerate(part):
        if at and word in DRAWN and part[at + 1 :][:1] and part[at + 1] in DRAWN_BY:  # drawn by a child
            return part[at:], part[:at]
        if word not in STYLE_LINKS | {"in", "as"}:
            continue
        cuts = (number for number in range(at + 1, len(part)) if part[number] in CUTS - {"and"})
        end = len(part) if word in STYLE_LINKS else next(cuts, len(part))
        said = part[at + 1 : end]
        if (
            word in STYLE_LINKS
            or said == ["black", "and", "white"]
            or (said and said[-1] in MEDIA - PATTERNS)
            or STYLES & set(said)
        ):
            return said, part[:at] + part[end:]
    return (part[-2:], part[:-2]) if part[-1:] == ["style"] else ([], part)


def _phrases(tokens: Sequence[str]) -> list[Phrase]:
    """Cuts tokens before every function word and verb; `and` between two looks does not cut (black and white)."""
    phrases: list[Phrase] = []
    link, verbs, words = "", list[str](), list[str]()
    for at, word in enumerate([*tokens, ","]):
        following = tokens[at + 1] if at + 1 < len(tokens) else ","
        joins_looks = bool(words) and _joins_looks(word, words, following)
        is_verb = _is_verb(tokens, at, words) if at < len(tokens) else False
        is_copula = word in SEEMING and bool(words or phrases) and following not in CUTS | DETERMINERS | POSTURE
        if word in ADVERBS:
            verbs.append(word)
            continue
        if word.endswith("ly") and ((verbs and not words) or following in STATES):  # burns brightly, slightly open
            continue
        begins = word in DETERMINERS - JOINTS and bool(set(words) - DETERMINERS)  # another noun: in the hall the door
        if joins_looks or not (is_verb or is_copula or begins or word in CUTS | WHERE):
            words.append(word)
            continue
        if words or link in TRAILED or (verbs and word in JOINTS):
            _add(phrases, link, verbs, words)
            link, verbs, words = "", [], []
        if begins:
            words.append(word)
            continue
        if word in WHERE:
            phrases.append(Phrase(len(phrases), "", (word,), frozenset(), word, is_place=True))
        elif is_verb and not is_copula:
            link = ""
            verbs.append(word)
        else:
            link = "is" if is_copula else word
    return phrases


def _joins_looks(word: str, words: Sequence[str], following: str) -> bool:
    """Whether a conjunction or comma stands between looks: black and white, an old, rusty truck."""
    if word == "and":
        return {words[-1], following} <= ADJECTIVES
    return word == "," and words[0] in DETERMINERS and words[-1] in TRAILING and following not in LITTLE


def _is_verb(tokens: Sequence[str], at: int, words: Sequence[str]) -> bool:
    """Whether a token is a verb of the noun before it: a man riding a horse, but not a riding man."""
    word, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ","
    previous = tokens[at - 1] if at else ""
    if word in CUTS:
        return word in ("on", "off") and previous in COPULAS and following in CUTS  # the lamps are on
    if word in FINITE:
        return bool(words) or previous in ("that", "which", "who")
    if word in PLAIN_VERBS:
        return bool(words) and (words[-1] in PLURALS or words[-1] != singular(words[-1]))
    if word in STATES:
        follows = bool(words) or previous in COPULAS or previous.endswith(("ing", "ed"))
        return follows and (following in CUTS | DETERMINERS or following.endswith("ing"))
    if following in DETERMINERS and set(words) - DETERMINERS and words[-1] not in ADJECTIVES:
        return word not in ADJECTIVES | WHERE  # a player heads the ball
    if word.endswith("s") and words[:1] in (["a"], ["an"]) and len(words) > 1:  # no plural can stand here
        is_plural = word != singular(word) and not word.endswith("as")
        return is_plural and words[-1] not in ADJECTIVES and following in CUTS | DETERMINERS
    if len(word) < 5 or not word.endswith(("ing", "ed")) or singular(word) in NO_VERBS:
        return False
    ends = following in CUTS | DETERMINERS | PRONOUNS
    if not words:
        return ends or previous in COPULAS or (previous == "," and _opens_clause(word, following, tokens))
    is_look = DETERMINERS.issuperset(words) or words[-1].endswith(("'s", "\u2019s"))
    if word.endswith("ed") and following in COLOURS and not words[-1].endswith("ly"):
        return True  # lips painted red
    return not is_look and (ends or (word.endswith("ing") and words[-1] not in ADJECTIVES))


def _opens_clause(word: str, following: str, tokens: Sequence[str]) -> bool:
    """Whether a word in -ing or -ed after a comma is a verb: a dragon, breathing fire, but not sky, glowing sun."""
    has_articles = not DETERMINERS.isdisjoint(tokens[:2])
    return following in POSTURE or word in TRANSITIVE or (word.endswith("ing") and has_articles)


def _add(phrases: list[Phrase], link: str, verbs: Sequence[str], words: Sequence[str]) -> None:
    """Adds a phrase to the list, or its words to a phrase that is already there."""
    owners = [phrase.number for phrase in phrases if not phrase.is_place and phrase.link in JOINTS | {""}]
    said = [word for word in words if word not in DETERMINERS | PRONOUNS | {"and", ","}]
    if link == "in" and said in (["back"], ["distance"]):
        return
    head, looks, states = _head(said)
    does = frozenset(map(stem, verbs)) | states
    is_said_of = _is_said_of(link, verbs, words, said, head, bool(owners))
    if owners and (is_said_of or link):
        what = " ".join(said) if is_said_of else ""
        if link in DIRECTIONS or (not said and link in TRAILED - ABOUT):
            what = link
        owner = phrases[owners[-1]]
        phrases[owners[-1]] = replace(owner, does=owner.does | does | ({what} - {""}))
    last = phrases[-1] if phrases else None
    if last and not said and link in ABOUT and _is_scene(last, link):
        phrases[-1] = replace(last, is_place=True, words=(*last.words, link, *words))  # with mountains behind it
    if len(phrases) > 1 and not said and link == "on" and PRINTED & set(verbs):  # with a star printed on it
        printed = phrases.pop()
        phrases[-1] = replace(phrases[-1], looks=phrases[-1].looks | set(printed.words) - DETERMINERS)
    if not said or link == "without" or (is_said_of and owners):
        return
    if last and _says_look(link, verbs, head, said, last):
        of = phrases[owners[-1]] if last.is_place and owners and link != "of" else last
        told = link or verbs[-1]
        phrases[of.number] = replace(of, looks=of.looks | set(said), words=(*of.words, told, *words))
    elif last and link == "in" and head in BACKGROUND and last.link not in PLACING:  # with trees in the background
        phrases[-1] = replace(last, is_place=True, words=(*last.words, link, *words))
    elif last and link == "of" and last.head in LIKENESS:  # a statue of a lion
        looks |= last.looks | {last.head}
        phrases[-1] = replace(last, words=(*last.words, link, *words), looks=looks, head=head)
    else:
        is_place = _is_place(link, verbs, head, words, last)
        direct = does if not link else states if not owners else frozenset[str]()
        link = link or (verbs[-1] if verbs else "")
        phrases.append(Phrase(len(phrases), link, tuple(words), looks, head, is_place, direct))


def _is_said_of(
    link: str, verbs: Sequence[str], words: Sequence[str], said: Sequence[str], head: str, owned: bool
) -> bool:
    """Whether words say something of a thing named before: its body, its pose, how it is, what colour it has."""
    poses = bool(verbs) and TRANSITIVE.isdisjoint(verbs)
    if not said or head in BODY or (head in POSTURE and (link in LITTLE - {"with"} or poses)):
        return True
    if link in COPULAS and words[0] not in DETERMINERS:
        return True
    is_colour = len(said) < 3 and said[-1] in COLOURS and link != "and"  # a parrot, pale blue
    is_material = len(said) == 1 and link == "," and head in MATERIALS - SCENERY  # a chess piece, jade
    are_looks = all(word in TRAILING or word.endswith("ed") or (word in ADJECTIVES and link != "and") for word in said)
    return (
        owned
        and link not in LINKS | PLACING
        and words[0] not in DETERMINERS
        and (is_colour or is_material or are_looks)
    )


def _is_scene(phrase: Phrase, link: str) -> bool:
    """Whether a phrase followed by a preposition is a place: with mountains behind it, but not an old man behind it."""
    is_bare = link == "behind" and (phrase.link == "with" or not DETERMINERS & set(phrase.words))
    return phrase.head in SCENERY or is_bare


def _head(said: Sequence[str]) -> tuple[str, frozenset[str], frozenset[str]]:
    """Returns the head of a phrase, in the singular, its looks, and what follows it (leaves fresh from a tree)."""
    at = len(said) - 1
    while at > 0 and (said[at].isdigit() or (said[at] in TRAILING and said[at - 1] not in ADJECTIVES)):
        at -= 1
    numbers = {word for word in said[at + 1 :] if word.isdigit()}
    states = frozenset(said[at + 1 :]) - numbers
    return (singular(said[at]), frozenset(said[:at]) | numbers, states) if said else ("", frozenset(), frozenset())


def _says_look(link: str, verbs: Sequence[str], head: str, said: Sequence[str], last: Phrase) -> bool:
    """Whether a phrase is a look of the one before: made of gold, of ice, in mint colour, covered with snow."""
    if link in MADE | COVERED or (not link and verbs and stem(verbs[-1]) in SHOWING):
        return True
    if link == "of" and last.link == "with" and last.head in PICTURED:  # with a picture of a skull
        return True
    is_material = link == "of" and singular(said[-1]) in MATERIALS and last.head not in LIKENESS
    return (
        is_material or (link in ("in", "of") and said[-1] in COLOURS) or (link in ("in", "with") and head in PATTERNS)
    )


def _is_place(link: str, verbs: Sequence[str], head: str, words: Sequence[str], last: Phrase | None) -> bool:
    if head in BACKGROUND:
        return True
    if link == "with" and head in SKY:
        return True
    if last and head in SCENERY and (link == "," or (not link and verbs and stem(verbs[-1]) in PASSING)):
        return bool(link == "" or not set(words) & DETERMINERS)  # a mermaid, coral reef; a tram passing fields
    if link == "by" and verbs and head not in SCENERY:  # followed by two cubs
        return False
    if link in PLACING:
        return not (link == "in" and head in CLOTHES) and (link not in NEIGHBOUR or head in SCENERY)
    goes_on = link == "of" or (link == "and" and head in SCENERY and words[0] not in DETERMINERS | NUMBERS.keys())
    return goes_on and last is not None and last.is_place
