"""How often the kind of edit that diffedit reads from two prompts is the one that the data set's type asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.piebench.cases import Case
from benchmarks.piebench.datasets import TYPES
from diffedit_cli.pipeline.edit_kind import KINDS, change_of

EXPECTED = {
    "1": "object", "2": "add", "3": "remove", "4": "attribute", "5": "attribute", "6": "attribute", "7": "attribute",
    "8": "background", "9": "everything", "add": "add", "remove": "remove", "color": "attribute",
    "background": "background", "style": "everything",
}  # fmt: skip
"""Kinds of edits by PIE-Bench's and Emu Edit's types; random edits (0) and those of other data sets may be any."""


def table(cases: Sequence[Case]) -> str:
    """Returns, as Markdown, how many edits of each type are of each kind, and those of another kind than expected."""
    said = [case for case in cases if case.source.strip() and case.target.strip()]
    kinds = {case.name: change_of(case.source, case.target).kind for case in said}
    lines = [f"| type | expected | edits | {' | '.join(KINDS)} | as expected |", "|---" * (len(KINDS) + 4) + "|"]
    right = total = 0
    for kind in dict.fromkeys(case.kind for case in cases):
        mine = [case for case in said if case.kind == kind]
        counts, expected = Counter(kinds[case.name] for case in mine), EXPECTED.get(kind)
        share = "-"
        if expected and mine:
            right, total = right + counts[expected], total + len(mine)
            share = f"{counts[expected] / len(mine):.0%}"
        cells = (title(kind), expected or "any", len(mine), *(counts[one] for one in KINDS), share)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append("")
    if total:
        lines.append(f"As expected: {right} of {total} ({right / total:.1%}).")
    if missing := len(cases) - len(said):
        lines.append(f"Without prompts, and not counted: {missing}.")
    others = [case for case in said if EXPECTED.get(case.kind, kinds[case.name]) != kinds[case.name]]
    lines += ["", *(f"- {case.name}, {title(case.kind)}, read as {kinds[case.name]}: "
                    f"{case.source!r} -> {case.target!r}" for case in others)]  # fmt: skip
    return "\n".join(lines).strip()


def title(kind: str) -> str:
    """Returns a type as people read it: "1 change object" for PIE-Bench's "1"."""
    return f"{kind} {TYPES[kind]}" if kind in TYPES else kind
