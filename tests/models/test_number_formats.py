"""Number formats by their short names: the same option, the same identity."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import FAST, WORDS, diffedit, picture

from diffedit_cli import DiffEdit
from diffedit_cli.errors import UsageError
from diffedit_cli.models.memory import NUMBER_FORMATS, SHORT, number_format


def test_short_names_are_the_formats_of_torch() -> None:
    assert {number_format("--dtype", name) for name in SHORT} | {"auto"} == set(NUMBER_FORMATS)
    with pytest.raises(UsageError, match="--dtype fp8 is unknown; use auto, float32, float16 or bfloat16"):
        number_format("--dtype", "fp8")


@pytest.mark.parametrize("short", SHORT)
def test_from_python(tiny_epsilon: Path, short: str) -> None:
    assert DiffEdit(tiny_epsilon, dtype=short)._pipeline.dtype == SHORT[short]


def test_a_result_is_up_to_date_under_either_name(
    tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", str(tmp_path / "cache"))
    picture(Path("cat.png"))
    words = ("edit", "cat.png", *WORDS, *FAST, "--model", tiny_epsilon, "--json", "--dtype")
    assert diffedit(*words, "bf16").json["status"] == "done"
    assert diffedit(*words, "bfloat16").json["status"] == "skipped"
