"""README's commands do what README says, as written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from readme_lines import PROJECT, commands, complaint, run


def test_the_two_commands_that_open_readme_are_what_ci_runs() -> None:
    ci = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands()[:2] == ["make demo", "make test"]
    assert {"make demo", "make test"} <= set(ci)
    made = ci.index("make demo")
    assert ci[made + 1].split("  #")[0] == ".venv/bin/python tests/support/readme_lines.py"


@pytest.mark.thorough
def test_every_diffedit_command_of_readme_works(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, complaint(tmp_path, done)
    written = {path.name for path in tmp_path.iterdir()}
    assert {
        "oranges.png",
        "sheep.png",
        "cat.mask.png",
        "cat.preview.png",
        "cat.overlay.png",
        "cat.latents.safetensors",
        "dog.png",
        "smaller.mask.png",
    } <= written
    assert (tmp_path / "sample_images" / "teapot-on-table.edited.png").is_file()
    lines = (tmp_path / "edited" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done"] * len(lines)
    for folder in ("edited", "edited/sample_images"):  # results and masks
        assert {path.name for path in (tmp_path / folder).glob("*.png")} == {
            f"{name}{end}" for name in ("cat", "cat-and-rose") for end in (".png", ".mask.png")
        }
    assert (tmp_path / "edited" / "index.html").is_file()
