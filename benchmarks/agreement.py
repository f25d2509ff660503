"""Compares the strict measure with grades by eye: run ``python -m benchmarks.agreement [DIR]``.

``benchmarks/grades.json`` holds the gradings of the first edits of each kind by date, a letter for each edit: A fit to
show, B recognisable and acceptable, C wrong or ugly; and whether the edit passed the strict measure then. DIR is the
folder of a ``benchmarks.scenebench`` run that reproduces the pictures of the latest grades, to count what passes now.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GRADES = Path(__file__).with_name("grades.json")


def gradings() -> list[dict[str, Any]]:
    """Returns the gradings: description, letters by kind, and which edits passed."""
    found: list[dict[str, Any]] = json.loads(GRADES.read_text())["gradings"]
    return found


def latest() -> dict[str, Any]:
    """Returns the latest grades of each kind, as one grading."""
    found: dict[str, Any] = {"about": "The last grades of each kind.", "grades": {}, "passed": {}}
    for said in gradings():
        for name in ("grades", "passed"):
            found[name].update(said[name])
    return found


def passed(folder: Path) -> dict[tuple[str, int], bool]:
    """Returns whether each edit by diffedit passes the strict measure, by kind and number."""
    rows = map(json.loads, (folder / "cases.jsonl").read_text().splitlines())
    return {(row["kind"], row["case"]): bool(row["strict"]) for row in rows if row["method"] == "ours"}


def counted(grades: Mapping[str, str], found: Mapping[tuple[str, int], bool]) -> dict[str, Counter[tuple[str, bool]]]:
    """Counts, for each kind, the edits of each grade that pass and that do not."""
    return {
        kind: Counter((grade, found[kind, number]) for number, grade in enumerate(letters))
        for kind, letters in grades.items()
        if (kind, 0) in found
    }


def table(counts: Mapping[str, Counter[tuple[str, bool]]]) -> str:
    """Returns a Markdown table with a row for each kind and one for all: how many edits of each grade pass."""
    lines = ["| kind | A pass | B pass | C pass | A | A or B |", "|---|---|---|---|---|---|"]
    for kind, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        of = {grade: count[grade, True] + count[grade, False] for grade in "ABC"}
        passes = " | ".join(f"{count[grade, True]} of {of[grade]}" for grade in "ABC")
        edits = sum(of.values())
        lines.append(f"| {kind} | {passes} | {of['A'] / edits:.0%} | {(of['A'] + of['B']) / edits:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    for said in [latest()] if options.folder else gradings():
        then = {(kind, number): one == "1" for kind, all_ in said["passed"].items() for number, one in enumerate(all_)}
        print(f"\n{said['about']}\n")
        print(table(counted(said["grades"], passed(options.folder) if options.folder else then)))


if __name__ == "__main__":
    main()
