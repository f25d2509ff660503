"""Tables, JSON and contact sheet of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.piebench.cases import Case
from benchmarks.piebench.figures import FIGURES, aligned
from benchmarks.piebench.methods import Asked
from benchmarks.piebench.regions import title
from benchmarks.piebench.results import Results, Row, storable
from benchmarks.scenebench import interval
from diffedit_cli.storage import files

COLUMNS = {
    **{name: (figure.title, figure.times, figure.digits) for name, figure in FIGURES.items()},
    "iou": ("mask IoU", 1, 3),
    "evaluations": ("evaluations", 1, 0),
    "seconds": ("seconds", 1, 1),
}
"""Title, factor and digits of each measured column."""
COUNTS = {"exact": "exact background", "unedited": "not edited", "scaled": "scaled"}
SHEET_CASES, SIDE, LINE = 20, 192, 16
NOTES = (
    "Means with 95 % bootstrap intervals. PSNR, LPIPS, MSE and SSIM are those of the background, outside of the data "
    "set's mask; an exact background has no finite PSNR, and the mean is that of the other pictures. Edits that a "
    "method refuses count as the unchanged picture."
)
Summary = dict[str, Any]


def summary(rows: Sequence[Row]) -> Summary:
    """Returns counts of some results, and for each column mean, ends of the 95 % interval, and number of values.

    The PSNR of a background that is exact is infinite; the mean is that of the others.
    """
    found: Summary = {
        "pictures": len(rows),
        "exact": sum(row["mse"] == 0 for row in rows),
        "unedited": sum(row["unedited"] for row in rows),
        "scaled": sum(row["scaled"] for row in rows),
    }
    for name in COLUMNS:
        values = [row[name] for row in rows if row.get(name) is not None and np.isfinite(row[name])]
        if values:
            mean, low, high = interval(values)
            found[name] = {"mean": mean, "low": low, "high": high, "values": len(values)}
    return found


def summaries(rows: Sequence[Row]) -> dict[str, Summary]:
    """Returns the summary of all results of a method, and of those of each type."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {"all": summary(rows), **{kind: summary([row for row in rows if row["kind"] == kind]) for kind in kinds}}


def table(first: str, found: Mapping[str, Summary]) -> str:
    """Returns a Markdown table with a row for each summary, without columns that none of them has."""
    columns = [name for name in COLUMNS if any(name in one for one in found.values())]
    counts = [name for name in COUNTS if any(one[name] for one in found.values())]
    titles = [first, "pictures", *(COLUMNS[name][0] for name in columns), *(COUNTS[name] for name in counts)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, one in found.items():
        cells = [str(one["pictures"]), *(_cell(column, one.get(column)) for column in columns)]
        lines.append(f"| {name} | {' | '.join([*cells, *(str(one[count]) for count in counts)])} |")
    return "\n".join(lines)


def _cell(column: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    _, times, digits = COLUMNS[column]
    mean, low, high = (f"{times * found[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return mean if column in ("evaluations", "seconds") or found["values"] == 1 else f"{mean} ({low} to {high})"


def write(
    out: Path, heading: str, rows: Mapping[str, Sequence[Row]], told: Mapping[str, Any], left_out: Sequence[str]
) -> str:
    """Writes piebench.md and piebench.json, and returns the former.

    Args:
        out: The folder.
        heading: Which edits were measured.
        rows: The rows of each method.
        told: What each method's results depend on.
        left_out: Sentences about the columns that are missing.
    """
    found = {label: summaries(mine) for label, mine in rows.items() if mine}
    parts = [f"# {heading}", table("method", {label: one["all"] for label, one in found.items()}), NOTES, *left_out]
    for label, one in found.items():
        kinds = {title(kind): part for kind, part in one.items() if kind != "all"}
        parts += [f"## {label}", table("type", kinds)]
    text = "\n\n".join(parts) + "\n"
    files.publish(out / "piebench.md", text.encode())
    plain = {label: [{name: storable(value) for name, value in row.items()} for row in rows[label]] for label in found}
    methods = {label: {"told": told[label], "figures": one, "rows": plain[label]} for label, one in found.items()}
    record = {"edits": heading, "left_out": list(left_out), "methods": methods}
    files.publish(out / "piebench.json", json.dumps(record, indent=1, allow_nan=False).encode())
    return text


def sheet_cases(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases of the contact sheet, the same number of each type."""
    kinds = list(dict.fromkeys(case.kind for case in cases))
    most = max(1, SHEET_CASES // len(kinds))
    return [case for kind in kinds for case in [one for one in cases if one.kind == kind][:most]]


def contact_sheet(cases: Sequence[Case], methods: Sequence[Results]) -> Image.Image:
    """Returns a row for each case: its picture, its mask and every method's result, below its prompts."""
    titles = ["source", "mask", *(one.label for one in methods)]
    sheet = Image.new("RGB", (SIDE * len(titles), LINE + (SIDE + LINE) * len(cases)))
    drawing, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, name in enumerate(titles):
        drawing.text((column * SIDE + 2, 0), name, "white", font)
    for number, case in enumerate(cases):
        top, asked = LINE + number * (SIDE + LINE), Asked.of(case)
        words = f"{title(case.kind)}: {case.source} -> {case.target}" if case.source else case.instruction
        drawing.text((2, top), _printable(f"{case.name}, {words}", sheet.width, font), "white", font)
        shown: list[Image.Image | None] = [Image.fromarray(asked.picture)]
        shown.append(None if asked.mask is None else Image.fromarray(asked.mask).convert("L"))
        shown += [_result(one.picture(case), asked) for one in methods]
        for column, picture in enumerate(shown):
            if picture is not None:
                sheet.paste(_within(picture), (column * SIDE, top + LINE))
    return sheet


def _result(path: Path, asked: Asked) -> Image.Image | None:
    if not path.is_file():
        return None
    with Image.open(path) as result:
        return Image.fromarray(aligned(result, asked.picture.shape[:2])[0])


def _within(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def _printable(text: str, width: int, font: Any) -> str:
    """Returns as much of a text as fits into a line."""
    fits: Callable[[str], bool] = lambda part: font.getlength(part) <= width - 4  # noqa: E731
    while text and not fits(text):
        text = text[:-1]
    return text
