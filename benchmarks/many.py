"""Measures the overhead of a run over many pictures, and whether memory and results stay constant.

``python -m benchmarks.many --out DIR`` edits held-out scenes of the built-in world with one `diffedit run`, and some of
them with a `diffedit edit` each, alone and handed to `diffedit serve`. Then it edits many at few steps while it watches
the memory and the open files of the process, and edits some of these again, alone. Writes DIR/many.md, DIR/memory.csv
and DIR/memory.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from benchmarks.cases import draw_case
from benchmarks.startup import served
from training.workspace import Curve

COMMAND = (sys.executable, "-m", "diffedit_cli")
OPTIONS = ("--model", "builtin", "--no-cache", "--quiet", "--force", "--json")
STAGES = ("mask", "invert", "edit")  # stages whose time is almost only that of the network
QUICK = ("--steps", "4", "--maps", "1", "--threshold", "0.3")
WATCH_EVERY = 20  # pictures between two looks at memory and open files
COMPARE_EVERY = 100  # one of this many pictures is edited again, alone
Job = dict[str, str]


@dataclass
class Watch:
    """Observations of a long run."""

    points: list[tuple[int, int]] = field(default_factory=list)  # finished pictures, and bytes of memory then
    open_files: list[int] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)  # number of pictures by status or error code

    @property
    def slope(self) -> float:
        """Bytes of growth per picture, by least squares over the second half, when all that stays loaded is loaded."""
        half = self.points[len(self.points) // 2 :]
        x, y = (sum(values) / len(half) for values in zip(*half, strict=True))
        return float(sum((a - x) * (b - y) for a, b in half) / sum((a - x) ** 2 for a, _ in half))


def draw(folder: Path, count: int) -> Path:
    """Writes scenes as PNG, and returns the job file that edits them."""
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
    """Yields each result of a run, with the number of the process."""
    command = [*COMMAND, "run", str(jobs), "--out", str(out), *OPTIONS, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line), process.pid


def resident(process: int) -> int:
    """Returns the resident memory of a process in bytes, on Linux."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def read(jobs: Path) -> list[Job]:
    return [json.loads(line) for line in jobs.read_text().splitlines()]


def edit(job: Job, output: Path, words: Sequence[str] = ()) -> float:
    """Returns the seconds of a single command, which may fail."""
    command = (*COMMAND, "edit", job["input"], "--from", job["from"], "--to", job["to"], "-o", str(output))
    started = time.perf_counter()
    subprocess.run((*command, *OPTIONS, *words), stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def one_by_one(jobs: Path, out: Path, count: int) -> float:
    """Returns the median seconds of single commands, each in its own process, with warm files."""
    return median(edit(job, out / "one.png") for job in read(jobs)[:count])


def watched(jobs: Path, out: Path) -> Watch:
    """Watches a run at few steps, and draws its memory as a curve: memory.csv, memory.png."""
    curve, seen = Curve(out / "memory.csv", ("megabytes",), -1), Watch()
    for done, (result, process) in enumerate(run(jobs, out / "watched", QUICK), start=1):
        seen.ended[result["status"] if not result["error"] else f"error {result['error']['code']}"] += 1
        if done % WATCH_EVERY == 0:
            seen.points.append((done, resident(process)))
            seen.open_files.append(len(os.listdir(f"/proc/{process}/fd")))  # noqa: PTH208
            curve.add(done, megabytes=seen.points[-1][1] / 2**20)
    curve.draw()
    return seen


def compared(jobs: Path, out: Path) -> tuple[int, int]:
    """Returns how many pictures of the watched run are equal to the pixel when edited alone, and of how many."""
    found = []
    for job in read(jobs)[::COMPARE_EVERY]:
        before, alone = out / "watched" / Path(job["input"]).name, out / "alone.png"
        alone.unlink(missing_ok=True)
        edit(job, alone, QUICK)
        found.append(alone.exists() == before.exists() and (not before.exists() or same_pixels(alone, before)))
    return sum(found), len(found)


def same_pixels(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        return first.tobytes() == second.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument(
        "--single", type=int, default=20, help="number of these that are also edited by one command each"
    )
    parser.add_argument("--watched", type=int, default=2000, help="pictures edited at few steps, for the memory")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if 0 < options.watched < 4 * WATCH_EVERY:
        parser.error(f"--watched must be 0, or at least {4 * WATCH_EVERY}: growth cannot be measured with fewer")
    jobs = draw(options.out / "pictures", options.pictures)
    started = time.perf_counter()
    results = [result for result, _ in run(jobs, options.out / "run")]
    seconds = time.perf_counter() - started
    network = sum(map(network_seconds, results))
    single = one_by_one(jobs, options.out, options.single)
    with served():
        warm = one_by_one(jobs, options.out, options.single)
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
        f"| `diffedit edit` with `diffedit serve`, a picture | {warm:.2f} s |",
        f"| the same, over the run | {warm / together:.2f} |",
    ]
    if options.watched:
        many = draw(options.out / "many", options.watched)
        seen = watched(many, options.out)
        memory = [size / 2**20 for _, size in seen.points]
        same, of = compared(many, options.out)
        lines += [
            f"| memory after {seen.points[0][0]} / {seen.points[-1][0]} pictures, at most "
            f"| {memory[0]:.0f} / {memory[-1]:.0f}, {max(memory):.0f} MB |",
            f"| growth over the second half, a picture | {seen.slope / 1024:.1f} KB |",
            f"| open files, at the first and the last look, at most "
            f"| {seen.open_files[0]} / {seen.open_files[-1]}, {max(seen.open_files)} |",
            f"| how they ended | {', '.join(f'{number} {name}' for name, number in seen.ended.most_common())} |",
            f"| the same alone | {same} of {of} |",
        ]
    (options.out / "many.md").write_text("\n".join(lines) + "\n")
    print((options.out / "many.md").read_text())


if __name__ == "__main__":
    main()
