"""The cache never holds more than its limit, what was not used for longest going first, and what is read stays."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command import diffedit

from diffedit_cli.errors import OutputError
from diffedit_cli.jobs.up_to_date import OutputNotes
from diffedit_cli.storage import cache_folder, hashing, model_locks
from diffedit_cli.storage.cache import Cache

KEYS = [f"{number:02x}" * 32 for number in range(100)]
MB = 10**6


def sizes(folder: Path) -> dict[Path, int]:
    """Bytes of each file, of which some may come and go while they are listed."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.lstat().st_size
    return found


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(sizes(folder).values())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_not_used_for_longest_goes_first(cache: Cache) -> None:
    cache_folder.keep_to(cache.root, MB)
    for number, key in enumerate(KEYS[:30]):
        cache.store("contrast", key, bytes(100_000))
        cache.find("contrast", KEYS[0])  # always in use
        os.utime(cache.find("contrast", key) or "", (number + 1, number + 1))
        assert size(cache.root) <= MB
    kept = [key for key in KEYS[:30] if cache.find("contrast", key)]
    assert kept[0] == KEYS[0]
    assert kept[1:] == KEYS[30 - len(kept) + 1 : 30]
    assert len(kept) > 5


def test_notes_and_models_count_and_go_like_entries(cache: Cache, tmp_path: Path) -> None:
    cache_folder.keep_to(cache.root, MB)
    (tmp_path / "big").write_bytes(bytes(hashing.BIG))
    (tmp_path / "cat.png").write_bytes(b"picture")
    model = cache.model(KEYS[99])
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(500_000))
    os.utime(model, (1, 1))
    cache.store("contrast", KEYS[0], b"entry")
    cache.trim(recount=True)
    for number in range(100):
        hashing.of_file(tmp_path / "big", cache.root / "digests")
        OutputNotes(cache.root).note([tmp_path / "cat.png"], f"{number}")
        cache.store("contrast", KEYS[number], bytes(20_000))
        assert size(cache.root) <= MB
    assert not model.exists()


READ = """
import sys
from pathlib import Path
from diffedit_cli.storage import model_locks
held = model_locks.hold(Path(sys.argv[1]))
print(held is not None, flush=True)
sys.stdin.read()
"""


def test_a_model_that_is_read_stays_also_where_it_is_larger_than_was_thought(cache: Cache) -> None:
    """Whoever reads it, and for as long; when it was last taken does not count."""
    cache_folder.keep_to(cache.root, MB)
    cache.store("contrast", KEYS[0], bytes(100_000))
    model = cache.model(KEYS[99])
    cache.reserve(900_000)
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(2 * MB))
    os.utime(model, (1, 1))
    with subprocess.Popen([sys.executable, "-c", READ, str(model)], stdin=-1, stdout=-1, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "True\n"
        cache.trim(recount=True)
        assert model.exists()
        assert not cache.find("contrast", KEYS[0])
        with pytest.raises(OutputError, match="--cache-limit"):
            cache.store("contrast", KEYS[1], bytes(100_000))
        reader.communicate()
    cache.trim(recount=True)
    assert not model.exists()
    assert model_locks.hold(model) is None


def test_what_is_larger_than_the_limit_is_not_kept_and_nothing_goes_for_it(cache: Cache) -> None:
    cache_folder.keep_to(cache.root, MB)
    cache.store("contrast", KEYS[0], bytes(100_000))
    with pytest.raises(OutputError, match=r"is limited to 1\.0 MB.*--cache-limit"):
        cache.store("contrast", KEYS[1], bytes(MB))
    assert cache.find("contrast", KEYS[0])


@pytest.mark.parametrize("how", ["trim", "store", "store too much"])
def test_a_limit_that_is_lowered_holds_at_once(cache: Cache, how: str) -> None:
    for key in KEYS[:20]:
        cache.store("contrast", key, bytes(100_000))
    cache_folder.keep_to(cache.root, MB)
    if how == "trim":
        cache.trim()
    elif how == "store":
        cache.store("contrast", KEYS[20], bytes(1000))
        assert cache.find("contrast", KEYS[20])
    else:
        with pytest.raises(OutputError):
            cache.store("contrast", KEYS[20], bytes(MB))
    assert size(cache.root) <= MB


@pytest.mark.parametrize("said", ["", "nonsense", "-5", "0", "99999999999999999999999999999999"])
def test_a_count_that_is_wrong_is_made_again(cache: Cache, said: str) -> None:
    cache_folder.keep_to(cache.root, MB)
    for key in KEYS[:5]:
        cache.store("contrast", key, bytes(100_000))
    if said == "0":  # what somebody else put there since: it is found when next it is looked through
        (cache.root / cache_folder.USAGE).unlink()
    else:
        (cache.root / cache_folder.USAGE).write_text(said)
    for key in KEYS[5:30]:
        cache.store("contrast", key, bytes(100_000))
        assert size(cache.root) <= MB


def test_the_folder_is_looked_through_once_in_a_while(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, scan = [], Cache._scan
    monkeypatch.setattr(Cache, "_scan", lambda one: (looked.append(one), scan(one))[1])
    cache_folder.keep_to(cache.root, MB)
    for key in KEYS:
        cache.store("contrast", key, bytes(1000))
    assert len(looked) < len(KEYS) // 5


def test_by_default_it_is_a_tenth_of_what_is_free(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder.keep_to(cache.root, None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 * MB}))
    for key in KEYS[:50]:
        cache.store("contrast", key, bytes(50_000))
        assert size(cache.root) <= 0.6 * MB
    assert size(cache.root) > 0.3 * MB


STORE = """
import os, sys
from pathlib import Path
from diffedit_cli.storage import cache, cache_folder
root, limit, mine = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
cache_folder.keep_to(root, limit)
for number in range(60):
    cache.Cache(root).store("contrast", os.urandom(32).hex(), bytes(20_000 + 4_000 * (number % 20)))
"""


def test_several_processes_never_exceed_it(tmp_path: Path) -> None:
    root, largest, running = tmp_path / "cache", 0, True

    def watch() -> None:
        nonlocal largest
        before: dict[Path, int] = {}
        while running:
            seen = sizes(root)
            if seen == before:  # else one file was counted before it went, another after it came
                largest = max(largest, sum(seen.values()))
            before = seen
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    words = [[sys.executable, "-c", STORE, str(root), str(MB), str(number)] for number in range(4)]
    processes = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in words]
    assert [process.communicate()[1] for process in processes] == [""] * 4
    running = False
    watcher.join()
    assert 0.5 * MB < largest <= MB
    assert not list(root.rglob("*.part"))


# The option


@pytest.mark.parametrize(
    ("said", "size"),
    [("20", 20 * MB), ("0.5", MB // 2), ("20MB", 20 * MB), ("2 GB", 2000 * MB), ("1GiB", 2**30), ("1g", 1000 * MB),
     ("500 B", 500), ("0", 0)],
)  # fmt: skip
def test_a_limit_is_in_mb_or_has_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, size: int) -> None:
    found: list[int | None] = []
    monkeypatch.setattr(cache_folder, "keep_to", lambda _, limit: found.append(limit))
    assert diffedit("cache", "list", "--cache-dir", tmp_path, "--cache-limit", said).code == 0
    monkeypatch.setenv("DIFFEDIT_CACHE_LIMIT", said)
    assert diffedit("cache", "list", "--cache-dir", tmp_path).code == 0
    assert found == [size, size]


@pytest.mark.parametrize("said", ["much", "-1", "1 XB", "1e999", "nan"])
def test_another_limit_is_refused(tmp_path: Path, said: str) -> None:
    ran = diffedit("cache", "list", "--cache-dir", tmp_path, f"--cache-limit={said}")
    assert ran.code == 2
    assert "--cache-limit" in ran.lines[-1]


def test_an_edit_goes_on_where_nothing_can_be_kept(here: Path) -> None:
    ran = diffedit("edit", "cat.png", "--from", "cat", "--to", "dog", "--cache-limit", "0.001", "--json")
    assert ran.code == 0, ran.err
    assert any("--cache-limit" in warning for warning in ran.json["warnings"])
    assert Cache(here / os.environ["DIFFEDIT_CACHE_DIR"]).entries() == []
