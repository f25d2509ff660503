"""Splits a prompt into phrases: what they name, look like, do and where they are, by position and short lists.

A prompt is cut at commas, conjunctions, prepositions and verbs. The last word of a phrase is its head, the words before
it are its looks. A phrase after *on*, *in*, *at*, *under*... is a place. Clothes (*in a dress*), and phrases after
*with*, *and*, *of*, *next to* or a verb, are things. Parts of a body count as actions of their owner. A word in -ing or
-ed is a verb after a noun, and a look before one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


def _singular(noun: str) -> str:
    """Returns an approximate singular, good enough to find the same noun again."""
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) and len(noun) > 3 else noun


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _nouns(words: str) -> frozenset[str]:
    return frozenset(map(_singular, words.split()))


_WEIGHT = re.compile(r"\)(?:\d+(?:\.\d+)?)?[+-]*")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[,.;:!?|]")
_TOGETHER = re.compile(
    r"\b(?:in front of|in the middle of|on top of|next to|close to|made (?:out )?of|made from|surrounded by|full of|"
    r"filled with|covered (?:in|with|by)|out of|in the style of|(?:pixel|line|pop|concept) art|comic book)\b"
)
_DETERMINERS = _listed("a an the this that these those some his her its their my your our")
_PRONOUNS = _listed("it him her them itself himself herself themselves each other")
_COPULAS = _listed("is are was were be being has have")
JOINTS = _listed(", and or but while that which who plus")
_NEIGHBOUR = _listed("near beside next_to close_to")  # a place before scenery, a thing before anything else
PLACING = _NEIGHBOUR | _listed(
    "on in at under over above below beneath behind by inside outside against along across through around among "
    "between beyond into onto upon amid within in_front_of in_the_middle_of on_top_of surrounded_by during underneath "
    "down up"
)
_MADE = _listed("made_of made_out_of made_from")
_LINKS = _MADE | _listed(
    "with without of for from to toward towards off like as full_of filled_with covered_in covered_with covered_by "
    "out_of in_the_style_of"
)
_CUTS = _COPULAS | JOINTS | PLACING | _LINKS
LITTLE = _CUTS | _DETERMINERS | _PRONOUNS
_FINITE = _listed(
    "sits stands lies lays runs walks jumps flies sleeps holds wears rides plays looks eats drinks swims smiles "
    "laughs dances reads drives carries hangs rests leans climbs sings cooks floats grows shines sat stood lit seen"
)
_NO_VERBS = _listed(
    "building painting drawing king ring wing thing evening morning string spring wedding ceiling clothing earring "
    "lightning pudding dumpling duckling swing railing red bed sled shed seed weed reed breed moped"
)
_ADJECTIVES = _listed(
    "red orange yellow green blue purple violet pink brown black white grey gray golden silver gold beige turquoise "
    "dark light bright pale colorful colourful wooden metal plastic glass stone brick paper leather marble bronze "
    "steel iron ceramic concrete woollen silk cotton big small large little tiny huge giant tall short long thin "
    "thick fat slim old young new ancient modern happy sad angry calm cute beautiful pretty ugly fluffy furry wet dry "
    "hot cold warm clean dirty empty full broken open closed round square one two three four five six seven eight "
    "nine ten several many"
)
_BODY = _nouns(
    "eyes hair mouth face ears nose arms hands legs foot feet head tail wings fur skin tooth teeth tongue lips smile "
    "frown expression paws shoulders knees"
)
_POSTURE = _listed("air left right back side camera viewer")  # in the air, to the left: a pose, not a place
_CLOTHES = _nouns(
    "dress shirt t-shirt blouse jacket coat suit spacesuit tuxedo uniform costume skirt trousers pants jeans shorts "
    "scarf hat cap glasses sunglasses armor armour kimono sweater hoodie clothes clothing outfit pyjamas pajamas gown "
    "robe"
)
_SCENERY = _nouns(
    "sky sea ocean lake river beach shore coast field meadow forest woods jungle desert mountain hill valley city "
    "town village street road park garden room wall landscape snow water sunset night light weather cliff building"
)
_BACKGROUND = _nouns("background backdrop")
_PHOTOGRAPHS = _listed("photo photograph picture image")
_PLAIN = _PHOTOGRAPHS | _listed(  # words for a photograph of any quality, which is not a style
    "portrait close-up closeup shot view scene snapshot realistic high quality "
    "high-quality detailed real good nice beautiful color colour"
)
MEDIA = _PLAIN | _nouns(
    "painting watercolor watercolour drawing sketch illustration cartoon anime render rendering engraving etching "
    "lithograph woodcut mosaic fresco comic comic_book manga caricature pixel_art line_art pop_art concept_art art "
    "artwork poster doodle collage print graffiti"
)
_STYLES = _listed(
    "style anime cartoon manga cubist cubism impressionist impressionism surrealist surrealism cyberpunk steampunk "
    "pixel_art watercolor watercolour line_art pop_art ukiyo-e minimalist photorealistic monochrome sepia"
)
_LIKENESS = _listed("statue sculpture figurine figure toy model doll group pair couple herd flock bunch pile piece")


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
        return self.is_place and (self.head in _SCENERY | _BACKGROUND or self.link == "against")

    def is_likeness_of(self, other: Phrase) -> bool:
        """Whether this phrase depicts the other, as a cat sculpture depicts a cat."""
        return self.head in _LIKENESS and other.head in self.looks


def read(prompt: str) -> tuple[frozenset[str], list[Phrase]]:
    """Returns the words that name the medium or style, and the phrases of the rest of the prompt."""
    style, rest = _style(tokens_of(prompt))
    phrases = _phrases(rest)
    if len(phrases) > 1 and phrases[0].head in _PHOTOGRAPHS and phrases[0].link == ",":  # a photo on the grass
        del phrases[0]
    if phrases:
        style += phrases[0].looks & _STYLES
        phrases[0] = replace(phrases[0], looks=phrases[0].looks - _STYLES)
    return frozenset(map(_singular, style)) - LITTLE - _PLAIN - {"style"}, phrases


def tokens_of(prompt: str) -> list[str]:
    """Returns the words in lower case, without weights and brackets; stops become commas.

    Compounds such as "in front of" become one token, joined by underscores.
    """
    text = _TOGETHER.sub(lambda found: found[0].replace(" ", "_"), " ".join(_WEIGHT.sub(" ", prompt.lower()).split()))
    return ["," if word in ".,;:!?|" else word for word in _WORD.findall(text)]


def _style(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Splits tokens into the words that name the medium or style, and the rest.

    Examples of a style are "an oil painting of", ", anime style" and "in watercolour".
    """
    style: list[str] = []
    while "of" in tokens[1:]:
        at = tokens.index("of", 1)
        if _singular(tokens[at - 1]) not in MEDIA or set(tokens[: at - 1]) & (_CUTS - {"and"}):
            break
        style, tokens = style + tokens[:at], tokens[at + 1 :]
    rest: list[str] = []
    parts = [part.split() for part in " ".join(tokens).split(",")]
    for number, part in enumerate(parts):
        opening = part[: next((at for at, word in enumerate(part) if word in _CUTS), len(part))]
        is_style = bool(opening) and (_singular(opening[-1]) in MEDIA or (number > 0 and bool(_STYLES & set(part))))
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
        if word not in ("in", "as", "in_the_style_of"):
            continue
        cuts = (number for number in range(at + 1, len(part)) if part[number] in _CUTS - {"and"})
        end = len(part) if word == "in_the_style_of" else next(cuts, len(part))
        said = part[at + 1 : end]
        if word == "in_the_style_of" or said == ["black", "and", "white"] or (said and said[-1] in MEDIA | _STYLES):
            return said, part[:at] + part[end:]
    return (part[-2:], part[:-2]) if part[-1:] == ["style"] else ([], part)


def _phrases(tokens: Sequence[str]) -> list[Phrase]:
    """Cuts tokens before every function word and verb; `and` between two looks does not cut (black and white)."""
    phrases: list[Phrase] = []
    link, verbs, words = "", list[str](), list[str]()
    for at, word in enumerate([*tokens, ","]):
        following = tokens[at + 1] if at + 1 < len(tokens) else ","
        joins_looks = word == "and" and bool(words) and {words[-1], following} <= _ADJECTIVES
        is_verb = _is_verb(word, tokens[at - 1] if at else "", following, words)
        if joins_looks or not (is_verb or word in _CUTS):
            words.append(word)
            continue
        if words or (verbs and word in JOINTS):
            _add(phrases, link, verbs, words)
            link, verbs, words = "", [], []
        if is_verb:
            link = ""
            verbs.append(word)
        else:
            link = word
    return phrases


def _is_verb(word: str, previous: str, following: str, words: Sequence[str]) -> bool:
    """Whether a word is a verb of the noun before it: a man riding a horse, but not a riding man."""
    if word in _FINITE:
        return bool(words) or previous in ("that", "which", "who")
    if word.endswith("s") and words[:1] in (["a"], ["an"]) and len(words) > 1:  # no plural can stand here
        is_plural = word != _singular(word) and not word.endswith("as")
        return is_plural and words[-1] not in _ADJECTIVES and following in _CUTS | _DETERMINERS
    if len(word) < 5 or not word.endswith(("ing", "ed")) or _singular(word) in _NO_VERBS:
        return False
    ends = following in _CUTS | _DETERMINERS | _PRONOUNS
    if not words:
        return ends or previous in _COPULAS
    is_look = _DETERMINERS.issuperset(words) or words[-1].endswith(("'s", "\u2019s"))
    return not is_look and (ends or (word.endswith("ing") and words[-1] not in _ADJECTIVES))


def _add(phrases: list[Phrase], link: str, verbs: Sequence[str], words: Sequence[str]) -> None:
    """Adds a phrase to the list, or its words to a phrase that is already there."""
    owners = [phrase.number for phrase in phrases if not phrase.is_place and phrase.link in JOINTS | {""}]
    does = frozenset(map(_stem, verbs))
    said = [word for word in words if word not in _DETERMINERS | _PRONOUNS | {"and"}]
    head, looks = (_singular(said[-1]), frozenset(said[:-1])) if said else ("", frozenset[str]())
    is_body = head in _BODY or (head in _POSTURE and link in LITTLE - {"with"})
    is_said_of = not said or is_body or (link in _COPULAS and words[0] not in _DETERMINERS)
    if owners and (is_said_of or link):
        what = {" ".join(said)} if said and is_said_of else set[str]()
        phrases[owners[-1]] = replace(phrases[owners[-1]], does=phrases[owners[-1]].does | does | what)
    last = phrases[-1] if phrases else None
    if last and link == "behind" and not said:  # with mountains behind it
        phrases[-1] = replace(last, is_place=True, words=(*last.words, link, *words))
    if not said or link == "without" or (is_said_of and owners):
        return
    if last and link in _MADE:
        phrases[-1] = replace(last, looks=last.looks | set(said), words=(*last.words, link, *words))
    elif last and link == "in" and head in _BACKGROUND and last.link not in PLACING:  # with trees in the background
        phrases[-1] = replace(last, is_place=True, words=(*last.words, link, *words))
    elif last and link == "of" and last.head in _LIKENESS:  # a statue of a lion
        looks |= last.looks | {last.head}
        phrases[-1] = replace(last, words=(*last.words, link, *words), looks=looks, head=head)
    else:
        is_place = _is_place(link, head, words, last)
        direct = does if not link else frozenset[str]()
        link = link or (verbs[-1] if verbs else "")
        phrases.append(Phrase(len(phrases), link, tuple(words), looks, head, is_place, direct))


def _is_place(link: str, head: str, words: Sequence[str], last: Phrase | None) -> bool:
    if head in _BACKGROUND:
        return True
    if link in PLACING:
        return not (link == "in" and head in _CLOTHES) and (link not in _NEIGHBOUR or head in _SCENERY)
    goes_on = link == "of" or (link == "and" and head in _SCENERY and words[0] not in _DETERMINERS)
    return goes_on and last is not None and last.is_place


def _stem(verb: str) -> str:
    """Returns the stem of a verb: sitting, sits -> sit; lying, lies -> li."""
    stem = re.sub(r"(?:ing|ed|es|s)$", "", verb)
    stem = stem[:-1] if stem[-2:-1] == stem[-1:] else stem
    return stem[:-1] + "i" if stem.endswith("y") else stem
