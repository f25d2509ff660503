"""Breaks down the time of one small edit: Python, torch, the rest before the network's first answer, and the edit.

    python -m benchmarks.startup [--runs 7]

Each figure is the median of runs in separate processes, which take turns, with the files in the system's page cache.
An edit is `diffedit edit` of a sample picture by the built-in model, without the cache: alone, broken down, handed to
`diffedit serve`, and with `--serve auto`. The time of the first answer is when the command reports that it is finding
the mask. Python may write and use bytecode, as where diffedit is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

PICTURE = Path(__file__).parent.parent / "sample_images" / "cat.png"
DIFFEDIT = [sys.executable, "-m", "diffedit_cli"]


SHARES = (
    "the program's own modules, the command line and the picture",
    "`import torch` and the stages",
    "diffusers and transformers",
    "the model's files, read and made ready",
    "the stages, with what they import and do for the first time",
)
"""Parts of an edit, in the order in which they end."""
BROKEN_DOWN = """
import contextlib, json, os, sys, time
started = time.perf_counter()
from diffedit_cli import __main__
from diffedit_cli.cli.session import Session
from diffedit_cli.engine.networks import fast_imports
ended = {}
keep, create = fast_imports.keep_libraries, Session.__init__

def created(self, *given):
    create(self, *given)
    ended[0] = time.perf_counter()

def kept():
    keep()
    ended[1 if 1 not in ended else 2] = time.perf_counter()
    if 2 not in ended:  # torch is imported
        from diffedit_cli.models.loader import LOADER
        load, LOADER.load = LOADER.load, lambda *given: loaded(load(*given))

def loaded(model):
    ended[3] = time.perf_counter()
    return model

def left(code):
    ends = [started, *(ended[part] for part in range(4)), time.perf_counter()]
    print(json.dumps([after - before for before, after in zip(ends, ends[1:])]), flush=True)
    os._exit(code)

Session.__init__, fast_imports.keep_libraries, __main__._leave = created, kept, left
__main__.main()
"""


def broken_down(words: list[str]) -> list[float]:
    """Returns the seconds of each of SHARES, for the words of an edit."""
    line = [sys.executable, "-c", BROKEN_DOWN, *words[len(DIFFEDIT) :]]
    ran = subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    shares: list[float] = json.loads(ran.stdout)
    return shares


def whole(words: list[str]) -> float:
    """Returns the seconds until the command has ended."""
    started = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def edited(words: list[str]) -> tuple[float, float]:
    """Returns the seconds until the network's first answer, and until the edit has ended."""
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        first = next(time.perf_counter() - started for line in running.stderr if line.startswith("finding the mask"))
        running.stderr.read()
    if running.returncode:
        sys.exit(f"diffedit edit ended with {running.returncode}")
    return first, time.perf_counter() - started


@contextmanager
def served() -> Iterator[None]:
    """Context in which a server runs that `diffedit edit` hands its work to."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, XDG_RUNTIME_DIR=folder),
        subprocess.Popen([*DIFFEDIT, "serve"], stderr=subprocess.PIPE, text=True) as server,
    ):
        assert server.stderr is not None
        server.stderr.readline()
        try:
            yield
        finally:
            server.terminate()


def by_auto(folder: Path, runs: int) -> tuple[list[float], list[tuple[float, float]]]:
    """Returns the seconds of edits that leave a server behind, and, as `edited` does, those of edits that it does."""
    firsts = []
    with tempfile.TemporaryDirectory() as own, mock.patch.dict(os.environ, XDG_RUNTIME_DIR=own, DIFFEDIT_SERVE="auto"):
        for run in range(runs):
            if run:
                subprocess.run([*DIFFEDIT, "serve", "--stop"], check=True, stdout=subprocess.DEVNULL)
            firsts.append(edited(edit(folder))[1])
            while not list(Path(own).glob("*/*.socket")):
                time.sleep(0.1)
        later = [edited(edit(folder)) for _ in range(1 + runs)][1:]
        subprocess.run([*DIFFEDIT, "serve", "--stop"], check=True, stdout=subprocess.DEVNULL)
    return firsts, later


def edit(folder: Path) -> list[str]:
    words = f"edit {PICTURE} --from cat --to dog --no-cache -o".split()
    return [*DIFFEDIT, *words, str(folder / "dog.png")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"XDG_RUNTIME_DIR": temporary, "DIFFEDIT_CACHE_DIR": temporary, "DIFFEDIT_SERVE": "on"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        plain = (
            [*DIFFEDIT, "edit", "--help"],
            [sys.executable, "-c", "pass"],
            [sys.executable, "-c", "import torch"],
            [sys.executable, "-c", "import torch._dynamo"],
        )
        rounds = [(*map(whole, plain), *edited(edit(folder)), *broken_down(edit(folder))) for _ in range(1 + runs)]
        asked, python, torch, compiler, first, alone, *shares = (
            statistics.median(one[1:])  # without the first round, which reads files from disk
            for one in zip(*rounds, strict=True)
        )
        with served():
            edited(edit(folder))  # loads the model
            rounds = [edited(edit(folder)) for _ in range(runs)]
        warm_first, warm = (statistics.median(one) for one in zip(*rounds, strict=True))
        leaving, later = by_auto(folder, runs)
        next_first, following = (statistics.median(one) for one in zip(*later, strict=True))
    rows = {
        "`diffedit edit --help`": asked,
        "Python itself": python,
        "`import torch`": torch - python,
        "`import torch._dynamo`, its compiler, which an edit does without": compiler - torch,
        "an edit until the network's first answer": first,
        "the same beside Python and `import torch`": first - torch,
        "the whole edit": alone,
        **{f"of that: {share}": seconds for share, seconds in zip(SHARES, shares, strict=True)},
        "by `diffedit serve`: until the network's first answer": warm_first,
        "by `diffedit serve`: the whole edit": warm,
        "the whole edit beside `import torch` and the stages in a server": alone - torch - (warm - warm_first),
        "with `--serve auto`: the first edit": statistics.median(leaving),
        "with `--serve auto`: the next ones until the network's first answer": next_first,
        "with `--serve auto`: the next ones": following,
    }
    print(f"Medians of {runs} runs\n\n| | seconds | of the whole edit |\n|---|---|---|")
    for what, seconds in rows.items():
        print(f"| {what} | {seconds:.2f} | {100 * seconds / alone:.0f} % |")


if __name__ == "__main__":
    main()
