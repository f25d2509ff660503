"""Finds the end of the data that the directories of a TIFF file refer to."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.images import exif
from diffedit_cli.images.raw_metadata import RawMetadata

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WITHIN = 330  # tag of sub-directories
PIXELS = {273: 279, 324: 325, 513: 514}  # tag of the offsets of pixel data -> tag of their lengths
READ = (WITHIN, *exif.INNER, *PIXELS, *PIXELS.values())
NUMBERS = {exif.SHORT: "u2", exif.LONG: "u4", 13: "u4", exif.LONG8: "u8", exif.DIRECTORY8: "u8"}


def read(data: bytes) -> RawMetadata:
    """Returns a note of the bytes after all data that the file's directories refer to."""
    stored = RawMetadata()
    with contextlib.suppress(struct.error, OverflowError):  # the file is truncated
        stored.note_rest(data[_Layout(data).end :])
    return stored


class _Layout:
    def __init__(self, data: bytes) -> None:
        self.data, self.end = data, 8
        self.order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
        self.count, self.place = ("Q", "Q") if big else ("H", "I")
        self.entry = f"{self.order}HH{self.place}{struct.calcsize(self.place)}s"
        # Most entries and most bytes of numbers: a file that exceeds them refers to the same bytes repeatedly.
        self.entries, self.left = len(data) // struct.calcsize(self.entry), 2 * len(data)
        ahead = [*struct.unpack_from(self.order + self.place, data, 8 if big else 4)]
        seen = {0}
        while ahead:
            if (at := ahead.pop()) not in seen:
                seen.add(at)
                ahead += self._directory(at)

    def _directory(self, at: int) -> list[int]:
        """Extends `end` over the data that a directory refers to; returns the offsets of further directories."""
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
        """Subtracts from the remaining counts. Raises struct.error if a file of this size cannot hold as many."""
        self.entries, self.left = self.entries - entries, self.left - numbers
        if min(self.entries, self.left) < 0:
            raise struct.error

    def _mark(self, numbers: dict[int, NDArray[np.uint64]]) -> None:
        """Extends `end` over the pixel data, to the end of the file if its lengths are missing."""
        for places, lengths in PIXELS.items():
            there = numbers.get(places, np.zeros(0, np.uint64))
            if not len(there):
                continue
            long = numbers.get(lengths, np.zeros(0, np.uint64))
            known = len(there) == len(long) and long.all()
            self.end = max(self.end, int((there + long).max()) if known else len(self.data))
