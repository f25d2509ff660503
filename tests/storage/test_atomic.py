"""What killed processes leave of a file or folder goes; what is being written stays, whoever looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffedit_cli.errors import OutputError
from diffedit_cli.storage import atomic, files
from diffedit_cli.storage.cache import Cache

HALF_WAY = """
import os, sys, time
from pathlib import Path
from diffedit_cli.storage import atomic
with getattr(atomic, sys.argv[1])(Path(sys.argv[2])) as made:
    if sys.argv[1] == "file":
        os.write(made, b"half")
    else:
        (made / "new").mkdir()
    print("half way", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PACE", 0.0)


def half_way(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process that has begun to make a file or folder of this name."""
    words = [sys.executable, "-c", HALF_WAY, kind, str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    return process


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_when_the_next_writes_there(tmp_path: Path, kind: str) -> None:
    process = half_way(kind, tmp_path / "cat.png")
    try:
        files.publish(tmp_path / "dog.png", b"whole")
        [living] = hidden(tmp_path)
        assert atomic.OURS.fullmatch(living)
        assert not atomic.is_left(tmp_path / living)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert atomic.is_left(tmp_path / living)
    files.publish(tmp_path / "dog.png", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["dog.png"]


def test_a_file_that_this_process_writes_stays(tmp_path: Path) -> None:
    with atomic.file(tmp_path / "cat.png") as descriptor:
        files.publish(tmp_path / "dog.png", b"whole")
        os.write(descriptor, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "dog.png"]
    assert (tmp_path / "cat.png").read_bytes() == b"whole"


@pytest.mark.parametrize(("age", "stays"), [(60, True), (7200, False)])
@pytest.mark.parametrize("kernel", ["0123456789ab", ""])
def test_what_another_machine_began_goes_when_it_has_not_changed_for_long(
    tmp_path: Path, kernel: str, age: float, stays: bool
) -> None:
    left = tmp_path / f".cat.png.diffedit-{kernel}-abcd_123.part"
    left.write_bytes(b"half")
    os.utime(left, (0, time.time() - age))
    files.publish(tmp_path / "dog.png", b"whole")
    assert left.exists() == stays


@pytest.mark.parametrize(("age", "stays"), [(60, True), (7200, False)])
def test_a_folder_that_another_machine_began_stays_while_anything_in_it_changes(
    tmp_path: Path, age: float, stays: bool
) -> None:
    left = tmp_path / ".model.diffedit-0123456789ab-abcd_123.part"
    (left / "new" / "unet").mkdir(parents=True)
    written = left / "new" / "unet" / "w.safetensors"
    written.write_bytes(b"half")
    (left / "link").symlink_to(tmp_path / "dog.png")
    for path in (written, left / "link", written.parent, left / "new", left):
        os.utime(path, (0, time.time() - (age if path == written else 7200)), follow_symlinks=False)
    files.publish(tmp_path / "dog.png", b"whole")
    assert left.exists() == stays


@pytest.mark.parametrize("name", [".film.mkv.part", ".cat.png.abcd_123.part", "cat.diffedit-0-abcd_123.part", ".git"])
def test_what_others_hide_stays_however_old(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    os.utime(tmp_path / name, (0, 0))
    files.publish(tmp_path / "dog.png", b"whole")
    assert (tmp_path / name).read_bytes() == b"mine"


def test_many_replace_the_same_folder_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def replace(number: int) -> None:
        for _ in range(20):
            with files.new_folder(path, replace=True) as fresh:
                (fresh / "by").write_text(str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(replace, range(8)))
    assert [one.name for one in tmp_path.iterdir()] == ["model"]
    assert [one.name for one in path.iterdir()] == ["by"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_swept_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    lock, swept = atomic.lock, []

    def late(descriptor: int, *, wait: bool = True) -> bool:
        if wait and not swept:
            [begun] = hidden(tmp_path)
            swept.append(begun)
            atomic.remove_if_left(tmp_path / begun)
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(atomic, "lock", late)
    if kind == "file":
        files.publish(tmp_path / "made", b"whole")
    else:
        with files.new_folder(tmp_path / "made") as fresh:
            (fresh / "in it").touch()
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_is_swept_before_it_is_opened_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def made_and_swept(**name: str) -> str:
        made.append(make(**name))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_swept)
    with atomic.folder(tmp_path / "model") as folder:
        assert str(folder) == made[1]


def test_where_there_are_no_locks_nothing_is_taken_for_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("fcntl.flock", refuse)
    with atomic.file(tmp_path / "cat.png") as descriptor:
        files.publish(tmp_path / "dog.png", b"whole")
        os.write(descriptor, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "dog.png"]


def test_a_folder_is_looked_through_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    look: Callable[[Path], object] = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or look(path))
    monkeypatch.setattr(atomic, "PACE", 3600.0)
    for _ in range(3):
        files.publish(tmp_path / "dog.png", b"whole")
    assert looked == [tmp_path]


def test_of_a_folder_that_is_not_there_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        files.publish(tmp_path / "none" / "dog.png", b"whole")


def test_what_a_killed_process_left_in_the_cache_goes_with_the_next_entry_or_when_it_is_pruned(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), "ab" * 32
    for end in (lambda: cache.store("inversion", key, b"whole"), lambda: cache.prune(1000)):
        cache.store("inversion", key, b"whole")
        folder = tmp_path / "inversion" / "ab"
        process = half_way("file", folder / f"{key}.safetensors")
        assert [entry.kind for entry in cache.entries()] == ["inversion"]
        process.kill()
        process.communicate()
        assert sorted(entry.kind for entry in cache.entries()) == ["inversion", "unfinished"]
        end()
        assert [path.name for path in folder.iterdir()] == [f"{key}.safetensors"]
