"""What a run over many pictures costs beside the network, and whether its memory stays flat.

``python -m benchmarks.many --out DIR`` edits held-out scenes of the built-in world with one `diffedit run`, some by a
`diffedit edit` each, and then many at few steps while it watches the memory of the process. Writes DIR/many.md,
DIR/memory.csv and DIR/memory.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from benchmarks.cases import draw_case
from training.workspace import Curve

COMMAND = (sys.executable, "-m", "diffedit_cli")
OPTIONS = ("--model", "builtin", "--no-cache", "--quiet", "--force", "--json")
STAGES = ("mask", "invert", "edit")  # whose time is the network's, with next to nothing beside it
QUICK = ("--steps", "4", "--maps", "1", "--threshold", "0.3")
WATCH_EVERY = 20  # pictures


def draw(folder: Path, count: int) -> Path:
    """So many scenes as PNG, and the job file that edits them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture, case = folder / f"{number:04}.png", draw_case(number)
        Image.fromarray(case.picture).save(picture)
        rows.append({"input": str(picture), "from": case.source, "to": case.target})
    jobs = folder / "jobs.jsonl"
    jobs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jobs


def network_seconds(result: dict[str, Any]) -> float:
    return float(sum(result["seconds"].get(stage, 0.0) for stage in STAGES))


def run(jobs: Path, out: Path, words: Sequence[str] = ()) -> Iterator[tuple[dict[str, Any], int]]:
    """Each result of a run, and the process's resident memory then, in bytes."""
    command = [*COMMAND, "run", str(jobs), "--out", str(out), *OPTIONS, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line), resident(process.pid)


def resident(process: int) -> int:
    """Of Linux."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def one_by_one(jobs: Path, out: Path, count: int) -> list[float]:
    """Seconds of single commands, each in a process of its own, the files warm."""
    seconds = []
    for row in map(json.loads, jobs.read_text().splitlines()[:count]):
        words = ("edit", row["input"], "--from", row["from"], "--to", row["to"], "-o", str(out / "one.png"), *OPTIONS)
        started = time.perf_counter()
        subprocess.run((*COMMAND, *words), stdout=subprocess.DEVNULL, check=False)
        seconds.append(time.perf_counter() - started)
    return seconds


def watched(jobs: Path, out: Path) -> list[tuple[int, int]]:
    """Pictures done and bytes then, also as a curve: memory.csv, memory.png."""
    curve = Curve(out / "memory.csv", ("megabytes",), -1)
    found = []
    for done, (_, memory) in enumerate(run(jobs, out / "watched", QUICK), start=1):
        if done % WATCH_EVERY == 0:
            found.append((done, memory))
            curve.add(done, megabytes=memory / 2**20)
    curve.draw()
    return found


def slope(points: Sequence[tuple[int, int]]) -> float:
    """Bytes a picture, by least squares over the second half, when all that is kept is there."""
    half = points[len(points) // 2 :]
    x, y = (sum(values) / len(half) for values in zip(*half, strict=True))
    return float(sum((a - x) * (b - y) for a, b in half) / sum((a - x) ** 2 for a, _ in half))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--single", type=int, default=20, help="of them by a command each")
    parser.add_argument("--watched", type=int, default=2000, help="pictures edited at few steps, for the memory")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    jobs = draw(options.out / "pictures", options.pictures)
    started = time.perf_counter()
    results = [result for result, _ in run(jobs, options.out / "run")]
    seconds = time.perf_counter() - started
    network = sum(map(network_seconds, results))
    single = median(one_by_one(jobs, options.out, options.single))
    together = seconds / len(results)
    lines = [
        f"{len(results)} pictures of 256 px, built-in model, default options.",
        "",
        "| | |",
        "|---|---|",
        f"| `diffedit run`, a picture | {together:.2f} s |",
        f"| of it mask, inversion, edit | {network / len(results):.2f} s |",
        f"| the whole run, over that of the stages | {seconds / network:.3f} |",
        f"| `diffedit edit`, a picture (median of {options.single}) | {single:.2f} s |",
        f"| one by one, over the run | {single / together:.2f} |",
    ]
    if options.watched:
        points = watched(draw(options.out / "many", options.watched), options.out)
        lines.append(f"| memory after {points[0][0]} / {points[-1][0]} pictures | "
                     f"{points[0][1] / 2**20:.0f} / {points[-1][1] / 2**20:.0f} MB |")  # fmt: skip
        lines.append(f"| growth over the second half, a picture | {slope(points) / 1024:.1f} KB |")
    (options.out / "many.md").write_text("\n".join(lines) + "\n")
    print((options.out / "many.md").read_text())


if __name__ == "__main__":
    main()
