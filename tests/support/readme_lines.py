"""Runs the command lines of README in one shell, with the standard library alone.

``python tests/support/readme_lines.py`` does so in the environment of this Python, which needs no test dependencies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from checkout import PROJECT

FEW = {"DIFFEDIT_STEPS": "3", "DIFFEDIT_MAPS": "1"}
"""Few steps and maps: only the files that commands write are checked, not their quality."""


def commands() -> list[str]:
    """Returns the lines after `$` in README's console blocks, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.split(r"\s\s+#", line)[0].strip() for line in lines]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs all but the two lines that create the environment, in a folder that resembles a new user's checkout."""
    shutil.copytree(PROJECT / "sample_images", folder / "sample_images", ignore=lambda *_: ["bowl-of-pears.png"])
    (folder / ".venv").symlink_to(sys.prefix)
    told = {name: value for name, value in os.environ.items() if not name.startswith("DIFFEDIT_")}
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join(one for one in told["PATH"].split(os.pathsep) if one != here)
    environment = {**told, **FEW, "PATH": path, "DIFFEDIT_CACHE_DIR": str(folder / "cache")}
    script = "\n".join(f"echo {number} >> lines\n{line}" for number, line in enumerate(commands()[2:]))
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def complaint(folder: Path, done: subprocess.CompletedProcess[str]) -> str:
    """Returns the line that failed with the end of its standard error, or an empty string."""
    line = commands()[2:][int((folder / "lines").read_text().split()[-1])]
    return f"{line}\n{done.stderr[-2000:]}" if done.returncode else ""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        done = run(Path(folder))
        print(complaint(Path(folder), done) or f"{len(commands()) - 2} lines of README work in {sys.prefix}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
