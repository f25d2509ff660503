"""Draws contact sheets of graded edits: run ``python -m benchmarks.graded DIR --out docs/graded``.

DIR is a folder written by ``benchmarks.scenebench --pictures``. Writes OUT/KIND.jpg: pictures and results, below their
prompts and the latest grade in ``benchmarks/grades.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.agreement import latest
from benchmarks.cases import draw_case_of
from benchmarks.scenebench import SHEET_CASES, contact_sheet, sheet_cell

QUALITY = 88


def sheet(folder: Path, kind: str, letters: str) -> Image.Image:
    """Returns a contact sheet of the first edits of a kind, each with its grade."""
    cells = []
    for number, grade in enumerate(letters):
        with Image.open(folder / "pictures" / f"{kind}-{number:03}.png") as final:
            cells.append(sheet_cell(draw_case_of(kind, number), np.asarray(final.convert("RGB")), grade))
    return contact_sheet(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", help="all by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    graded = latest()["grades"]
    for kind in options.kinds or graded:
        letters = graded[kind]
        sheet(options.folder, kind, letters[:SHEET_CASES]).save(options.out / f"{kind}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
