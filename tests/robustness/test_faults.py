"""Whatever goes wrong while a command works: nothing torn, no input changed, nothing left, and the next one completes.

The slow half does the same to more moments and to every call: `pytest -m slow tests/robustness/test_faults.py`.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import faults
import pytest
import torch
from command import diffedit
from faults import CACHE, COMMANDS, ERRORS, SIGNALS, WORK, Home

from diffedit_cli.errors import INTERRUPTED, SOME_FAILED, DeviceError, OutputError
from diffedit_cli.storage.cache import Cache

FAILED = {0, OutputError.code, SOME_FAILED}
slow = pytest.mark.slow
Settle = Callable[[str], Home]


@pytest.fixture
def settle(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """Makes the home of a command."""
    return lambda name: Home.of(name, tmp_path, tiny_epsilon, monkeypatch)


# Ended


def ends(number: int) -> set[int]:
    """How a process ends of a signal, if that does not come too late."""
    return {0, INTERRUPTED if number == signal.SIGINT else -number}


@pytest.mark.thorough
@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=slow)], ids=["some", "many"])
@pytest.mark.parametrize("name", COMMANDS)
def test_ended_at_any_moment(settle: Settle, tmp_path: Path, name: str, rounds: int) -> None:
    home, rng = settle(name), random.Random(f"{name} {rounds}")
    seen = set()
    for number in rng.sample(SIGNALS, 2) if rounds == 1 else SIGNALS * rounds:
        home.again()
        child = faults.forked(tmp_path / "err", home.words)
        time.sleep(rng.uniform(0, home.seconds))
        with suppress(ProcessLookupError):  # it had ended
            os.kill(child.process.pid, number)
        code, err = child.ended()
        seen.add(code)
        home.check(code, err, ends(number))
        home.check_next()
    assert seen != {0}


@pytest.mark.thorough
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=slow)], ids=["some", "many"])
def test_ended_at_any_moment_from_its_very_start(settle: Settle, rounds: int) -> None:
    """Libraries are imported meanwhile."""
    home, rng = settle("edit"), random.Random(rounds)
    begun = time.perf_counter()
    assert faults.started(home.words).wait() == 0
    seconds = time.perf_counter() - begun
    for number in SIGNALS * rounds:
        home.again()
        process = faults.started(home.words)
        time.sleep(rng.uniform(0.1, seconds))
        process.send_signal(number)
        err = process.communicate(timeout=120)[1].decode()
        home.check(process.returncode, err, ends(number))
        home.check_next()


# Calls that fail


@pytest.mark.thorough
@pytest.mark.parametrize("turn", ["some", *(pytest.param(turn, marks=slow) for turn in range(len(ERRORS)))])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_call_that_writes_may_fail(settle: Settle, name: str, turn: int | str) -> None:
    home = settle(name)
    with faults.calls(lambda _: None) as names:
        assert home.command().code == 0
    assert len(names) >= 5
    numbers = range(1, len(names) + 1, 1 if turn != "some" else 1 + len(names) // 12)
    codes = set()
    for number in numbers:
        home.again()
        with faults.failing(number, ERRORS[(number + (turn if turn != "some" else 0)) % len(ERRORS)]) as reached:
            ran = home.command()
        assert len(reached) >= number - 5  # threads make some calls twice, or not
        codes.add(ran.code)
        home.check(ran.code, ran.err, FAILED)
        home.check_next()
    assert OutputError.code in codes or name == "cache clear"


@pytest.mark.thorough
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_can_be_longer(settle: Settle, name: str) -> None:
    """The system's own limit, which also those writers meet that no test can reach."""
    home = settle(name)
    for size in (0, 100, 3000):
        home.again()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            ran = home.command()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        home.check(ran.code, ran.err, FAILED)
        home.check_next()


@contextmanager
def disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Another file system there, whose options can be changed; the test is passed over where that is not allowed."""
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "diffedit", folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")

    def change(options: str) -> None:
        gc.collect()  # a model that was converted there is mapped, which keeps the disk busy
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield change
    finally:
        os.chdir("/")
        gc.collect()
        subprocess.run(["umount", folder], check=True)


@pytest.mark.thorough
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=slow)], ids=["some", "every"])
@pytest.mark.parametrize("name", ["mask", "invert", "edit", "run", "convert", "models save"])
def test_a_disk_that_is_full(
    tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    monkeypatch.setenv("DIFFEDIT_CACHE_LIMIT", "1GB")  # by default it is a share of what is free: never full
    with disk(tmp_path / "disk") as change:
        home = Home.of(name, tmp_path / "disk", tiny_epsilon, monkeypatch)
        codes: list[int] = []
        for pages in itertools.count(1, step):
            home.again()
            gc.collect()  # a mapped model that is gone would make room during the command
            now = os.statvfs(home.root)
            change(f"nr_blocks={now.f_blocks - now.f_bfree + pages}")
            ran = home.command()
            home.check(ran.code, ran.err, FAILED)
            change("nr_blocks=100000")
            complete = ran.code == 0 and faults.state(home.root) == home.whole
            home.check_next()
            codes.append(ran.code)
            if complete:
                break
        assert codes[0] == OutputError.code
        assert codes[-1] == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_may_only_be_read(
    tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with disk(tmp_path / "disk") as change:
        home = Home.of(name, tmp_path / "disk", tiny_epsilon, monkeypatch)
        change("ro")
        ran = home.command()
        home.check(ran.code, ran.err, {OutputError.code})
        assert faults.state(home.root) == home.inputs
        assert "Read-only file system" in ran.err or "cannot be written" in ran.err
        change("rw")
        home.check_next()


# Two at once, and what changes under a command


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mask", "invert", "edit", "run", "convert", "models save", "cache clear"])
def test_two_at_once(settle: Settle, tmp_path: Path, name: str) -> None:
    """Of the same words, at the same moment, with one cache and one place for what they write."""
    home = settle(name)
    for _ in range(2):
        home.again()
        children = [faults.forked(tmp_path / f"err-{number}", home.words) for number in range(2)]
        for child in children:
            code, err = child.ended()
            assert code == 0, err
            home.check(code, err, {0})
        home.check_next()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mask", "invert", "edit", "run"])
def test_the_cache_is_removed_before_any_call(settle: Settle, name: str) -> None:
    home = settle(name)
    with faults.calls(lambda _: None) as names:
        home.command()
    for number in range(1, len(names) + 1, 1 + len(names) // 6):
        home.again()
        with faults.calls(lambda now, number=number: remove(home) if now == number else None):  # type: ignore[misc]
            ran = home.command()
        home.check(ran.code, ran.err, {0})
        home.check_next()


def remove(home: Home) -> None:
    shutil.rmtree(home.root / CACHE, ignore_errors=True)


@pytest.mark.thorough
def test_the_cache_is_removed_all_the_time(settle: Settle, tmp_path: Path) -> None:
    home = settle("run")
    child = faults.forked(tmp_path / "err", home.words)
    removed = 0
    while child.process.is_alive():
        remove(home)
        removed += 1
        time.sleep(0.001)
    code, err = child.ended()
    assert removed > 20
    home.check(code, err, {0})
    home.check_next()


def test_what_the_cache_held_goes_when_it_was_just_found(settle: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    home, find = settle("edit"), Cache.find
    home.command()
    (home.root / WORK / "cat.edited.png").unlink()

    def gone(cache: Cache, kind: str, key: str) -> Path | None:
        found = find(cache, kind, key)
        remove(home)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "find", gone)
        ran = home.command()
    home.check(ran.code, ran.err, {0})
    home.check_next()


def test_the_clock_goes_back(settle: Settle) -> None:
    """What was written last counts, whenever its line says that was."""
    home, results = settle("run"), []
    for words in ((), ("--seed", "1", "--threshold", "0.1"), ()):
        ran = diffedit(*home.words, *words, "--json")
        assert ran.code == 0, ran.err
        assert [json.loads(line)["status"] for line in ran.out.splitlines()] == ["done", "done"]
        results.append((home.root / WORK / "out" / "one.png").read_bytes())
        lines = home.root / WORK / "out" / "results.jsonl"
        lines.write_text(lines.read_text().replace('"ended": "20', '"ended": "29') if not words else lines.read_text())
    assert results[0] == results[2] != results[1]


# Too little memory

PLACES = (
    *(
        "images.codecs.open_picture",
        "engine.networks.families.load",
        "engine.networks.latent_diffusion.LatentDiffusion.embed",
        "pipeline.composition.compose_variant",
    ),
    *(
        "engine.networks.latent_diffusion.LatentDiffusion.encode",
        "engine.networks.batched_calls.Calls.ask",
        "engine.networks.latent_diffusion.LatentDiffusion.decode",
    ),
    *(
        "engine.mask_refinement.mask",
        "images.codecs._write",
        "storage.artifacts.pack",
        "images.masks.pack_mask",
        "storage.files.publish",
    ),
)
TORCH = (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory"))


@contextmanager
def short(place: str, error: Exception, calls: int) -> Iterator[list[str]]:
    """The first so many calls there find too little memory."""
    module, _, name = f"diffedit_cli.{place}".rpartition(".")
    owner = pkgutil.resolve_name(module)
    real, reached = getattr(owner, name), []

    def call(*args: object, **options: object) -> object:
        reached.append(place)
        if len(reached) <= calls:
            raise error
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield reached


@pytest.mark.thorough
@pytest.mark.parametrize("place", PLACES)
def test_too_little_memory(settle: Settle, place: str) -> None:
    """It is said, and fails the pictures that have too little; the others are done."""
    home = settle("run")
    for error in (MemoryError(), *(TORCH if place == "engine.networks.batched_calls.Calls.ask" else ())):
        for calls in (10**6, 1):
            home.again()
            with short(place, error, calls) as reached:
                ran = diffedit(*home.words, "--json")
            assert reached
            failed = [json.loads(line)["error"] for line in ran.out.splitlines() if b'"failed"' in line]
            assert {said["code"] for said in failed} <= {DeviceError.code}, failed
            assert all("memory" in said["message"] for said in failed)
            assert len(failed) == 2 or calls == 1
            home.check(
                ran.code, ran.err, {0, DeviceError.code, SOME_FAILED} if calls == 1 else {DeviceError.code, SOME_FAILED}
            )
            home.check_next()
