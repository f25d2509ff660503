"""Files appear whole or not at all, and what is kept in them comes back as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffedit_cli.errors import DiffEditError, OutputError
from diffedit_cli.storage import artifacts, files, records


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# publish


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    files.publish(tmp_path / "new.bin", b"whole")
    assert (tmp_path / "new.bin").read_bytes() == b"whole"
    assert names(tmp_path) == ["new.bin"]


def test_a_file_gets_the_permissions_that_any_new_file_gets(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.publish(tmp_path / "new.bin", b"whole")
    assert (tmp_path / "new.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    files.publish(tmp_path / ("n" * 250), b"whole")
    assert len(names(tmp_path)) == 1


def test_what_is_there_stays_when_writing_fails(tmp_path: Path) -> None:
    """A rename onto a folder fails after the bytes are written: nothing half-done is left."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken cannot be written"):
        files.publish(tmp_path / "taken", b"whole")
    assert names(tmp_path) == ["taken"]


WRITE_OVER_AND_OVER = """
import sys
from pathlib import Path
from diffedit_cli.storage import files
for _ in range(300):
    files.publish(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
"""


def test_readers_never_see_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    files.publish(path, b"a" * 100_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_OVER_AND_OVER, path, letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        assert len(data) == 100_000
        seen.add(data[:1] * (len(set(data)) == 1))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen <= {b"a", b"b"}
    assert names(tmp_path) == ["shared"]


# what is read


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "missing.png", "There is no picture"), (tmp_path, "is a folder")):
        with pytest.raises(DiffEditError, match=says) as caught:
            files.read(path, "picture")
        assert str(path) in str(caught.value)


# what is kept in them


def test_packed_arrays_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    arrays = {"contrast": np.arange(12, dtype=np.float32).reshape(3, 4)}
    about = records.record("contrast", {"from": "cat"})
    data = artifacts.pack(arrays, about)
    assert {artifacts.pack(arrays, about) for _ in range(20)} == {data}
    path = tmp_path / "entry.safetensors"
    path.write_bytes(data)
    found, said = artifacts.unpack(path)
    assert (found["contrast"] == arrays["contrast"]).all()
    assert said == about
    damaged = [data[:-1], data[: len(data) // 2], b"", data + b"more", data.replace(b"cat", b"dog")]
    damaged += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 7)]
    for harmed in damaged:
        path.write_bytes(harmed)
        try:
            found, said = artifacts.unpack(path)
        except artifacts.UNREADABLE:
            continue
        assert (found["contrast"] == arrays["contrast"]).all()  # a bit that means nothing: white space in the header
        assert said == about
