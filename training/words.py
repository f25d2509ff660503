"""The words of the built-in world: captions of scenes, token numbers, and the tokenizer."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import CLIPTokenizer

from training.places import PLACES
from training.scenes import FRUIT, MIXED_FRUIT, PRESENT, World, with_article

MAX_LENGTH = 16
START, END, FIRST_WORD = 0, 1, 2
UNKNOWN = "<unk>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>", UNKNOWN)
"""Special tokens of an exported tokenizer; its words follow them."""
CAPACITY = 512
"""Rows of the token embedding during training; an exported model keeps only the rows of its words."""

# The position is the token number: only append, so that an existing model can learn new words.
_ORDER = (
    "a an and apple apples at ball balloon beach bicycle bowl burger bus cake car cat chick cow deer desert dog duck "
    "elephant fruits grapes grass hat horse house in lemon lemons night of on orange oranges pear pears penguin photo "
    "pig rabbit rose sheep snow strawberries strawberry sunflower table teapot the tiger tulip "
    "fruit picture with under near sitting standing "
    "red blue green yellow purple pink white black brown grey "
    "forest city street sea sky room moon mountain lake field garden river road space farm park day sunset "
    "bear fox lion monkey panda mouse frog turtle fish whale bird owl chicken goat camel giraffe zebra "
    "banana cherry peach watermelon pineapple tomato carrot bread pizza donut cookie egg cheese cup "
    "truck train plane boat rocket tractor motorcycle flower tree cactus mushroom "
    "book guitar drum clock lamp chair key gift umbrella shoe shirt crown robot snowman ghost"
)
WORDS = _ORDER.split()
TOKEN = {word: FIRST_WORD + index for index, word in enumerate(WORDS)}


def encode(caption: str) -> list[int]:
    """Returns the token numbers of a caption: start, words, end, padded with the end token as in Stable Diffusion."""
    tokens = [START, *(TOKEN[word] for word in caption.split())][: MAX_LENGTH - 1]
    return tokens + [END] * (MAX_LENGTH - len(tokens))


def encode_all(captions: Sequence[str]) -> Tensor:
    return torch.tensor([encode(caption) for caption in captions])


_FORMS = (
    (0.42, "{thing} {where}"),
    (0.10, "{bare}"),
    (0.17, "{thing}"),
    (0.09, "a photo of {thing} {where}"),
    (0.06, "a photo of {thing}"),
    (0.06, "{bare} {where}"),
    (0.03, "a picture of {thing} {where}"),
    (0.03, "a picture of {thing}"),
    (0.04, "a photo of {bare} {where}"),
)
_COLOUR_UNSAID = 0.15
_PLACE_FORMS = ((0.8, "{where}"), (0.1, "a photo {where}"), (0.1, "a picture {where}"))


def captions_of(kind: str, objects: Sequence[str], place: str) -> list[tuple[float, str]]:
    """Returns every caption of a scene with its probability: all phrasings that the model can learn."""
    where = PLACES[place].phrase
    if kind == "empty":
        return [(share, form.format(where=where)) for share, form in _PLACE_FORMS]
    return [
        (said * part * share, form.format(thing=thing, bare=bare, where=where))
        for said, names in _names(objects)
        for part, thing, bare in _things(kind, names)
        for share, form in _FORMS
    ]


def _names(objects: Sequence[str]) -> list[tuple[float, Sequence[str]]]:
    """Returns shares and names of the objects: with colours, and sometimes without, as a red balloon is a balloon."""
    plain = [name.rpartition(" ")[2] for name in objects]
    if plain == list(objects):
        return [(1.0, objects)]
    return [(1 - _COLOUR_UNSAID, objects), (_COLOUR_UNSAID, plain)]


def _things(kind: str, objects: Sequence[str]) -> list[tuple[float, str, str]]:
    """Returns share, name with articles and bare name for all objects of a scene, and sometimes for one of them."""
    if kind == "bowl":
        names = [(0.7, MIXED_FRUIT), (0.3, "fruit")] if objects[0] == MIXED_FRUIT else [(1.0, objects[0])]
        bowls = [(0.94 * share, f"a bowl of {name}", f"bowl of {name}") for share, name in names]
        return bowls + [(0.06 * share, name, name) for share, name in names]
    if kind == "one":
        return [(0.96, with_article(objects[0]), objects[0]), (0.04, f"the {objects[0]}", objects[0])]
    first, second = objects
    pairs = [(0.6, first, second), (0.25, second, first)]
    both = [(share, f"{with_article(a)} and {with_article(b)}", f"{a} and {b}") for share, a, b in pairs]
    beside = [(0.07, f"{with_article(first)} with {with_article(second)}", f"{first} with {second}")]
    return both + beside + [(0.04, with_article(name), name) for name in objects]


def draw_caption(kind: str, objects: Sequence[str], place: str, rng: random.Random, dropout: float = 0.1) -> str:
    """Returns a random caption of a scene, or the empty caption with probability ``dropout``."""
    if rng.random() < dropout:
        return ""
    shares, captions = zip(*captions_of(kind, objects, place), strict=True)
    return str(rng.choices(captions, shares)[0])


def trained_words(world: World = PRESENT) -> list[str]:
    """Returns the words in captions of a world, ordered by token number."""
    seen: set[str] = set()
    for place in world.places:
        shown: list[tuple[str, tuple[str, ...]]] = [("empty", ())]
        shown += [("one", (name,)) for name in world.names]
        shown += [("two", (name, "cat")) for name in world.names]
        shown += [("bowl", (name,)) for name in [*FRUIT, MIXED_FRUIT]]
        for kind, objects in shown:
            seen.update(word for _, caption in captions_of(kind, objects, place) for word in caption.split())
    return sorted(seen, key=TOKEN.__getitem__)


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Returns a CLIP tokenizer with one token per word; the letters of other words become the unknown token."""
    special = {token: number for number, token in enumerate(SPECIAL)}
    tokenizer = CLIPTokenizer(vocab=special, merges=[], unk_token=UNKNOWN, model_max_length=MAX_LENGTH)
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return tokenizer
