"""README's commands do what README says, as written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def commands() -> list[str]:
    """The lines behind `$` in README's console blocks, comments cut off."""
    blocks = re.findall(r"```console\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines]


def test_the_two_commands_that_open_readme_are_what_ci_runs() -> None:
    ci = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands()[:2] == ["make demo", "make test"]
    assert {"make demo", "make test"} <= set(ci)


def test_every_diffedit_command_of_readme_works(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "sample_images", tmp_path / "sample_images", ignore=lambda *_: ["bowl-of-pears.png"])
    few = {"DIFFEDIT_STEPS": "3", "DIFFEDIT_MAPS": "1", "DIFFEDIT_CACHE_DIR": str(tmp_path / "cache")}
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # few levels: what the commands write is checked here, how good it is elsewhere
    environment = {**os.environ, **few, "PATH": beside_python}
    for command in commands()[2:]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    written = {path.name for path in tmp_path.iterdir()}
    assert {
        "oranges.png",
        "rabbit.png",
        "cat.mask.png",
        "cat.preview.png",
        "cat.overlay.png",
        "cat.latents.safetensors",
        "dog.png",
        "smaller.mask.png",
    } <= written
    assert (tmp_path / "sample_images" / "cat.edited.png").is_file()
    lines = (tmp_path / "edited" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done"] * len(lines)
    for folder in ("edited", "edited/sample_images"):  # results and masks
        assert {path.name for path in (tmp_path / folder).glob("*.png")} == {
            f"{name}{end}" for name in ("cat", "cat-and-rose") for end in (".png", ".mask.png")
        }
    assert (tmp_path / "edited" / "index.html").is_file()
