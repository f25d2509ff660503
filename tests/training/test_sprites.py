"""How the recipe gets its sprites: from nothing, by whichever of several processes asks first."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from checkout import PROJECT

NPM = '#!/bin/sh\necho "$@" >> "$CALLS"\nsleep 1\ncp "$PACKED" package.tgz\n'
ASK = "from training.workspace import sprites_folder as folder; print((folder() / '1f436.webp').read_text())"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A training folder with nothing in it, and an npm that packs one sprite and writes down what it was asked."""
    programs = tmp_path / "programs"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(NPM)
    npm.chmod(0o755)
    packed = tmp_path / "packed.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        sprite = tarfile.TarInfo("package/assets/1f436.webp")
        sprite.size = 3
        archive.addfile(sprite, io.BytesIO(b"dog"))
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DIFFEDIT_TRAINING_DIR": str(tmp_path / "training"),
        "CALLS": str(tmp_path / "calls"),
        "PACKED": str(packed),
    }


def test_processes_that_draw_at_once_fetch_the_sprites_once(surroundings: dict[str, str], tmp_path: Path) -> None:
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK], cwd=PROJECT, env=surroundings, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0] for process in asking]
    assert [process.returncode for process in asking] == [0, 0, 0]
    assert said == ["dog\n"] * 3
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.mark.thorough
def test_without_npm_the_recipe_says_so_and_ends(surroundings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    surroundings["PATH"] = str(tmp_path / "empty")
    ran = subprocess.run(
        [sys.executable, "-m", "training.vae"],
        cwd=PROJECT,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("npm is needed once, to fetch @lobehub/fluent-emoji-3d@")
