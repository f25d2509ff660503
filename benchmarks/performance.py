"""Makes docs/performance.md and its plot of what was measured; ``python -m benchmarks.performance DIR``.

DIR/speed, DIR/fullsize and DIR/gpu are by ``benchmarks.speed``, DIR/scaling.json by ``benchmarks.scaling``; where
one is not there the document keeps what it says, which may be of another machine.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
PLOT = DOCUMENT.with_suffix(".png")
HEAD = """# How fast

Made by `python -m benchmarks.performance DIR` of what the benchmarks of speed wrote.

An edit's time is that of its network evaluations. The defaults take some 31, where diffusers' deprecated DiffEdit
pipeline takes 200: the inversion is not guided, the mask's comparison leaves out what cancels, noise is drawn until
the mask is settled, a second-order solver needs 16 steps where DDIM needs 50, and only a third of them ask where
guidance leads. What was computed before is not computed again: another `--to` keeps the inversion and what the
mask's comparison predicted for `--from`, and whatever gives the same mask keeps the whole edit.
"""
SPEED = """
## Beside diffusers' pipeline

Both in one process, taking turns, warm, with the same weights and pictures, each with its own defaults, and ours also
with the pipeline's: `python -m benchmarks.speed --out DIR/speed`. "Whole / networks" is the time of the whole edit over
that inside of UNet, VAE and text encoder.

"""
FULLSIZE = """
## A model of Stable Diffusion 1.5's size

Random weights, only for the time, where a share of both sides' steps and maps stands for all of them:
`python -m benchmarks.speed --fullsize --share 0.2 --dtype bfloat16 --cases 1 --out DIR/fullsize`.

"""
GPU = """
### On a GPU

All steps and maps: `python -m benchmarks.speed --fullsize --device cuda --dtype float16 --cases 3 --out DIR/gpu`. One
picture does not keep such a GPU busy: an evaluation takes as long as the processor needs to ask for it, alone or in
pairs, so that fewer evaluations are all that counts there; `diffedit run --batch` puts several pictures together.

"""
SCALING = """
## Large pictures

One scene at every size, few steps: `python -m benchmarks.scaling --runs 1 --out DIR`. The network sees a picture at the
model's own size, whatever the picture's, and with zoom also the parts that the mask covers, at that size again: that
cost is flat. What is beside the network (reading, the mask's outline, composing) grows with the pixels.

| picture | {ways} |
|---|{line}|
{rows}

![Seconds over megapixels]({plot})
"""


def as_it_stands(head: str) -> str:
    """The section of the document that begins as this one, up to the next; nothing where there is none."""
    title = head.strip().splitlines()[0]
    sections = re.split(r"\n(?=##+ )", DOCUMENT.read_text())
    return next(("\n" + section.rstrip("\n") + "\n" for section in sections if section.startswith(title)), "")


def scaling(rows: list[dict[str, Any]], plot: Path) -> str:
    """The section, and its plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ways = list(dict.fromkeys(row["way"] for row in rows))
    figure, axis = pyplot.subplots(figsize=(6, 3.6))
    for way in ways:
        mine = [row for row in rows if row["way"] == way]
        pixels = [row["size"] ** 2 / 1e6 for row in mine]
        axis.plot(pixels, [row["seconds"] for row in mine], "o-", label=way)
        axis.plot(pixels, [row["seconds"] - row["networks"] for row in mine], ".:", label=f"{way}, beside the networks")
    axis.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="seconds")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.tight_layout()
    figure.savefig(plot, dpi=100)
    found = {(row["way"], row["size"]): row for row in rows}
    lines = [
        f"| {size} px | " + " | ".join(told(found[way, size]) for way in ways) + " |"
        for size in dict.fromkeys(row["size"] for row in rows)
    ]
    return SCALING.format(
        ways=" | ".join(ways), line="---|" * (len(ways) - 1) + "---", rows="\n".join(lines), plot=plot.name
    )


def told(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.2f} s, {row['seconds'] - row['networks']:.2f} s beside the networks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, metavar="DIR")
    folder = parser.parse_args().measured
    sections = []
    for name, head in (("speed", SPEED), ("fullsize", FULLSIZE), ("gpu", GPU)):
        measured = folder / name / "speed.md"
        sections.append(head + measured.read_text() if measured.exists() else as_it_stands(head))
    measured = folder / "scaling.json"
    sections.append(scaling(json.loads(measured.read_text()), PLOT) if measured.exists() else as_it_stands(SCALING))
    DOCUMENT.write_text(HEAD + "".join(sections))
    print(DOCUMENT)


if __name__ == "__main__":
    main()
