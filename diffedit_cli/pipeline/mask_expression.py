"""What --mask-method says: a map's name, or an expression that joins masks, such as `noise & !"the collar"`.

either: both (("|" or "or") both)*
both: one (("&" or "and") one)*
one: ("!" or "not") one, "(" either ")", a name, or words in quotes, which a segmenter looks for
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline.parameter import AUTO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MASK_METHODS = {"noise": ("contrast",), "attention": ("attention",), "both": ("contrast", "attention")}
"""The maps of the diffusion network that a mask is made from."""
SEGMENT, DRAWN = "segment", "drawn"
NAMES = (*MASK_METHODS, SEGMENT, DRAWN)
LONGEST, DEEPEST = 1000, 20  # characters and levels of an expression, so that none exhausts Python's stack
END = "end"
_SIGNS = {"&": "&", "and": "&", "|": "|", "or": "|", "!": "!", "not": "!", "(": "(", ")": ")"}
_TOKEN = re.compile(r"""\s*(?:(?P<sign>[&|!()])|(?P<quote>["'])(?P<words>.*?)(?P=quote)|(?P<name>\w+)|(?P<odd>\S))""")


@dataclass(frozen=True)
class Operand:
    """One mask of an expression, by its name; SEGMENT has words of its own, or is empty for those of --segment."""

    name: str
    words: str = ""

    def operands(self) -> Iterator[Operand]:
        """Yields the masks that the expression joins, in their order."""
        yield self

    def evaluate(self, mask_of: Callable[[Operand], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Returns the mask uint8 (H, W) of an expression, where `mask_of` returns that of an operand.

        The signs are minimum, maximum and 255 - m, which for masks of 0 and 255 are and, or and not.
        """
        return mask_of(self)


@dataclass(frozen=True)
class Operation:
    """Masks joined by a sign: & or |, or ! before a single one."""

    sign: str
    parts: tuple[Expression, ...]

    def operands(self) -> Iterator[Operand]:
        """Yields the masks that the expression joins, in their order."""
        for part in self.parts:
            yield from part.operands()

    def evaluate(self, mask_of: Callable[[Operand], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Returns the mask uint8 (H, W) of the expression; see `Operand.evaluate`."""
        import numpy as np

        masks = [part.evaluate(mask_of) for part in self.parts]
        if self.sign == "!":
            return np.invert(masks[0])  # 255 - m
        return functools.reduce(np.minimum if self.sign == "&" else np.maximum, masks)


Expression = Operand | Operation


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Expression:
    """Returns the expression that a text says. Raises UsageError that names the place of an error in it."""
    if len(text) > LONGEST:
        raise UsageError(f"--mask-method has {len(text)} characters; write at most {LONGEST}.")
    parser = _Parser(text)
    found = parser.either(0)
    parser.expect(END)
    return found


def of(method: str, segment: str) -> Expression:
    """Returns the expression of --mask-method; AUTO looks for the words of `segment`, or else reads the prompts."""
    return parse((SEGMENT if segment.strip() else next(iter(MASK_METHODS))) if method == AUTO else method)


def check_words(method: str, segment: str) -> None:
    """Raises UsageError if --segment is given and not used, or not given and needed."""
    if (Operand(SEGMENT) in of(method, segment).operands()) != bool(segment.strip()):
        raise UsageError(
            f"--segment has no effect, as --mask-method {method} does not name segment; add it there."
            if segment.strip()
            else f"--mask-method {method} names segment; say what to look for with --segment."
        )


def compares(method: str, segment: str) -> bool:
    """Whether the mask is found, or found in part, by comparing prompts: by the diffusion model."""
    return any(one.name in MASK_METHODS for one in of(method, segment).operands())


def draws(method: str) -> bool:
    """Whether a drawn mask is an operand."""
    return any(one.name == DRAWN for one in of(method, "").operands())


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens = text, list(_TOKEN.finditer(text))
        self.next = 0

    def either(self, depth: int) -> Expression:
        parts = [self.both(depth)]
        while self.takes("|"):
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Operation("|", tuple(parts))

    def both(self, depth: int) -> Expression:
        parts = [self.one(depth)]
        while self.takes("&"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else Operation("&", tuple(parts))

    def one(self, depth: int) -> Expression:
        if depth > DEEPEST:
            raise self.wrong(f"write at most {DEEPEST} levels of parentheses and !")
        if self.takes("!"):
            return Operation("!", (self.one(depth + 1),))
        if self.takes("("):
            inner = self.either(depth + 1)
            self.expect(")")
            return inner
        if self.sign:
            raise self.wrong("a mask is missing here")
        token = self.tokens[self.next]
        words = " ".join((token["words"] or "").split())
        if token["quote"] and not words:
            raise self.wrong("say between the quotes what the segmenter looks for")
        name = (token["name"] or "").lower()
        if name == AUTO:
            raise self.wrong(f"{AUTO} stands alone, in small letters; name here what it would choose, such as both")
        if not token["quote"] and name not in NAMES:
            raise self.wrong(f"use {AUTO}, {', '.join(NAMES)}, or words in quotes, joined by & | ! and parentheses")
        self.next += 1
        return Operand(SEGMENT, words) if token["quote"] else Operand(name)

    @property
    def sign(self) -> str:
        """The sign that comes next, as a single character; END at the end, empty before a name, words or an error."""
        if self.next == len(self.tokens):
            return END
        token = self.tokens[self.next]
        return _SIGNS.get(token["sign"] or (token["name"] or "").lower(), "")

    def takes(self, sign: str) -> bool:
        """Whether this sign comes next; it is passed by if so."""
        found = self.sign == sign
        self.next += found
        return found

    def expect(self, sign: str) -> None:
        if not self.takes(sign):
            raise self.wrong("a & or | is missing here" if sign == END else f"a {sign} is missing here")

    def wrong(self, advice: str) -> UsageError:
        """Returns the error for what comes next."""
        if self.next < len(self.tokens):
            token = self.tokens[self.next]
            place = token.end() - len(token[0].lstrip())
            where = f"unclear from character {place + 1} on ({self.text[place : place + 20]})"
        else:
            where = "incomplete at its end"
        return UsageError(f"--mask-method {self.text} is {where}: {advice}.")
