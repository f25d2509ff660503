"""TIFF files: how far what their directories name reaches."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.images import exif
from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WITHIN = 330  # a tag of directories
PIXELS = {273: 279, 324: 325, 513: 514}  # where parts of them lie -> how long those are
READ = (WITHIN, *exif.INNER, *PIXELS, *PIXELS.values())
NUMBERS = {exif.SHORT: "u2", exif.LONG: "u4", 13: "u4", exif.LONG8: "u8", exif.DIRECTORY8: "u8"}


def read(data: bytes) -> RawMetadata:
    """What lies behind all that the file's directories name."""
    stored = RawMetadata()
    with contextlib.suppress(struct.error, OverflowError):  # it is cut
        stored.note_rest(data[_Layout(data).end :])
    return stored


class _Layout:
    def __init__(self, data: bytes) -> None:
        self.data, self.end = data, 8
        self.order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
        self.count, self.place = ("Q", "Q") if big else ("H", "I")
        self.entry = f"{self.order}HH{self.place}{struct.calcsize(self.place)}s"
        # Entries, and bytes of numbers: more would be the same ones again and again.
        self.entries, self.left = len(data) // struct.calcsize(self.entry), 2 * len(data)
        ahead = [*struct.unpack_from(self.order + self.place, data, 8 if big else 4)]
        seen = {0}
        while ahead:
            if (at := ahead.pop()) not in seen:
                seen.add(at)
                ahead += self._directory(at)

    def _directory(self, at: int) -> list[int]:
        """Marks what a directory names, and returns where others are."""
        (count,) = struct.unpack_from(self.order + self.count, self.data, at)
        at += struct.calcsize(self.order + self.count)
        step, numbers = struct.calcsize(self.entry), dict[int, NDArray[np.uint64]]()
        self._spend(count, 0)
        for start in range(at, at + count * step, step):
            tag, type_, length, field = struct.unpack_from(self.entry, self.data, start)
            size = exif.SIZES.get(type_, 0) * length
            if size > len(field):
                (place,) = struct.unpack(self.order + self.place, field)
                self.end = max(self.end, place + size)
                field = self.data[place : place + size] if tag in READ else b""
            if tag in READ and type_ in NUMBERS and size <= len(field):
                self._spend(0, size)
                kind = f"{self.order}{NUMBERS[type_]}"
                numbers[tag] = np.frombuffer(field[:size], kind).astype(np.uint64)
        self._mark(numbers)
        (following,) = struct.unpack_from(self.order + self.place, self.data, at + count * step)
        self.end = max(self.end, at + count * step + struct.calcsize(self.place))
        within = [int(place) for tag in (WITHIN, *exif.INNER) for place in numbers.get(tag, ())]
        return [following, *within]

    def _spend(self, entries: int, numbers: int) -> None:
        """Raises struct.error where there are more than a file of this size has."""
        self.entries, self.left = self.entries - entries, self.left - numbers
        if min(self.entries, self.left) < 0:
            raise struct.error

    def _mark(self, numbers: dict[int, NDArray[np.uint64]]) -> None:
        """Parts of the pixels; where it is not said how long they are, they may be all that is left."""
        for places, lengths in PIXELS.items():
            there = numbers.get(places, np.zeros(0, np.uint64))
            if not len(there):
                continue
            long = numbers.get(lengths, np.zeros(0, np.uint64))
            known = len(there) == len(long) and long.all()
            self.end = max(self.end, int((there + long).max()) if known else len(self.data))
