"""results.jsonl: no other program's is written to, and a line that is torn takes no other with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import page_folder
import pytest

from diffedit_cli.errors import OutputError
from diffedit_cli.results import page, results_log, thumbnails
from diffedit_cli.results.result import Result

FOREIGN = [
    {"model": "gpt", "status": "ok"},
    {"input": "a.png", "status": "ok"},
    {"status": "done"},
    {"status": "failed", "input": ["a.png"]},
    {"status": "begun"},
    {"status": ["done"], "input": "a.png"},
    {"status": "done, all of it"},
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [results_log.NAME, f".{results_log.NAME}.begun"])
@pytest.mark.parametrize("said", FOREIGN, ids=json.dumps)
def test_what_another_program_says_is_not_added_to(tmp_path: Path, name: str, said: dict[str, object]) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(said))
    with pytest.raises(OutputError, match="was not made by diffedit"):
        results_log.ResultsLog(tmp_path)
    assert path.read_text() == json.dumps(said)


@pytest.mark.parametrize("status", results_log.STATUSES)
@pytest.mark.parametrize("left", [1, 15, 40, -1, None])
def test_ours_is_also_where_its_writer_was_ended_in_it(status: str, left: int | None) -> None:
    text = (Result(status="done", input="a.png").json(status=status) + "\n")[:left]
    Path(results_log.NAME).write_text(text)
    with results_log.ResultsLog(Path()) as told:
        told.write("{}")
    assert Path(results_log.NAME).read_text() == text.removesuffix("\n") + "\n{}\n"


def test_what_is_written_after_a_full_disk_does_not_join_the_torn_line(monkeypatch: pytest.MonkeyPatch) -> None:
    write, whole = os.write, [Result(status="done", input=name).json() for name in "abcd"]
    with results_log.ResultsLog(Path()) as told, results_log.ResultsLog(Path()) as other:
        told.write(whole[0])
        told.announce({"a.png": "0" * 64})
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda file, data: write(file, data[:30]))
            for tell in (lambda: told.write(whole[1]), lambda: told.announce({"b.png": "1" * 64})):
                with pytest.raises(OutputError, match="No space left"):
                    tell()
        other.write(whole[2])
        told.write(whole[3])
        told.announce({"c.png": "2" * 64})
        assert [said["input"] for said in results_log.lines(told.path)] == ["a", "c", "d"]
        assert other.digests_of(Path("c.png")) == ["2" * 64]
        assert b"\n\n" not in told.path.read_bytes()


@pytest.mark.parametrize(
    "recorded", ["cat.png", "out/cat.png", "../../old/cat.png", "/old/out/cat.png", "{now}/cat.png"]
)
def test_both_readers_find_an_output_where_it_is_now(tmp_path: Path, recorded: str) -> None:
    here = tmp_path / "a" / "here"
    here.mkdir(parents=True)
    (tmp_path / "a" / "old").mkdir()  # which `..` would lead to
    recorded = recorded.format(now=here)
    said = page_folder.line("in.png", output=recorded, outputs=[recorded], identity="known", mask=None)
    (here / results_log.NAME).write_text(json.dumps(said))
    for path in (here / "cat.png", tmp_path / "a" / "old" / "cat.png"):
        page_folder.paint(path, "teal")
    with results_log.ResultsLog(here) as told:
        assert told.identity_of(here / "cat.png") == "known"
    (entry,) = page_folder.entries(page.write(here))
    assert entry["after"][0]["full"] == "cat.png"


def test_only_what_is_named_as_a_small_picture_is_one(tmp_path: Path) -> None:
    (tmp_path / results_log.NAME).touch()
    assert thumbnails.is_thumbnail(tmp_path / thumbnails.path_of("a.png", thumbnails.of_picture))
    assert not thumbnails.is_thumbnail(tmp_path / thumbnails.FOLDER / "a.webp")
