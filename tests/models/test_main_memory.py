"""The memory that a process may use, where control groups limit it, as containers do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from diffedit_cli.models import main_memory

MACHINE, AVAILABLE, SWAP = 1000, 600, 100
Files = dict[str, str]

V2: Files = {"memory.max": "400", "memory.current": "300", "memory.stat": "anon 5\ninactive_file 50\nfile 90\n"}
V1: Files = {
    "memory.limit_in_bytes": "400",
    "memory.usage_in_bytes": "300",
    "memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
}
SWAPPING: Files = V2 | {"memory.swap.max": "30", "memory.swap.current": "10"}
LOOSE: Files = V2 | {"memory.max": "max"}


@pytest.mark.parametrize(
    ("own", "groups", "whole", "free"),
    [
        ("0::/\n", {}, MACHINE, (600, 700)),
        ("0::/\n", {"": V2}, 400, (150, 150)),
        ("0::/\n", {"": SWAPPING}, 400, (150, 170)),
        ("0::/\n", {"": LOOSE}, MACHINE, (600, 700)),
        ("0::/a/b\n", {"a/b": LOOSE, "a": V2}, 400, (150, 150)),
        ("0::/elsewhere\n", {"": V2}, 400, (150, 150)),
        ("0::/a\n", {"a": V2, "": V2 | {"memory.max": "320"}}, 320, (70, 70)),
        ("0::/a\n", {"a": {"memory.max": "400"}}, MACHINE, (600, 700)),
        ("4:cpu,cpuacct:/\n9:memory:/docker/1\n", {"memory/docker/1": V1}, 400, (150, 150)),
        ("9:memory:/docker/1\n", {"memory": V1 | {"memory.limit_in_bytes": str(2**63)}}, MACHINE, (600, 700)),
        ("no group\n\n", {"": {"memory.max": "?"}}, MACHINE, (600, 700)),
        ("0::/\n", {"": V2 | {"memory.current": "900"}}, 400, (0, 0)),
    ],
)
def test_the_least_limit_counts(
    own: str,
    groups: dict[str, Files],
    whole: int,
    free: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own").write_text(own)
    for group, files in groups.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "groups" / group / name).write_text(text)
    monkeypatch.setattr(main_memory, "OWN", tmp_path / "own")
    monkeypatch.setattr(main_memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=MACHINE, available=AVAILABLE))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=SWAP))
    assert main_memory.whole() == whole
    assert main_memory.free() == free


def test_a_machine_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_memory, "OWN", tmp_path / "missing")
    assert main_memory.whole() == psutil.virtual_memory().total
    assert 0 < main_memory.free()[0] <= main_memory.whole()
