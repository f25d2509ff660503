"""Reads and writes EXIF and TIFF directories with every value as raw bytes.

Libraries that decode and encode values lose unusual ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags

BIG = b"MM\0+"  # signature of big-endian BigTIFF, which Pillow does not read
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8, SIGNED_LONG8, DIRECTORY8 = 1, 2, 3, 4, 5, 7, 16, 17, 18
SHORTER = {LONG8: (LONG, "u"), SIGNED_LONG8: (9, "i"), DIRECTORY8: (13, "u")}  # 32-bit types in place of BigTIFF's
EXPOSURE, PLACE, RELATED = ExifTags.IFD.Exif.value, ExifTags.IFD.GPSInfo.value, ExifTags.IFD.Interop.value
FRACTIONS = (RATIONAL, 10)
INNER = (EXPOSURE, PLACE, RELATED)
DEEPEST = 4  # levels of nested directories
SIDES = {(EXPOSURE, 0xA002): 0, (EXPOSURE, 0xA003): 1, (RELATED, 0x1001): 0, (RELATED, 0x1002): 1}
SUBJECTS = (0x9214, 0xA214)
HEAD, ENTRY, SHORTEST = 6, 12, 4  # bytes of an empty directory, of an entry, and of a value stored in its entry
FEW = 16  # most numbers decoded of a value: more than any tag in use has
NAMES = {EXPOSURE: ExifTags.TAGS, 0: ExifTags.TAGS, PLACE: ExifTags.GPSTAGS, RELATED: ExifTags.TAGS}


@dataclass(frozen=True)
class Value:
    """The value of a tag: its TIFF type, the count of elements and their bytes."""

    type: int
    count: int
    data: bytes


@dataclass
class Directory:
    """Values by tag, and sub-directories by the tag that points to them; `order` is the byte order, < or >."""

    order: str = "<"
    values: dict[int, Value] = field(default_factory=dict)
    inner: dict[int, Directory] = field(default_factory=dict)

    def text(self, tag: int) -> str:
        """Returns a tag's text as Latin-1 without trailing NULs, empty if the tag is missing."""
        return self.values[tag].data.rstrip(b"\0").decode("latin-1") if tag in self.values else ""

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Returns the first numbers of a tag, integers or fractions, empty if the tag is missing or of another type."""
        value = self.values.get(tag)
        if value is None or value.type not in (SHORT, LONG, LONG8, RATIONAL):
            return ()
        code = {SHORT: "H", LONG8: "Q"}.get(value.type, "I")
        count = min(FEW, len(value.data) // struct.calcsize(code))
        found = struct.unpack_from(f"{self.order}{count}{code}", value.data)
        if value.type != RATIONAL:
            return found
        return tuple(top / below if below else 0.0 for top, below in zip(found[::2], found[1::2], strict=False))

    def put(self, tag: int, type_: int, *numbers: int) -> None:
        code = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "I"}[type_]
        data = struct.pack(f"{self.order}{len(numbers)}{code}", *numbers)
        self.values[tag] = Value(type_, len(data) // SIZES[type_], data)

    def put_text(self, tag: int, words: str) -> None:
        self.put_bytes(tag, words.encode() + b"\0", ASCII)

    def put_bytes(self, tag: int, data: bytes, type_: int = UNDEFINED) -> None:
        self.values[tag] = Value(type_, len(data), data)

    def __bool__(self) -> bool:
        return bool(self.values or any(self.inner.values()))


def name(tag: int, table: int = 0) -> str:
    return NAMES[table].get(tag, f"tag {tag}")


def read(data: bytes) -> tuple[Directory, list[str]]:
    """Returns the first directory of a TIFF or EXIF block with its sub-directories, and the names of unreadable tags.

    Raises ValueError if `data` is not such a block.
    """
    order, big = {b"II": "<", b"MM": ">"}.get(data[:2], ""), data[2:4] in (b"\0+", b"+\0")
    if not order or (not big and data[2:4] not in (b"\0*", b"*\0")) or len(data) < (16 if big else 8):
        raise ValueError("it is not an EXIF block")
    first = struct.unpack(f"{order}{'Q' if big else 'I'}", data[8:16] if big else data[4:8])[0]
    reader = _Reader(data, order, big)
    return reader.directory(first, 0, DEEPEST), reader.lost


class _Reader:
    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self.data, self.order, self.lost = data, order, list[str]()
        self.count, self.entry, self.field = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        self.step = struct.calcsize(order + self.entry)
        # Most bytes of values and most entries: a file that exceeds them refers to the same bytes repeatedly.
        self.left, self.entries = 2 * len(data), len(data) // self.step
        self.seen: set[int] = set()

    def directory(self, at: int, table: int, depth: int) -> Directory:
        found, head = Directory(self.order), struct.calcsize(self.order + self.count)
        called = name(table) if table else "the first directory"
        if at in self.seen or at + head > len(self.data) or not depth:
            self.lost.append(called)
            return found
        self.seen.add(at)
        (count,) = struct.unpack_from(self.order + self.count, self.data, at)
        there = min(count, self.entries, (len(self.data) - at - head) // self.step)
        self.entries -= there
        for start in range(at + head, at + head + there * self.step, self.step):
            tag, type_, length, field_ = struct.unpack_from(self.order + self.entry, self.data, start)
            value = self._value(type_, length, field_)
            if value is None or (tag in INNER and len(value.data) != 4):
                self.lost.append(name(tag, table))
            elif tag in found.inner or found.values.get(tag, value) != value:
                self.lost.append(f"a second {name(tag, table)}")
            elif tag in INNER:
                place = struct.unpack(f"{self.order}I", value.data)[0]
                found.inner[tag] = self.directory(place, tag, depth - 1)
            else:
                found.values[tag] = value
        if there < count:
            self.lost.append(f"the rest of {called}")
        return found

    def _value(self, type_: int, count: int, field_: bytes) -> Value | None:
        length = SIZES.get(type_, 0) * count
        if not length and (count or type_ not in SIZES):
            return None
        data = field_[:length]
        if length > self.field:
            at = struct.unpack(f"{self.order}{'Q' if self.field == 8 else 'I'}", field_)[0]
            data = self.data[at : at + length]
        self.left -= len(data)
        return self._shorter(Value(type_, count, data)) if len(data) == length and self.left >= 0 else None

    def _shorter(self, value: Value) -> Value | None:
        if value.type not in SHORTER:
            return value
        type_, kind = SHORTER[value.type]
        numbers = np.frombuffer(value.data, f"{self.order}{kind}8")
        shorter = numbers.astype(f"{self.order}{kind}4")
        # larger numbers cannot be stored outside BigTIFF
        return Value(type_, value.count, shorter.tobytes()) if (shorter == numbers).all() else None


def encode(directory: Directory, between: bytes = b"") -> bytes:
    """Returns a block: the header, the bytes `between` (a TIFF's pixels, from offset 8 on) and the directory."""
    between += b"\0" * (len(between) & 1)
    start = 8 + len(between)
    head = (b"II*\0" if directory.order == "<" else b"MM\0*") + struct.pack(f"{directory.order}I", start)
    return head + between + _encode(directory, start)


def _encode(directory: Directory, at: int) -> bytes:
    """Returns the bytes of a directory at offset `at`, followed by its long values and sub-directories."""
    pointers = {tag: Value(LONG, 1, b"") for tag, inner in directory.inner.items() if inner}
    values = sorted({**directory.values, **pointers}.items())
    entries, behind = [struct.pack(f"{directory.order}H", len(values))], list[bytes]()
    place = at + HEAD + ENTRY * len(values)
    for tag, value in values:
        data = value.data
        if tag in pointers or len(data) > SHORTEST:
            data = _encode(directory.inner[tag], place) if tag in pointers else data
            behind += [data, b"\0" * (len(data) & 1)]
            data, place = struct.pack(f"{directory.order}I", place), place + _even(len(data))
        entries += [struct.pack(f"{directory.order}HHI", tag, value.type, value.count), data.ljust(SHORTEST, b"\0")]
    return b"".join([*entries, bytes(4), *behind])


def _even(length: int) -> int:
    return length + (length & 1)


def _size(value: Value) -> int:
    """Returns the size of a value with its entry, in bytes."""
    return ENTRY + (_even(len(value.data)) if len(value.data) > SHORTEST else 0)


def upright(directory: Directory, size: tuple[int, int], turned: bool) -> list[str]:
    """Sets the stored width and height; drops positions if `turned` and returns descriptions of what was dropped."""
    left_out = []
    for table, inner in _all(directory):
        for tag in set(inner.values) & {tag for where, tag in SIDES if where == table}:
            inner.put(tag, LONG, size[SIDES[table, tag]])
        if turned and table == EXPOSURE and any(inner.values.pop(tag, None) for tag in SUBJECTS):
            left_out.append("the position of its subject, since the pixels were rotated upright")
    return left_out


def _all(directory: Directory, table: int = 0) -> Iterator[tuple[int, Directory]]:
    """Yields the directory (with 0) and all its sub-directories, each with the tag that points to it."""
    yield table, directory
    for tag, inner in directory.inner.items():
        yield from _all(inner, tag)


def shorten(directory: Directory, most: int) -> list[str]:
    """Drops the largest values until the block has at most `most` bytes; returns the names of their tags."""
    size, left_out = len(encode(directory)), list[str]()
    places = [(table, inner, tag) for table, inner in _all(directory) for tag in inner.values]
    for table, inner, tag in sorted(places, key=lambda place: -len(place[1].values[place[2]].data)):
        if size <= most:
            break
        size -= _size(inner.values.pop(tag)) + (0 if inner or inner is directory else HEAD + ENTRY)
        left_out.append(name(tag, table))
    return left_out


def append(tiff: bytes, directory: Directory) -> bytes:
    """Returns a TIFF file with the values of a directory added; the file's own values take precedence."""
    own, _ = read(tiff)
    added = reorder(directory, own.order)
    return encode(Directory(own.order, {**added.values, **own.values}, added.inner), tiff[8:])


def reorder(directory: Directory, order: str) -> Directory:
    """Returns the directory in another byte order; values of type UNDEFINED are unchanged."""
    if directory.order == order:
        return directory
    values = {tag: Value(value.type, value.count, _swapped(value)) for tag, value in directory.values.items()}
    return Directory(order, values, {tag: reorder(inner, order) for tag, inner in directory.inner.items()})


def _swapped(value: Value) -> bytes:
    length = 4 if value.type in FRACTIONS else SIZES[value.type]
    return np.frombuffer(value.data, f"u{length}").byteswap().tobytes()
