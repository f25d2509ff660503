"""Decisions of a review are job files, whole at any time, and nobody else's are touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffedit_cli.errors import OutputError
from diffedit_cli.jobs.review_decisions import ReviewDecisions
from diffedit_cli.storage import files
from diffedit_cli.storage.ownership import Ownership

KEYS = [(f"{name}.png", f"{name}.png") for name in "abc"]


def rows(*keys: tuple[str, str], **more: str) -> dict[tuple[str, str], dict[str, str]]:
    return {key: {"input": key[0], "output": key[1], **more} for key in keys}


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def made(tmp_path: Path) -> ReviewDecisions:
    return ReviewDecisions(tmp_path, Ownership())


def test_nothing_is_written_before_a_decision(made: ReviewDecisions) -> None:
    assert made.decision(KEYS[0]) == "open"
    assert made.row(KEYS[0]) is None
    assert not made.folder.exists()


def test_decisions_are_found_again(made: ReviewDecisions, tmp_path: Path) -> None:
    made.decide(rows(*KEYS), "accepted")
    made.decide(rows(KEYS[1]), "refused")
    made.decide(rows(KEYS[2]), "open")
    made.decide(rows(KEYS[0], mask="drawn.png"), "accepted")
    for one in (made, ReviewDecisions(tmp_path, Ownership())):
        assert [one.decision(key) for key in KEYS] == ["accepted", "refused", "open"]
        assert one.row(KEYS[0]) == {"input": "a.png", "output": "a.png", "mask": "drawn.png"}
    assert lines(made.path("accepted")) == [{"input": "a.png", "output": "a.png", "mask": "drawn.png"}]
    assert lines(made.path("refused")) == [{"input": "b.png", "output": "b.png"}]


def test_rows_of_other_pictures_stay(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    other = {"input": "z.png", "output": "z.png", "steps": 9}
    (tmp_path / "review" / "accepted.jsonl").write_text(json.dumps(other) + "\n")
    made = ReviewDecisions(tmp_path, Ownership())
    made.decide(rows(KEYS[0]), "accepted")
    assert lines(made.path("accepted")) == [other, {"input": "a.png", "output": "a.png"}]


FOREIGN = (
    "mine",
    "[1]",
    "{}",
    '{"input": 3, "output": "x"}',
    '{"input": "x"}',
    '{"input": "a", "output": "b"}\nmine',
    "[" * 10**5,
)


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("name", ["accepted", "refused"])
def test_a_foreign_file_is_left_alone(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    path = tmp_path / "review" / f"{name}.jsonl"
    path.write_text(content)
    with pytest.raises(OutputError, match="was not made by a review; move it away, or choose another folder"):
        ReviewDecisions(tmp_path, Ownership())
    assert path.read_text() == content


def test_a_link_or_a_folder_is_no_file_of_a_review(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    path = tmp_path / "review" / "accepted.jsonl"
    for make in (lambda: path.symlink_to(tmp_path / "x"), path.mkdir):
        make()
        with pytest.raises(OutputError, match="choose another folder with --out"):
            ReviewDecisions(tmp_path, Ownership())
        path.unlink() if path.is_symlink() else path.rmdir()


def test_an_input_of_the_run_is_no_file_of_a_review(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    path = tmp_path / "review" / "accepted.jsonl"
    path.write_text('{"input": "a.png", "output": "a.png"}\n')
    with pytest.raises(OutputError, match="inputs are never replaced"):
        ReviewDecisions(tmp_path, Ownership(inputs=[path]))


def test_what_another_program_changed_is_not_replaced(made: ReviewDecisions) -> None:
    made.decide(rows(KEYS[0]), "accepted")
    made.path("accepted").write_text("mine")
    with pytest.raises(OutputError, match="was changed by another program"):
        made.decide(rows(KEYS[1]), "accepted")
    assert made.path("accepted").read_text() == "mine"
    assert [made.decision(key) for key in KEYS[:2]] == ["accepted", "open"]


def test_a_decision_that_cannot_be_written_is_none(made: ReviewDecisions, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OutputError(f"{path} cannot be written: No space left on device; free some space.")

    made.decide(rows(KEYS[0]), "accepted")
    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(OutputError, match="No space left"):
        made.decide(rows(KEYS[1]), "refused")
    assert [made.decision(key) for key in KEYS[:2]] == ["accepted", "open"]
