"""A fixture of the tests of `diffedit serve`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def told(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a client says what it imported."""
    path = tmp_path_factory.mktemp("told") / "imported"
    monkeypatch.setenv("TOLD", str(path))
    return path
