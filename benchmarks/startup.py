"""Breaks down the time of one small edit: Python, torch, the rest before the network's first answer, and the edit.

    python -m benchmarks.startup [--runs 7]

Each figure is the median of runs in separate processes, which take turns, with the files in the system's page cache.
An edit is `diffedit edit` of a sample picture by the built-in model, without the cache: alone, and handed to
`diffedit serve`. The time of the first answer is when the command reports that it is finding the mask.
"""

from __future__ import annotations

import argparse
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


def edit(folder: Path) -> list[str]:
    words = f"edit {PICTURE} --from cat --to dog --no-cache -o".split()
    return [*DIFFEDIT, *words, str(folder / "dog.png")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"XDG_RUNTIME_DIR": temporary, "DIFFEDIT_CACHE_DIR": temporary}
        plain = (
            [*DIFFEDIT, "edit", "--help"],
            [sys.executable, "-c", "pass"],
            [sys.executable, "-c", "import torch"],
            [sys.executable, "-c", "import torch._dynamo"],
        )
        rounds = [(*map(whole, plain), *edited(edit(folder))) for _ in range(1 + runs)]
        asked, python, torch, compiler, first, alone = (
            statistics.median(one[1:])  # without the first round, which reads files from disk
            for one in zip(*rounds, strict=True)
        )
        with served():
            edited(edit(folder))  # loads the model
            rounds = [edited(edit(folder)) for _ in range(runs)]
        warm_first, warm = (statistics.median(one) for one in zip(*rounds, strict=True))
    rows = {
        "`diffedit edit --help`": asked,
        "Python itself": python,
        "`import torch`": torch - python,
        "`import torch._dynamo`, its compiler, which an edit does without": compiler - torch,
        "an edit until the network's first answer": first,
        "the same beside Python and `import torch`": first - torch,
        "the whole edit": alone,
        "by `diffedit serve`: until the network's first answer": warm_first,
        "by `diffedit serve`: the whole edit": warm,
    }
    print(f"Medians of {runs} runs\n\n| | seconds | of the whole edit |\n|---|---|---|")
    for what, seconds in rows.items():
        print(f"| {what} | {seconds:.2f} | {100 * seconds / alone:.0f} % |")


if __name__ == "__main__":
    main()
