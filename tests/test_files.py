"""Files appear whole, foreign ones are left alone, and the cache serves many processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffedit_cli import artefacts, files
from diffedit_cli.cache import Cache
from diffedit_cli.errors import DiffEditError, OutputError


def check(path: Path, *, inputs: list[Path] | None = None, ours: bool = False, force: bool = False) -> None:
    files.check_target(path, inputs=inputs or [], ours=ours, force=force)


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
from diffedit_cli import files
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


# what may be written


def test_a_new_name_and_our_own_file_may_be_written(tmp_path: Path) -> None:
    check(tmp_path / "new.png")
    (tmp_path / "old.png").touch()
    check(tmp_path / "old.png", ours=True)


def test_a_foreign_file_needs_force(tmp_path: Path) -> None:
    (tmp_path / "old.png").touch()
    with pytest.raises(OutputError, match="not made by diffedit"):
        check(tmp_path / "old.png")
    check(tmp_path / "old.png", force=True)


@pytest.mark.parametrize("link", ["same name", "other spelling", "symbolic link", "hard link"])
def test_an_input_is_never_written_over(tmp_path: Path, link: str) -> None:
    source = tmp_path / "source.png"
    source.touch()
    target = tmp_path / "target.png"
    if link == "same name":
        target = source
    elif link == "other spelling":
        (tmp_path / "inner").mkdir()
        target = tmp_path / "inner" / ".." / "source.png"
    elif link == "symbolic link":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    with pytest.raises(OutputError, match="also an input"):
        check(target, inputs=[source], ours=True, force=True)


def test_a_folder_a_missing_folder_and_a_device_are_no_targets(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "x.png", tmp_path / "file" / "x.png", Path("/dev/null")):
        with pytest.raises(OutputError):
            check(path, force=True)


# what is read


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "missing.png", "There is no picture"), (tmp_path, "is a folder")):
        with pytest.raises(DiffEditError, match=says) as caught:
            files.read(path, "picture")
        assert str(path) in str(caught.value)


# the cache


def test_an_entry_is_found_again_byte_for_byte(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.find("contrast", "ab12") is None
    cache.store("contrast", "ab12", b"entry")
    found = cache.find("contrast", "ab12")
    assert found is not None
    assert found.read_bytes() == b"entry"
    assert cache.find("inversion", "ab12") is None
    assert cache.find("contrast", "ab13") is None


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for age, key in enumerate(["new1", "mid2", "old3"]):
        cache.store("contrast", key, bytes(100))
        used = 1_000_000_000 - age * 1000
        os.utime(cache.find("contrast", key) or "", (used, used))
    cache.find("contrast", "old3")  # used now
    assert [entry.path.stem for entry in cache.entries()] == ["mid2", "new1", "old3"]
    assert [entry.path.stem for entry in cache.prune(200)] == ["mid2"]
    assert [entry.path.stem for entry in cache.prune(200)] == []
    assert [entry.path.stem for entry in cache.prune(0)] == ["new1", "old3"]
    assert cache.entries() == []


def test_prune_touches_nothing_but_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "mine.txt").touch()
    (tmp_path / "photos" / "2020").mkdir(parents=True)
    (tmp_path / "photos" / "2020" / "cat.png").touch()
    cache.prune(0)
    assert (tmp_path / "mine.txt").exists()
    assert (tmp_path / "photos" / "2020" / "cat.png").exists()


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cache folder"):
        Cache(tmp_path / "file").store("contrast", "ab12", b"entry")
    assert Cache(tmp_path / "file").find("contrast", "ab12") is None


STORE_FIND_AND_PRUNE = """
import sys
from pathlib import Path
from diffedit_cli.cache import Cache
cache = Cache(Path(sys.argv[1]))
for round in range(40):
    for key in ("ab12", "cd34", "ef56"):
        cache.store("contrast", key, key.encode() * 10_000)
        found = cache.find("contrast", key)
        try:
            assert found is None or found.read_bytes() == key.encode() * 10_000
        except FileNotFoundError:
            pass  # the other process has pruned it
    cache.prune(30_000)
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Storing, reading and pruning the same entries at once: whole entries or none, and no error."""
    words = [sys.executable, "-c", STORE_FIND_AND_PRUNE, tmp_path / "cache"]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert not list(tmp_path.rglob("*.part"))


# what is kept in them


def test_packed_arrays_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    arrays = {"contrast": np.arange(12, dtype=np.float32).reshape(3, 4)}
    about = artefacts.record("contrast", {"from": "cat"})
    data = artefacts.pack(arrays, about)
    assert {artefacts.pack(arrays, about) for _ in range(20)} == {data}
    path = tmp_path / "entry.safetensors"
    path.write_bytes(data)
    found, said = artefacts.unpack(path)
    assert (found["contrast"] == arrays["contrast"]).all()
    assert said == about
    damaged = [data[:-1], data[: len(data) // 2], b"", data + b"more", data.replace(b"cat", b"dog")]
    damaged += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 7)]
    for harmed in damaged:
        path.write_bytes(harmed)
        try:
            found, said = artefacts.unpack(path)
        except artefacts.UNREADABLE:
            continue
        assert (found["contrast"] == arrays["contrast"]).all()  # a bit that means nothing: white space in the header
        assert said == about
