"""The tables of models in README.md and docs/models.md say what `models list` says."""

from __future__ import annotations

import re

import pytest
from checkout import PROJECT

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models.names import BUILTIN, NAMES, SEGMENTERS

NAMED = {name: known for name, known in NAMES.items() if name != BUILTIN}


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table that begins with this heading; an empty first cell is that of the row above."""
    lines = (PROJECT / page).read_text(encoding="utf-8").split(f"\n{heading}\n")[1].splitlines()[1:]
    found: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            return found
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found.append([cells[0] or found[-1][0], *cells[1:]])
    return found


FULL = rows("docs/models.md", "| family | names | guidance | licence | GB | VAE factor | LoRA |")
SEGMENTING = "| name | hub id | licence | GB |"
SHORT = rows("README.md", "| family | names | licence | GB |")


@pytest.mark.parametrize("table", [FULL, SHORT], ids=["docs/models.md", "README.md"])
def test_every_name_is_in_the_table_of_its_family(table: list[list[str]]) -> None:
    families = {name: row[0].split(",")[0] for row in table for name in re.findall(r"`([^`]+)`", row[1])}
    assert families == {name: FAMILIES[known.family].title for name, known in NAMED.items()}


def test_licence_gate_and_size_are_those_of_the_list() -> None:
    said = {re.findall(r"`([^`]+)`", row[1])[0]: (row[3], row[4]) for row in FULL}
    assert said == {
        name: (known.licence + (", gated" if known.gated else ""), f"{known.size / 1e9:.1f}")
        for name, known in NAMED.items()
    }
    for _, names, licence, sizes in SHORT:
        known = [NAMES[name] for name in re.findall(r"`([^`]+)`", names)]
        assert {one.gated for one in known} == {licence.endswith(", gated")}, names
        assert set(map(float, sizes.split(", "))) == {round(one.size / 1e9 + 1e-6) for one in known}, names


def test_painters_and_turbo_models_are_told_apart() -> None:
    for family, names, guidance, *_, lora in FULL:
        (name,) = re.findall(r"`([^`]+)`", names)
        assert ("--painter" in family) == NAMES[name].painter == (lora == "no")
        assert not name.endswith("-turbo") or guidance == "1"


def test_the_table_of_segmenters_is_that_of_the_list() -> None:
    said = {name.strip("`"): (*rest, float(size)) for name, *rest, size in rows("docs/models.md", SEGMENTING)}
    assert said == {
        name: (known.source, known.licence, round(known.size / 1e9, 1)) for name, known in SEGMENTERS.items()
    }
