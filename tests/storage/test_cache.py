"""The cache: many processes share it, it never holds more than its limit, and only what is its own is ever removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import diffedit

from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.storage.cache import Cache

KEYS = [f"{number:02x}" * 32 for number in range(100)]
MB = 10**6


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_an_entry_is_found_again_byte_for_byte(cache: Cache) -> None:
    assert cache.find("contrast", KEYS[0]) is None
    cache.store("contrast", KEYS[0], b"entry")
    found = cache.find("contrast", KEYS[0])
    assert found is not None
    assert found.read_bytes() == b"entry"
    assert cache.find("inversion", KEYS[0]) is None
    assert cache.find("contrast", KEYS[1]) is None


def test_prune_removes_what_was_not_used_for_longest(cache: Cache) -> None:
    new, mid, old = KEYS[:3]
    for age, key in enumerate([new, mid, old]):
        cache.store("contrast", key, bytes(100))
        used = 1_000_000_000 - age * 1000
        os.utime(cache.find("contrast", key) or "", (used, used))
    cache.find("contrast", old)  # used now
    assert [entry.path.stem for entry in cache.entries()] == [mid, new, old]
    assert [entry.path.stem for entry in cache.prune(200)] == [mid]
    assert [entry.path.stem for entry in cache.prune(200)] == []
    assert [entry.path.stem for entry in cache.prune(0)] == [new, old]
    assert cache.entries() == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cache folder"):
        Cache(tmp_path / "file").store("contrast", KEYS[0], b"entry")
    assert Cache(tmp_path / "file").find("contrast", KEYS[0]) is None


STORE_FIND_AND_PRUNE = """
import sys
from pathlib import Path
from diffedit_cli.storage.cache import Cache
cache = Cache(Path(sys.argv[1]))
for round in range(40):
    for key in ("ab", "cd", "ef"):
        cache.store("contrast", key * 32, key.encode() * 20_000)
        found = cache.find("contrast", key * 32)
        try:
            assert found is None or found.read_bytes() == key.encode() * 20_000
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


# Whose it is


FOREIGN = (
    *("thesis.txt", "made/thesis.txt", "made/thesis.json", "locks/key", "locks/key.lock", "models/photos/p.jpg"),
    *(
        "sd15/unet/diffusion_pytorch_model.safetensors",
        f"contrast/ff/{KEYS[0]}.safetensors",
        "contrast/00/00.safetensors",
    ),
    *(f"contrast/{KEYS[0]}.safetensors", f"models/{KEYS[0][:40]}/a", f"digests/{KEYS[0]}.txt", "photos/.hidden"),
    *("photos/2020/.hidden", ".git/config", "photos/.cat.png.part"),
)


def strangers(folder: Path) -> None:
    """Files of somebody who has them in a folder that is also a cache, not changed for long."""
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        os.utime(folder / name, (1, 1))


@pytest.mark.parametrize("words", [("clear",), ("prune", "--keep", "0")], ids=" ".join)
@pytest.mark.parametrize("where", ["option", "variable", "settings"])
@pytest.mark.parametrize("used", [True, False])
def test_only_what_is_its_own_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], where: str, used: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path.parent / f"{tmp_path.name}-settings"))
    monkeypatch.delenv("DIFFEDIT_CACHE_DIR", raising=False)
    strangers(tmp_path)
    more = ("--cache-dir", ".") if where == "option" else ()
    if where == "variable":
        monkeypatch.setenv("DIFFEDIT_CACHE_DIR", ".")
    elif where == "settings":
        settings = tmp_path.parent / f"{tmp_path.name}-settings" / "diffedit" / "diffedit.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'cache-dir = "{tmp_path}"')
    if used:
        filled(Cache(tmp_path))
    ran = diffedit("cache", *words, *more)
    assert ran.code == (0 if used else 2), ran.err
    assert used or "not marked as a cache" in ran.err
    assert all((tmp_path / name).read_text() == name for name in FOREIGN)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {".diffedit-cache", ".diffedit-usage"} == set(FOREIGN)
    assert not list((tmp_path / "models").glob("cc*"))


def filled(cache: Cache) -> None:
    """Everything that a cache may hold, its name beginning with cc."""
    key = "cc" * 32
    cache.store("contrast", key, b"entry")
    cache.reserve(1)
    (cache.model(key) / "unet").mkdir(parents=True)
    (cache.model(f"{key}-{'c' * 16}") / "unet").mkdir(parents=True)
    for note in (cache.root / "made" / f"{key}.json", cache.root / "digests" / key):
        cache.put(note, b"note")
    with cache.exclusively(key):
        pass


def test_a_lock_that_is_held_stays_and_still_keeps_others_out(cache: Cache) -> None:
    class Waiting(Exception):
        pass

    def waited() -> None:
        raise Waiting

    cache.store("contrast", KEYS[0], b"entry")
    with cache.exclusively("cc" * 32):
        with cache.exclusively("dd" * 32):
            pass
        assert cache.prune(0)
        assert [path.name for path in (cache.root / "locks").iterdir()] == ["ccc.lock"]
        with pytest.raises(Waiting), Cache(cache.root, waited).exclusively("cc" * 32):
            pass
    cache.prune(0)
    assert not list((cache.root / "locks").iterdir())
    with cache.exclusively("cc" * 32):
        pass


def test_a_folder_that_is_not_there_or_empty_can_be_cleared(tmp_path: Path) -> None:
    assert Cache(tmp_path).prune(0) == Cache(tmp_path / "none").prune(0) == []
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not marked"):
        Cache(tmp_path).prune(0)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_not_replaced_by_an_entry(cache: Cache, tmp_path: Path, kind: str) -> None:
    path = cache.root / "contrast" / KEYS[0][:2] / f"{KEYS[0]}.safetensors"
    path.parent.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    {"folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path / "mine"), "pipe": lambda: os.mkfifo(path)}[kind]()
    before = path.lstat()
    with pytest.raises(OutputError, match="not a file of diffedit's"):
        cache.store("contrast", KEYS[0], b"entry")
    assert (path.lstat().st_ino, (tmp_path / "mine").read_text()) == (before.st_ino, "mine")
    cache.prune(0)
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("command", ["list", "prune --keep 1", "clear"])
def test_a_file_is_no_cache(tmp_path: Path, command: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    ran = diffedit("cache", *command.split(), "--cache-dir", file)
    assert (ran.code, file.read_text()) == (2, "mine")
    assert "is not a folder; choose one with --cache-dir" in ran.err
