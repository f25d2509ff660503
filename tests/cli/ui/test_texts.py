"""All English that the page shows is in one file, and none of it is left over."""

from __future__ import annotations

import json
import re

import pytest

from diffedit_cli.cli.ui.app import TEMPLATES

TEXTS = json.loads((TEMPLATES / "texts.json").read_text(encoding="utf-8"))
SCRIPTS = sorted(TEMPLATES.glob("*.js"))
PAGES = sorted(TEMPLATES.glob("*.jinja"))
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in (*SCRIPTS, *PAGES)}
REVIEW = {name for name in SOURCES if name.startswith("review")}
FILLED = {  # keys that are put together: `region_` and the kind of edit
    "editor": ("region_", "stage_", "tool_", "layer_"),
    "review": ("state_", "filter_"),
    "shared": (),
}
OF_VALUES = {"review": {"waiting", "painted", "failed", "brush", "eraser"}, "editor": set(), "shared": set()}
"""Keys that are chosen by a value, such as the state of a card."""


def used(part: str) -> set[str]:
    """The keys that sources of a page name."""
    own = {name: text for name, text in SOURCES.items() if (name in REVIEW) == (part == "review") or part == "shared"}
    if part == "shared":
        found = r"TEXTS\.shared\.(\w+)|texts\.shared\.(\w+)|texts\.shared\[\"(\w+)\"\]"
    else:
        found = r"\bT\.(\w+)|\bt\.(\w+)|\bt\[\"(\w+)\"\]"
    return {key for text in own.values() for groups in re.findall(found, text) for key in groups if key}


@pytest.mark.parametrize("part", TEXTS)
def test_every_key_that_is_used_exists(part: str) -> None:
    assert used(part) <= TEXTS[part].keys()


@pytest.mark.parametrize("part", TEXTS)
def test_every_text_is_used(part: str) -> None:
    known = {key for key in TEXTS[part] if key.startswith(FILLED[part])} | OF_VALUES[part]
    assert TEXTS[part].keys() == used(part) | known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_english_of_its_own(path: object) -> None:
    text = re.sub(r"\{[{%].*?[%}]\}", "", SOURCES[path.name])  # type: ignore[attr-defined]
    shown = re.findall(r">([^<]*)<", text) + re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', text)
    assert not [one for one in shown if re.search(r"[A-Za-z]{2}", re.sub(r"&\w+;|&#\w+;", "", one))]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_has_english_of_its_own(path: object) -> None:
    """A text has a blank between two words; class lists, fonts and colours are no texts."""
    lines = [line.split("//")[0] for line in SOURCES[path.name].splitlines()]  # type: ignore[attr-defined]
    quoted = [text for line in lines for text in re.findall(r'"([^"]*)"', line)]
    others = r"^(button|card|thumb|check|mask-canvas|compare-canvas|class)\b|rgb|^\[|, |\?"
    assert not [text for text in quoted if re.search(r"[a-z]{2} [a-z]{2}", text) and not re.search(others, text)]


def test_the_files_are_as_long_as_a_person_reads() -> None:
    for path in TEMPLATES.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name
