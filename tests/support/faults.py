"""Injects faults into commands (signals, failing system calls, full disks) and checks what must hold afterwards."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import FAST, WORDS, Ran, diffedit, picture
from ldm import write_checkpoint
from safetensors.numpy import load

from diffedit_cli.results import results_log
from diffedit_cli.storage import atomic
from diffedit_cli.storage.cache_folder import USAGE
from diffedit_cli.storage.files import REPLACED

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WORK, CACHE = "work", "cache"
NO_STATE = (f"{CACHE}/locks/", f"{CACHE}/{USAGE}")  # what lies in the cache may be counted as more
EDIT = ("edit", "cat.png", *WORDS, "--variants", "2", "--depfile", "cat.d")
RUN = ("run", "album", *WORDS, "--out", "out")
SAVE = ("models", "save", "saved", "--force")
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # what is done before, and the command
    "mask": ((), ("mask", "cat.png", *WORDS, "--preview", "seen.png")),
    "invert": ((), ("invert", "cat.png", "--frames", "frames")),
    "edit": ((), EDIT),
    "run": ((), RUN),
    "convert": ((), ("mask", "cat.png", *WORDS)),  # by a checkpoint, which becomes a folder in the cache
    "report": (RUN, ("report", "out")),
    "models use": ((), ("models", "use", "builtin")),
    "models save": (SAVE, SAVE),
    "cache clear": (EDIT, ("cache", "clear")),
}
State = dict[str, Any]  # what lies in a home, by path


@dataclass
class Home:
    """A folder of pictures, a cache and settings, for one command that is run repeatedly."""

    name: str
    root: Path
    whole: State  # after the command was left alone
    inputs: State  # before it
    seconds: float
    template: Path

    @classmethod
    def of(cls, name: str, folder: Path, model: Path, patch: pytest.MonkeyPatch) -> Home:
        """Creates the folder, sets the environment for it, and records the result of the command without a fault."""
        root, template = folder / "home", folder / "template"
        (root / WORK / "album").mkdir(parents=True)
        for place, width in (("cat.png", 48), ("album/one.png", 40), ("album/two.png", 32)):
            picture(root / WORK / place, (width, 32))
        for variable, value in (("DIFFEDIT_CACHE_DIR", root / CACHE), ("XDG_CONFIG_HOME", root / "config")):
            patch.setenv(variable, str(value))
        if name == "convert":
            patch.setenv("DIFFEDIT_MODEL_CONFIG", str(model))
            model = write_checkpoint(model, folder / "model.safetensors", "sd15")
        patch.setenv("DIFFEDIT_MODEL", str(model))
        for option, value in zip(FAST[::2], FAST[1::2], strict=True):
            patch.setenv(f"DIFFEDIT_{option.strip('-').upper()}", value)
        patch.setenv("DIFFEDIT_STEPS", "3")
        patch.setattr(atomic, "PACE", 0.0)
        patch.chdir(root / WORK)
        before, _ = COMMANDS[name]
        if before:
            assert diffedit(*before).code == 0
        if name == "report":
            (root / WORK / "out" / "index.html").unlink()
            shutil.rmtree(root / WORK / "out" / "thumbnails")
        shutil.copytree(root, template)
        home = cls(name, root, {}, state(root), 0.0, template)
        ran = home.command()
        assert ran.code == 0, ran.err
        home.whole = state(root)
        assert home.whole != home.inputs or name == "models save"  # which replaces what is the same
        home.again()
        started = time.perf_counter()  # now that all is imported
        home.command()
        home.seconds = time.perf_counter() - started
        home.again()
        return home

    @property
    def words(self) -> tuple[str, ...]:
        return COMMANDS[self.name][1]

    def command(self) -> Ran:
        return diffedit(*self.words)

    def again(self) -> None:
        """Restores the state before the command."""
        for place in self.root.iterdir():
            for inner in place.iterdir():
                shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        shutil.copytree(self.template, self.root, dirs_exist_ok=True)

    def check(self, code: int, err: str, allowed: set[int]) -> None:
        """Asserts after a fault: one of these exit codes, no traceback, and no incomplete file."""
        assert code in allowed, (code, err)
        for sign in ("Traceback", "should not", "Exception ignored"):
            assert sign not in err, err
        now = state(self.root)
        replaced = {path.replace(REPLACED, ""): content for path, content in now.items() if REPLACED in path}
        for path, content in now.items():
            if is_hidden(path) or REPLACED in path:
                continue
            accepted = [known[path] for known in (self.inputs, self.whole) if path in known]
            if path.endswith("results.jsonl"):
                assert content <= self.whole[path], (path, content)
            elif self.name != "cache clear" or path.startswith(WORK):
                assert any(same(path, content, one) for one in accepted), f"{path} is torn, or none knows it"
        went = {path for path in self.inputs if path.startswith(WORK)} - set(now)
        if went:  # two renames replace a folder: between them it has another name, all of it
            assert code
            assert replaced == {path: self.inputs[path] for path in went}
        missing = {path for path in self.whole if not path.startswith(f"{CACHE}/")} - set(now)
        if code == 0 and missing:  # the page of what is done
            assert all("index.html" in path or "thumbnails/" in path for path in missing), missing
            assert "warning:" in err

    def check_next(self) -> None:
        """Asserts that the next command completes the work and leaves no other files, nor duplicates of results."""
        ran = self.command()
        assert ran.code == 0, ran.err
        now, cache = state(self.root), f"{CACHE}/"
        assert {path for path in self.whole if not path.startswith(cache)} <= set(now)
        for path, content in now.items():
            assert path in self.whole, f"{path} is left"
            assert same(path, content, self.whole[path]), f"{path} is not as it should be"


def state(root: Path) -> State:
    """Returns, by path, what must be equal after each run: a file's bytes, or its entries. Locks are never removed."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith(NO_STATE):
            found[name] = content(path)
        elif path.is_dir() and is_hidden(name):
            found[name] = None
    return found


def content(path: Path) -> Any:
    data = path.read_bytes()
    if path.name == "results.jsonl":
        said = map(results_log.parse, data.splitlines())  # which passes over what is torn
        return {(one["input"], one["output"]) for one in said if one and one["status"] == "done"}
    if path.name == "index.html":
        return data.rstrip().endswith(b"</html>")
    return data


def same(path: str, one: Any, other: Any) -> bool:
    """Returns whether two contents are equal; attention maps up to rounding.

    An attention map computed alone, when the other map is already in the cache, differs in its last bits.
    """
    if path.startswith(f"{CACHE}/attention/"):
        return np.allclose(load(one)["attention"], load(other)["attention"], rtol=0, atol=1e-4)
    return bool(one == other)


def is_hidden(path: str) -> bool:
    return any(atomic.OURS.fullmatch(part) for part in Path(path).parts)


# Calls that write


class Raw(io.FileIO):
    """A file each of whose writes may fail."""

    reached: Callable[[], None]

    def write(self, data: Any) -> int:
        self.reached()
        return super().write(data)


@contextmanager
def calls(act: Callable[[int], None]) -> Iterator[list[str]]:
    """Context that calls `act` with a running number before each system call that writes; yields the list of calls."""
    names: list[str] = []

    def reached(name: str) -> None:
        names.append(name)
        act(len(names))

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                reached(name)
            return real(*args, **options)

        return call

    real_open = io.open

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or rest or options.keys() - {"closefd", "encoding"}:
            return real_open(file, mode, *rest, **options)
        if not isinstance(file, int):
            reached("open")
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd=options.get("closefd", True))
        raw.reached = lambda: reached("write")
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, options.get("encoding"))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "write", "fsync", "replace", "rename", "mkdir", "utime", "unlink", "rmdir", "link"):
            patch.setattr(os, name, watched(name))
        patch.setattr(io, "open", opened)
        patch.setattr("builtins.open", opened)
        paths = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10's keeps calls of its own
        for name in ("mkdir", "replace", "rename", "unlink", "rmdir", "link") if paths else ():
            patch.setattr(paths, name, staticmethod(getattr(os, name)))
        if paths:
            patch.setattr(paths, "open", staticmethod(opened))
        yield names


@contextmanager
def failing(number: int, error: int) -> Iterator[list[str]]:
    """Context in which the call of this number fails; all later ones, too, except for EIO, as on a full disk."""

    def act(now: int) -> None:
        if now == number or (now > number and error != errno.EIO):
            raise OSError(error, os.strerror(error))

    with calls(act) as names:
        yield names


# Processes


@dataclass
class Child:
    """A command about to begin in its own process, with all imports done."""

    process: Any
    err: Path

    def ended(self) -> tuple[int, str]:
        self.process.join(120)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode, self.err.read_text(errors="backslashreplace")


def forked(err: Path, words: tuple[str, ...]) -> Child:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "faults",
            "diffedit_cli.cli.commands",
            "diffedit_cli.engine.networks.families",
            "diffedit_cli.pipeline.edit_pipeline",
        ]
    )
    ready = context.Event()
    process = context.Process(target=_child, args=(words, str(err), str(Path.cwd()), dict(os.environ), ready))
    process.start()
    assert ready.wait(120)
    return Child(process, err)


def _child(words: tuple[str, ...], err: str, folder: str, environment: dict[str, str], ready: Any) -> None:
    from diffedit_cli.__main__ import main

    for number, path in ((1, os.devnull), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["diffedit", *words]
    ready.set()
    try:
        main()
    except SystemExit as ended:
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def started(words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Starts the command as users do, imports included."""
    line = [sys.executable, "-m", "diffedit_cli", *words]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
