"""EXIF blocks: what a stranger's holds comes out as it lies there, at a cost in proportion to the file."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from diffedit_cli.images import exif, metadata
from diffedit_cli.images.exif import Directory

EXPOSURE = 0x8769


def directory(lengths: dict[int, int]) -> Directory:
    """Of values of these lengths, by tag."""
    made = Directory()
    for tag, length in lengths.items():
        made.put_bytes(tag, bytes([tag & 255]) * length)
    return made


def block(*entries: tuple[int, int, int, int]) -> bytes:
    """Of entries (tag, type, count, place)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def test_what_is_encoded_is_read_again() -> None:
    whole = directory({1: 3, 2: 4, 3: 5, 4: 100})
    whole.inner[EXPOSURE] = directory({5: 7, 6: 1})
    assert exif.read(exif.encode(whole)) == (whole, [])
    assert exif.read(exif.encode(whole, b"odd"))[0] == whole


@pytest.mark.parametrize("most", [14, 20, 60, 100, 119, 120, 1000, 5000])
def test_the_largest_values_go_and_no_more_than_must(most: int) -> None:
    def whole() -> Directory:
        made = directory({tag: tag for tag in range(300, 400, 7)})
        made.inner[EXPOSURE] = directory({500: 60, 501: 3})
        return made

    shortened, before = whole(), whole()
    left_out = exif.shorten(shortened, most)
    assert left_out == [exif.name(tag) for tag in (*reversed(range(300, 400, 7)), 500, 501)][: len(left_out)]
    assert len(exif.encode(shortened)) <= most
    for said in left_out[:-1]:
        for inner in (before, before.inner[EXPOSURE]):
            inner.values = {tag: value for tag, value in inner.values.items() if exif.name(tag) != said}
    assert len(exif.encode(before)) > most


def test_a_block_is_shortened_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was encoded again for each value that went: a JPEG of 0.7 MB took minutes."""
    encoded = list[Directory]()
    encode = exif._encode
    monkeypatch.setattr(exif, "_encode", lambda one, at: encoded.append(one) or encode(one, at))
    assert len(exif.shorten(directory(dict.fromkeys(range(2000), 100)), 65_000)) == 1420
    assert len(encoded) == 1


def test_entries_are_read_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that begin within each other have the same ones: 36 KB of them took 12 s."""
    data = block(*((EXPOSURE, 4, 1, 10 + 12 * at) for at in range(500)))[:-4] + b"\xff" * 4
    read, value = [0], exif._Reader._value

    def counted(*about: object) -> object:
        read[0] += 1
        return value(*about)  # type: ignore[arg-type]

    monkeypatch.setattr(exif._Reader, "_value", counted)
    lost = exif.read(data)[1]
    assert read[0] <= len(data) // 12
    assert "the rest of ExifOffset" in lost


def test_directories_lie_a_few_deep_in_each_other() -> None:
    """A chain of them went deeper than Python calls, and cost the picture."""
    heads = (struct.pack("<HHHIII", 1, EXPOSURE, 4, 1, 8 + 18 * (at + 1), 0) for at in range(2000))
    found, lost = exif.read(b"II*\0" + struct.pack("<I", 8) + b"".join(heads))
    assert lost == ["ExifOffset"]
    assert exif.encode(found)


def test_what_a_directory_says_twice_and_what_is_cut_off_is_told() -> None:
    data = block((271, 2, 4, 0x636261), (271, 2, 4, 0x636261), (272, 2, 4, 0x636261), (272, 2, 4, 0x646464))
    assert exif.read(data)[1] == ["a second Model"]
    assert exif.read(data[:-20])[1] == ["the rest of the first directory"]


@pytest.mark.parametrize("type_", [exif.SHORT, exif.LONG])
def test_numbers_without_end_take_no_memory(type_: int) -> None:
    """An orientation of 8 MB became a tuple of millions."""
    long = Directory(">")
    long.put_bytes(274, b"\1\2" * 2**22, type_)
    tracemalloc.start()
    assert metadata.orientation(long) == 1
    assert tracemalloc.get_traced_memory()[1] < 2**16
    swapped = exif.reorder(long, "<")
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
    assert swapped.values[274].data[:4] == b"\2\1\2\1"


def test_many_names_are_counted() -> None:
    assert metadata.in_words(["a", "b", "a"]) == "a, b"
    assert metadata.in_words(map(str, range(100))).endswith("28, 29, and 70 more")
