"""Presets stand in for defaults, never for what somebody says; profiles show where the time goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import WORDS, diffedit, picture

from diffedit_cli import PRESETS, Params
from diffedit_cli.pipeline.params import STRENGTH
from diffedit_cli.pipeline.presets import BALANCED

FEW = ("--threshold", 0.3, "--invert-every", 1, "--json", "--no-cache", "--force")


def test_every_preset_is_made_of_parameters() -> None:
    for name, values in PRESETS.items():
        assert Params(**values) != Params() or name == BALANCED


def levels(image: Path, model: Path, *words: object) -> tuple[int, int]:
    """Evaluations of mask and inversion, which tell maps and steps."""
    ran = diffedit("edit", image, *WORDS, "--model", model, *FEW, *words)
    assert ran.code == 0, ran.err
    return ran.json["evaluations"]["mask"], ran.json["evaluations"]["invert"]


def test_what_is_said_counts_more_than_the_preset(
    tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(tmp_path / "scene.png")
    fast = PRESETS["fast"]
    steps = int(fast["steps"] * STRENGTH)
    said = ("--preset", "fast")
    assert levels(image, tiny_epsilon, *said) == (2 * fast["maps"], steps)
    assert levels(image, tiny_epsilon, *said, "--maps", 1) == (2, steps)
    assert levels(image, tiny_epsilon, "--maps", 1, *said) == (2, steps)
    with monkeypatch.context() as patch:
        patch.setenv("DIFFEDIT_MAPS", "3")
        assert levels(image, tiny_epsilon, *said) == (6, steps)
    (tmp_path / "diffedit.toml").write_text('preset = "fast"\nmaps = 1\n')
    monkeypatch.chdir(tmp_path)
    assert levels(image, tiny_epsilon) == (2, steps)


def test_runs_and_stages_have_presets_too(tmp_path: Path, tiny_epsilon: Path) -> None:
    image = picture(tmp_path / "scene.png")
    shared = ("--model", tiny_epsilon, "--preset", "fast", "--invert-every", 1, "--json")
    run = diffedit("run", image, *WORDS, *shared, "--threshold", 0.3, "--out", tmp_path / "out")
    inverted = diffedit("invert", image, "--caption", "cat", *shared, "--no-cache")
    expected = int(PRESETS["fast"]["steps"] * STRENGTH)
    assert run.json["evaluations"]["invert"] == inverted.json["evaluations"]["invert"] == expected


def test_an_unknown_preset_is_named(tmp_path: Path) -> None:
    ran = diffedit("edit", picture(tmp_path / "scene.png"), *WORDS, "--preset", "quick")
    assert ran.code == 2
    assert ran.err == "diffedit: --preset quick is unknown; use fast, balanced, best.\n"


def test_a_profile_shows_where_the_time_goes(tmp_path: Path, tiny_epsilon: Path) -> None:
    image, profile = picture(tmp_path / "scene.png"), tmp_path / "where.json"
    ran = diffedit("mask", image, *WORDS, "--model", tiny_epsilon, "--steps", 5, "--maps", 1, "--profile", profile)
    assert ran.code == 0, ran.err
    names = {event.get("name") for event in json.loads(profile.read_text())["traceEvents"]}
    assert "aten::conv2d" in names
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("where", ["missing/where.json", "scene.png"])
def test_a_profile_replaces_nothing_and_needs_its_folder(tmp_path: Path, tiny_epsilon: Path, where: str) -> None:
    image = picture(tmp_path / "scene.png")
    before = image.read_bytes()
    ran = diffedit("mask", image, *WORDS, "--model", tiny_epsilon, "--profile", tmp_path / where)
    assert ran.code == 6
    assert "--profile" in ran.err
    assert image.read_bytes() == before
    assert not (tmp_path / "scene.mask.png").exists()
