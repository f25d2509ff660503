"""Rows, results and names of any text: none is a bug, none takes long, and nothing of anyone's is replaced."""

from __future__ import annotations

import io
import json
import os
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffedit_cli.cli import run, session
from diffedit_cli.errors import DiffEditError, UsageError
from diffedit_cli.jobs import execute, outcomes, output_names, plan, sources
from diffedit_cli.jobs.destinations import Destination
from diffedit_cli.jobs.sharding import Shard
from diffedit_cli.pipeline.params import Params
from diffedit_cli.results import page, results_log
from diffedit_cli.results.result import Result
from diffedit_cli.storage.ownership import Ownership
from diffedit_cli.storage.remote import DownloadedFiles

ODD = (
    "\ud800",
    "\0",
    "\udcff",
    "n" * 300,
    "..",
    "/",
    "~",
    "-",
    "{0}",
    "ü" * 200,
    "[",
    "http://[::1",
    "file://x",
    "\r",
    " ",
)
TEXT = st.lists(st.sampled_from(ODD) | st.text(max_size=6), max_size=4).map("".join) | st.text(
    st.characters(exclude_categories=()), max_size=20
)
NAMES = st.sampled_from(("cat.png", "mine.txt", "in", "in/a.png", "out", "out/mine.png", "none.png")) | TEXT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
OPTIONS = sorted({name.rstrip("_") for group in session.OF_A_PICTURE for name in group})
ROWS = st.fixed_dictionaries({"input": NAMES | VALUES}, optional={"output": NAMES | VALUES}).flatmap(
    lambda row: st.dictionaries(st.sampled_from(OPTIONS) | TEXT, VALUES, max_size=3).map(lambda more: {**more, **row})
)
STATUSES = st.sampled_from(results_log.STATUSES) | VALUES
LINES = st.dictionaries(
    st.sampled_from(
        ("input", "output", "outputs", "mask", "seconds", "evaluations", "cache", "error", "warnings", "ended")
    ),
    VALUES | st.lists(NAMES, max_size=2) | st.dictionaries(TEXT, VALUES, max_size=2),
).flatmap(lambda line: st.tuples(STATUSES, NAMES | VALUES).map(lambda two: {**line, "status": two[0], "input": two[1]}))

COMMON = settings(
    derandomize=True, database=None, deadline=timedelta(seconds=10), suppress_health_check=list(HealthCheck)
)
A_FEW, MANY = settings(COMMON, max_examples=60), settings(COMMON, max_examples=2000)


@contextmanager
def folder() -> Iterator[Path]:
    """A working folder with things in it that must stay as they are."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "here"
        root.mkdir()
        os.chdir(root)
        try:
            picture(Path("cat.png"), (8, 8))
            for name in ("in/a.png", "out/mine.png", "../beside.png"):
                Path(name).parent.mkdir(exist_ok=True)
                Path(name).write_bytes(Path("cat.png").read_bytes())
            Path("mine.txt").write_text("mine")
            kept = state(root.parent)
            yield root
            now = state(root.parent)
            assert {path: now.get(path) for path in kept} == kept
        finally:
            os.chdir(before)


def state(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def opened(rows: Iterator[sources.Row]) -> list[Result | execute.EditInputs]:
    """What becomes of rows, up to where the model would be asked."""
    import inspect

    options = {name: one.default for name, one in inspect.signature(run.run).parameters.items()}
    shared = session.row_options({**options, "from_": "cat", "to": "dog"})
    place, found, owner = Destination(Path("out")), [], Ownership()
    with DownloadedFiles() as fetched, place, place.results_log(Shard(1, 1), owner) as results_log:
        claimed = plan.plan_jobs(rows, shared, place, output_names.DEFAULT, results_log, owner, lambda _: True)
        for job in plan.pending(claimed, fetched, place, lambda _: {}):
            made = (
                job
                if isinstance(job, Result)
                else outcomes.attempt(job, lambda job=job: execute.read_inputs(job), print)
            )
            if isinstance(made, Result):
                results_log.write(made.json())
            found.append(made)
    return found


def check(found: list[Result | execute.EditInputs], count: int) -> None:
    assert len(found) == count
    for one in found:
        if isinstance(one, Result):
            assert one.error is not None
            assert one.error["code"] in (2, 3, 4, 5, 6), one.error
            assert json.loads(one.json())["status"] == "failed"


def rows_are_done_or_refused(rows: list[dict[str, Any]]) -> None:
    with folder():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        Path("jobs.jsonl").write_text(text)
        read = list(sources.stream_rows([Path("jobs.jsonl")], null=False))
        check(opened(iter(read)), len(read))
        page.write(Path("out"))


def a_list_is_done_or_refused(data: bytes) -> None:
    with folder(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
        read = list(sources.stream_rows([Path("-")], null=False))
        check(opened(iter(read)), len(read))
        Path("jobs.csv").write_bytes(b"input,to,steps\n" + data)
        read = list(sources.stream_rows([Path("jobs.csv")], null=False))
        check(opened(iter(read)), len(read))


def results_are_read(lines: list[dict[str, Any]]) -> None:
    with folder():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        Path("out/results.jsonl").write_text(text + json.dumps({"status": "failed", "input": "a.png"}))
        page.write(Path("out"))
        check(opened(iter(sources.list_rows(["none.png"], recursive=False, skip=lambda _: False))), 1)


def a_name_is_made_or_refused(template: str, place: str, words: str) -> None:
    try:
        output_names.check(template)
        made = output_names.result_path(template, Path(place), ".png", Params(from_="cat", to=words, seed=7))
    except UsageError:
        return
    assert ".." not in made.parts
    assert not made.is_absolute()
    assert b"\0" not in os.fsencode(made)


SIGNS = ("{stem}", "{ext}", "{to}", "{seed", "}", "{stem:", ">99}", "04}", "!r}", ".x}", "[0]}", "/", "..")
TEMPLATES = st.lists(st.sampled_from(SIGNS) | TEXT, max_size=4).map("".join)
PROMPTS = st.text(string.printable, max_size=200)
LISTS = st.lists(NAMES, max_size=3).map(lambda names: "\n".join(names).encode("utf-8", "surrogatepass"))
CHECKS = [
    (rows_are_done_or_refused, (st.lists(ROWS, min_size=1, max_size=3),)),
    (a_list_is_done_or_refused, (st.binary(max_size=40) | LISTS,)),
    (results_are_read, (st.lists(LINES, max_size=3),)),
    (a_name_is_made_or_refused, (TEMPLATES, NAMES, PROMPTS)),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("check_one", "drawn"), CHECKS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_few_of_any_text(check_one: Any, drawn: tuple[Any, ...]) -> None:
    A_FEW(given(*drawn)(check_one))()


@pytest.mark.slow
@pytest.mark.parametrize(("check_one", "drawn"), CHECKS, ids=lambda value: getattr(value, "__name__", ""))
def test_many_of_any_text(check_one: Any, drawn: tuple[Any, ...]) -> None:
    MANY(given(*drawn)(check_one))()


def test_an_error_of_ours_fails_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def share(row: sources.Row) -> dict[str, Any]:
        if row.name == "b.png":
            raise KeyError("a bug")
        raise DiffEditError("not today")

    rows = sources.list_rows(["a.png", "b.png", "c.png"], recursive=False, skip=lambda _: False)
    place, owner = Destination(tmp_path / "out"), Ownership()
    with place, place.results_log(Shard(1, 1), owner) as results_log:
        found = list(
            plan.plan_jobs(rows, share, place, output_names.DEFAULT, results_log, owner, lambda _: True, said.append)
        )
    messages = [one.error["message"] for one in found if isinstance(one, Result) and one.error]
    assert [message[:9] for message in messages] == ["not today", "An intern", "not today"]
    assert "KeyError" in said[0]
