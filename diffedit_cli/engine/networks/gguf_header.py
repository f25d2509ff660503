"""Reads the header of a GGUF file: names, shapes and formats of its tensors, without reading any of them.

The gguf package trusts the numbers in a file; here each is checked against the file's size before anything is built.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_TENSORS = 2**14  # as in a .safetensors file
MOST_ENTRIES = 2**10  # of metadata; real files of networks have some dozen
MOST_VALUES = 2**20  # in all arrays of the metadata: a vocabulary has some hundred thousand
LONGEST_TEXT = 2**20  # bytes
LONGEST_NAME = 2**10
MOST_SIDES = 4
ALIGNMENT = "general.alignment"
STRING, ARRAY, UINT32 = 8, 9, 4
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the kinds of values in the metadata."""
FORMATS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2),  # float32, float16, bfloat16
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),  # Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),  # Q2_K to Q6_K
    20: (32, 18), 23: (256, 136),  # IQ4_NL, IQ4_XS
}  # fmt: skip
"""Values and bytes of a block in the formats of tensors that diffusers reads."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file; `kind` is the number of its format, `begin` its place among the tensors in bytes."""

    kind: int
    shape: tuple[int, ...]
    begin: int


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever it is called."""
    if not path.is_file():  # opening a pipe may block for ever
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def tensors(path: Path) -> dict[str, GgufTensor]:
    """Returns the tensors of a GGUF file. Raises ValueError for a file that is damaged or has absurd numbers."""
    try:
        with path.open("rb") as file:
            return _Header(file, path.stat().st_size).tensors()
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError("it is cut off or damaged") from error


class _Header:
    """Header of an open file of `size` bytes, read once from front to back."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._values = file, size, 0
        self._alignment = 32  # unless the metadata has another

    def tensors(self) -> dict[str, GgufTensor]:
        magic, version = self._file.read(len(MAGIC)), self._number("<I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it is no GGUF file of version {' or '.join(map(str, VERSIONS))}")
        count, entries = self._limited("<Q", MOST_TENSORS, "tensors"), self._limited("<Q", MOST_ENTRIES, "entries")
        for _ in range(entries):
            self._skip_entry()
        found: dict[str, GgufTensor] = {}
        for _ in range(count):
            name = self._text(LONGEST_NAME)
            sides = [self._number("<Q") for _ in range(self._limited("<I", MOST_SIDES, "sides of a tensor"))]
            kind, begin = self._number("<I"), self._number("<Q")
            if name in found:
                raise ValueError(f"it holds two tensors {name}")
            found[name] = GgufTensor(kind, tuple(reversed(sides)), begin)
        start = math.ceil(self._file.tell() / self._alignment) * self._alignment
        stored = sum(self._check(name, tensor, start) for name, tensor in found.items())
        if stored > self._size:
            raise ValueError("its tensors overlap")
        return found

    def _check(self, name: str, tensor: GgufTensor, start: int) -> int:
        """Returns the bytes of a tensor. Raises ValueError unless it is in the file, in a format of diffusers."""
        if tensor.kind not in FORMATS:
            raise ValueError(f"{name} is stored in format {tensor.kind}, which diffedit does not support")
        block, size = FORMATS[tensor.kind]
        if tensor.shape and tensor.shape[-1] % block:
            raise ValueError(f"{name} has rows of {tensor.shape[-1]} values, in blocks of {block}")
        stored = math.prod(tensor.shape) // block * size
        if start + tensor.begin + stored > self._size:
            raise ValueError("it is cut off or damaged")
        return stored

    def _skip_entry(self) -> None:
        key, kind = self._text(LONGEST_NAME), self._number("<I")
        if key == ALIGNMENT:
            self._alignment = self._number("<I") if kind == UINT32 else 0
            if self._alignment not in (2**power for power in range(16)):
                raise ValueError(f"its {ALIGNMENT} is {self._alignment}")
            return
        self._skip_value(kind)

    def _skip_value(self, kind: int, inside: bool = False) -> None:
        if kind == STRING:
            self._text(LONGEST_TEXT)
        elif kind in SCALARS:
            self._file.seek(SCALARS[kind], 1)
        elif kind == ARRAY and not inside:
            inner, count = self._number("<I"), self._number("<Q")
            self._values += count
            if self._values > MOST_VALUES:
                raise ValueError(f"its metadata has more than {MOST_VALUES} values")
            for _ in range(count):
                self._skip_value(inner, inside=True)
        else:
            raise ValueError("it is cut off or damaged")
        if self._file.tell() > self._size:
            raise ValueError("it is cut off or damaged")

    def _limited(self, form: str, most: int, what: str) -> int:
        if (count := self._number(form)) > most:
            raise ValueError(f"it states {count} {what}, and no network has more than {most}")
        return count

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._file.read(struct.calcsize(form)))[0])

    def _text(self, most: int) -> str:
        length = self._number("<Q")
        if length > most:
            raise ValueError("it is cut off or damaged")
        text = self._file.read(length)
        if len(text) != length:
            raise ValueError("it is cut off or damaged")
        return text.decode()
