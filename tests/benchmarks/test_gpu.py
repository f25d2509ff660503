"""The speed of a GPU: the same command on a processor, with small models and a stand-in for the captures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from recorder import FakeRecorder

from benchmarks import gpu
from benchmarks.gpu import EAGER, LIMIT, OURS, THEIRS
from benchmarks.methods import ON_CPU


@pytest.mark.thorough
def test_all_ways_are_measured_in_turns_and_told(tmp_path: Path) -> None:
    recorders: list[FakeRecorder] = []

    def recorder() -> FakeRecorder:
        recorders.append(FakeRecorder())
        return recorders[-1]

    found = gpu.measured(tmp_path, ON_CPU, 1, minutes=0, small=True, recorder=recorder)
    assert json.loads((tmp_path / "gpu.json").read_text()).keys() == found.keys()
    assert len(recorders) == 3
    assert all(one.captured and one.replayed > one.captured for one in recorders)
    for table in found.values():
        assert list(table) == [THEIRS, OURS, EAGER, LIMIT]
        assert all(row["seconds"][0] > 0 for row in table.values())
        assert table[OURS]["differs"][0] == 0
        assert table[OURS]["overhead"][0] > 0
        assert table[OURS]["evaluations"] == table[EAGER]["evaluations"]
        assert table[THEIRS]["evaluations"][0] == 40  # a fifth of all, in the pipeline as where only its calls are made
    said = (tmp_path / "gpu.md").read_text()
    assert "SDXL's size, 1 edit\n" in said
    assert "iou" in found["built-in model"][OURS]
