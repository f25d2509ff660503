"""How well the strict measure agrees with grades by eye: ``python -m benchmarks.agreement [DIR]``

The grades of the first edits of each kind are in ``benchmarks/grades.json``, by the day, a letter an edit: A to show,
B recognisable and acceptable, C wrong or ugly; and whether each passed then. Where the pictures of the last grades
are made again by ``benchmarks.scenebench``, its folder DIR says what passes now.
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
    """Each with what it is about, the letters by kind, and what passed."""
    found: list[dict[str, Any]] = json.loads(GRADES.read_text())["gradings"]
    return found


def latest() -> dict[str, Any]:
    """The last grades of each kind."""
    found: dict[str, Any] = {"about": "The last grades of each kind.", "grades": {}, "passed": {}}
    for said in gradings():
        for name in ("grades", "passed"):
            found[name].update(said[name])
    return found


def passed(folder: Path) -> dict[tuple[str, int], bool]:
    """Of each edit by diffedit, by kind and number, whether it passes the strict measure."""
    rows = map(json.loads, (folder / "cases.jsonl").read_text().splitlines())
    return {(row["kind"], row["case"]): bool(row["strict"]) for row in rows if row["method"] == "ours"}


def counted(grades: Mapping[str, str], found: Mapping[tuple[str, int], bool]) -> dict[str, Counter[tuple[str, bool]]]:
    """For each kind how many edits of each grade pass, and how many do not."""
    return {
        kind: Counter((grade, found[kind, number]) for number, grade in enumerate(letters))
        for kind, letters in grades.items()
        if (kind, 0) in found
    }


def table(counts: Mapping[str, Counter[tuple[str, bool]]]) -> str:
    """Markdown: a row a kind and one for all, edits that pass of those with each grade."""
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
