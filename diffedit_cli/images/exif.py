"""EXIF and TIFF directories <-> bytes, every value as it lies there: libraries that decode and encode lose odd ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import ExifTags

BIG = b"MM\0+"  # how a BigTIFF begins that Pillow does not know
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8, SIGNED_LONG8, DIRECTORY8 = 1, 2, 3, 4, 5, 7, 16, 17, 18
SHORTER = {LONG8: (LONG, "Q", "I"), SIGNED_LONG8: (9, "q", "i"), DIRECTORY8: (13, "Q", "I")}  # than BigTIFF's
EXPOSURE, PLACE, RELATED = ExifTags.IFD.Exif.value, ExifTags.IFD.GPSInfo.value, ExifTags.IFD.Interop.value
FRACTIONS = (RATIONAL, 10)
INNER = (EXPOSURE, PLACE, RELATED)
MAKER_NOTE = ExifTags.Base.MakerNote.value
SIDES = {(EXPOSURE, 0xA002): 0, (EXPOSURE, 0xA003): 1, (RELATED, 0x1001): 0, (RELATED, 0x1002): 1}
SUBJECTS = (0x9214, 0xA214)
NAMES = {EXPOSURE: ExifTags.TAGS, 0: ExifTags.TAGS, PLACE: ExifTags.GPSTAGS, RELATED: ExifTags.TAGS}


@dataclass(frozen=True)
class Value:
    """What a tag says: its type, how many there are, and their bytes."""

    type: int
    count: int
    data: bytes


@dataclass
class Directory:
    """Values by tag, and directories within by the tag that points to them; `order` is < or >."""

    order: str = "<"
    values: dict[int, Value] = field(default_factory=dict)
    inner: dict[int, Directory] = field(default_factory=dict)

    def text(self, tag: int) -> str:
        """Of a tag that may be missing."""
        return self.values[tag].data.rstrip(b"\0").decode("latin-1") if tag in self.values else ""

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Of a tag that may be missing: whole ones, or fractions of such."""
        value = self.values.get(tag)
        if value is None or value.type not in (SHORT, LONG, LONG8, RATIONAL):
            return ()
        code = {SHORT: "H", LONG8: "Q"}.get(value.type, "I")
        found = struct.unpack(f"{self.order}{len(value.data) // struct.calcsize(code)}{code}", value.data)
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
    """The first directory of a TIFF or EXIF block, with those within, and the names of tags that cannot be read.

    Raises ValueError for what is no such block.
    """
    order, big = {b"II": "<", b"MM": ">"}.get(data[:2], ""), data[2:4] in (b"\0+", b"+\0")
    if not order or (not big and data[2:4] not in (b"\0*", b"*\0")) or len(data) < (16 if big else 8):
        raise ValueError("it is no EXIF block")
    first = struct.unpack(f"{order}{'Q' if big else 'I'}", data[8:16] if big else data[4:8])[0]
    reader = _Reader(data, order, big)
    return reader.directory(first, 0), reader.lost


class _Reader:
    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self.data, self.order, self.lost = data, order, list[str]()
        self.count, self.entry, self.field = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        self.left = 2 * len(data)  # bytes of values: more would be the same ones again and again
        self.seen: set[int] = set()

    def directory(self, at: int, table: int) -> Directory:
        found = Directory(self.order)
        head, step = struct.calcsize(self.order + self.count), struct.calcsize(self.order + self.entry)
        if at in self.seen or at + head > len(self.data):
            self.lost.append(name(table) if table else "the first directory")
            return found
        self.seen.add(at)
        (count,) = struct.unpack_from(self.order + self.count, self.data, at)
        for start in range(at + head, min(at + head + count * step, len(self.data) - step + 1), step):
            tag, type_, length, field_ = struct.unpack_from(self.order + self.entry, self.data, start)
            value = self._value(type_, length, field_)
            if value is None or (tag in INNER and len(value.data) != 4):
                self.lost.append(name(tag, table))
            elif tag in INNER:
                found.inner[tag] = self.directory(struct.unpack(f"{self.order}I", value.data)[0], tag)
            else:
                found.values[tag] = value
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
        type_, long, short = SHORTER[value.type]
        numbers = struct.unpack(f"{self.order}{value.count}{long}", value.data)
        try:
            return Value(type_, value.count, struct.pack(f"{self.order}{value.count}{short}", *numbers))
        except struct.error:  # larger than a file that is no BigTIFF can say
            return None


def encode(directory: Directory, between: bytes = b"") -> bytes:
    """A block: its header, what lies between (a TIFF's pixels, from the eighth byte on), and the directory."""
    between += b"\0" * (len(between) & 1)
    start = 8 + len(between)
    head = (b"II*\0" if directory.order == "<" else b"MM\0*") + struct.pack(f"{directory.order}I", start)
    return head + between + _encode(directory, start)


def _encode(directory: Directory, at: int) -> bytes:
    """A directory that lies at `at`, and its values and directories within behind it."""
    pointers = {tag: Value(LONG, 1, b"") for tag, inner in directory.inner.items() if inner}
    values = sorted({**directory.values, **pointers}.items())
    entries, behind = struct.pack(f"{directory.order}H", len(values)), b""
    behind_at = at + 2 + 12 * len(values) + 4
    for tag, value in values:
        entries += struct.pack(f"{directory.order}HHI", tag, value.type, value.count)
        data = value.data
        if tag in pointers or len(data) > 4:
            place = behind_at + len(behind)
            data = _encode(directory.inner[tag], place) if tag in pointers else data
            behind += data + b"\0" * (len(data) & 1)
            data = struct.pack(f"{directory.order}I", place)
        entries += data.ljust(4, b"\0")
    return entries + bytes(4) + behind


def upright(directory: Directory, size: tuple[int, int], turned: bool) -> list[str]:
    """Makes sides those of the picture, and leaves out places within it if it was turned; returns what, in words."""
    left_out = []
    for table, inner in _all(directory).items():
        for tag in set(inner.values) & {tag for where, tag in SIDES if where == table}:
            inner.put(tag, LONG, size[SIDES[table, tag]])
        if turned and table == EXPOSURE and any(inner.values.pop(tag, None) for tag in SUBJECTS):
            left_out.append("where its subject is, as it was turned")
    return left_out


def _all(directory: Directory) -> Mapping[int, Directory]:
    found = {0: directory, **directory.inner}
    return {**found, **found[EXPOSURE].inner} if EXPOSURE in found else found


def shorten(directory: Directory, most: int) -> list[str]:
    """Leaves out the largest values until the block has `most` bytes; returns their names."""
    left_out = []
    while len(encode(directory)) > most:
        tables = _all(directory)
        table, tag = max(
            ((table, tag) for table, inner in tables.items() for tag in inner.values),
            key=lambda place: len(tables[place[0]].values[place[1]].data),
        )
        del tables[table].values[tag]
        left_out.append(name(tag, table))
    return left_out


def append(tiff: bytes, directory: Directory) -> bytes:
    """A TIFF file with the values of a directory beside those of its pixels."""
    own, _ = read(tiff)
    added = reorder(directory, own.order)
    return encode(Directory(own.order, {**added.values, **own.values}, added.inner), tiff[8:])


def reorder(directory: Directory, order: str) -> Directory:
    """The same in another byte order; what is undefined stays as it is."""
    if directory.order == order:
        return directory
    values = {tag: Value(value.type, value.count, _swapped(value)) for tag, value in directory.values.items()}
    return Directory(order, values, {tag: reorder(inner, order) for tag, inner in directory.inner.items()})


def _swapped(value: Value) -> bytes:
    length = 4 if value.type in FRACTIONS else SIZES[value.type]
    return b"".join(value.data[at : at + length][::-1] for at in range(0, len(value.data), length))
