"""Whatever reads a list takes it as editors, spreadsheets and pandas write it, and one odd row fails alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import WORDS, Ran, diffedit

from diffedit_cli.cli import config_file
from diffedit_cli.cli.session import row_options
from diffedit_cli.errors import UsageError
from diffedit_cli.jobs import sources
from diffedit_cli.jobs.rows import Row
from diffedit_cli.results import results_log
from diffedit_cli.results.latest_lines import LatestLines
from diffedit_cli.storage import paths

MARK = b"\xef\xbb\xbf"
FIRST, SECOND = "a.png", "b ü.png"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(name: str, data: bytes) -> list[Row]:
    Path(name).write_bytes(data)
    return list(sources.stream_rows([Path(name)], null=False))


def of_list(data: bytes, null: bool = False) -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
        return list(sources.stream_rows([Path("-")], null=null))


def names(found: Iterable[Row]) -> list[str]:
    return [str(row.problem) if row.problem else row.name for row in found]


def of_results(data: bytes) -> list[str]:
    """What both readers of results.jsonl understand of it."""
    Path("results.jsonl").write_bytes(data)
    seen = [line["input"] for line in results_log.lines(Path("results.jsonl"))]
    assert [line["input"] for line in LatestLines(Path())] == seen
    return seen


def of_settings(data: bytes) -> list[str]:
    Path("diffedit.toml").write_bytes(data)
    return list(config_file.read().values())


READERS: dict[str, tuple[str, Callable[[bytes], list[str]]]] = {
    "list": (f"{FIRST}\n{SECOND}\n", lambda data: names(of_list(data))),
    "csv": (f"input,to\n{FIRST},dog\n{SECOND},\n", lambda data: names(rows("jobs.csv", data))),
    "jsonl": (
        f'{{"input": "{FIRST}"}}\n{{"input": "{SECOND}"}}\n',
        lambda data: names(rows("jobs.jsonl", data)),
    ),
    "toml": (
        f'[[job]]\ninput = "{FIRST}"\n[[job]]\ninput = "{SECOND}"\n',
        lambda data: names(rows("jobs.toml", data)),
    ),
    "settings": (f'from = "{FIRST}"\nto = "{SECOND}"\n', of_settings),
    "results": (
        "".join(json.dumps({"status": "failed", "input": name}) + "\n" for name in (FIRST, SECOND)),
        of_results,
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("blank", ["", "\n", "  \t \n"], ids=["", "empty line", "line of spaces"])
@pytest.mark.parametrize("last", [True, False], ids=["", "no last end"])
def test_every_reader_of_lists_takes_what_editors_write(
    name: str, mark: bytes, end: str, blank: str, last: bool
) -> None:
    text, read = READERS[name]
    first, *others = text.splitlines(keepends=True)
    if name != "toml":
        text = blank.join([first, *others])
    text = blank + text + blank if name != "csv" or blank != "  \t \n" else text + blank
    data = mark + (text if last else text.removesuffix("\n")).replace("\n", end).encode()
    assert read(data) == [FIRST, SECOND]


def test_a_name_that_ends_as_lines_of_windows_do_is_taken_where_there_is_such_a_file() -> None:
    Path("a.png\r").touch()
    assert names(of_list(b"a.png\r\nb.png\r\n")) == ["a.png\r", "b.png"]
    assert names(of_list(b"a.png\r\0  \0\0b.png", null=True)) == ["a.png\r", "  ", "b.png"]


def test_a_line_that_is_longer_than_any_path_fails_alone_and_is_not_kept() -> None:
    found = of_list(b"a.png\n" + bytes(3_000_000) + b"\nb.png\n")
    assert names(found) == ["a.png", "Line 2 of standard input is longer than any path.", "b.png"]


# Cells


TABLES: dict[str, tuple[str, list[str]]] = {
    "empty rows of a spreadsheet": ("input,to,steps\n,,\na.png,,\n ,,\n,,\nb.png,,\n", ["a.png", "b.png"]),
    "the numbers of rows that pandas writes": (",input,to\n0,a.png,dog\n1,b.png,\n", ["a.png", "b.png"]),
    "empty columns": ("input,to,,\na.png,dog,,\nb.png,,,\n", ["a.png", "b.png"]),
    "cells behind the last column that are empty": ("input,to\na.png,dog,,\nb.png,, \n", ["a.png", "b.png"]),
    "spaces around columns": ("input , to\na.png,dog\nb.png,\n", ["a.png", "b.png"]),
    "fewer cells": ("to,input,steps\ndog,a.png\n,b.png,4\n", ["a.png", "b.png"]),
    "a column twice": ("input,input\na.png,a.png\nb.png,b.png\n", ["a.png", "b.png"]),
    "semicolons": ("input;to;guidance\na.png;a dog, a cat;7,5\nb.png;;\n", ["a.png", "b.png"]),
    "semicolons and quotes": ('\n"input";"to"\n"a.png";"a;b"\n"b.png";""\n', ["a.png", "b.png"]),
    "semicolons in words": ("input,to\na.png,a;b;c\nb.png,\n", ["a.png", "b.png"]),
    "words on two lines": ('input,to\na.png,"a\ndog"\nb.png,\n', ["a.png", "b.png"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_it_was_saved(name: str) -> None:
    text, found = TABLES[name]
    assert names(rows("jobs.csv", text.encode())) == found


def test_cells_between_semicolons_may_have_commas() -> None:
    (row,) = rows("jobs.csv", MARK + b"input;to;guidance\r\na.png;a dog, a cat;7,5\r\n")
    assert (row.given, row.where) == ({"to": "a dog, a cat", "guidance": "7,5"}, "jobs.csv line 2")


BAD_LINES = {
    "a quote that does not end": b'"b.png,dog',
    "letters behind a quote": b'"b.png"x,dog',
    "a cell too many": b"b.png,dog,cat",
    "bytes that are not text": b"b\xff.png,dog",
    "a cell without end": b'"' + b"x" * 200_000,
    "no picture": b",dog",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_row_fails_alone(name: str) -> None:
    found = rows("jobs.csv", b"input,to\na.png,dog\n" + BAD_LINES[name] + b"\nc.png,dog\nd.png,dog\n")
    assert [row.name for row in found if row.problem is None] == ["a.png", "c.png", "d.png"]
    (bad,) = [row for row in found if row.problem is not None]
    assert "jobs.csv line 3" in str(bad.problem)
    assert isinstance(bad.problem, UsageError)


def test_rows_that_say_nothing_are_passed_over_in_json_too() -> None:
    text = '{"input": null}\n{"input": "", "to": NaN}\n{}\n{"input": "a.png", "steps": NaN, "to": null}\n'
    (row,) = rows("jobs.jsonl", text.encode())
    assert (row.name, row.given) == ("a.png", {})


VALUES = [
    ("steps", "16.0", 16),
    ("steps", 16.0, 16),
    ("steps", " 16 ", 16),
    ("steps", "1E+1", 10),
    ("steps", "16,0", 16),
    ("seed", "9007199254740993", 2**53 + 1),
    ("maps", "2.0", 2),
    ("maps", 2.0, 2),
    ("maps", "auto", "auto"),
    ("threshold", "0,5", 0.5),
    ("threshold", "5e-1", 0.5),
    ("feather", "0,25", 0.25),
    ("guidance", "7,5", 7.5),
    ("guidance", 7, 7.0),
    ("soft", "TRUE", True),
    ("soft", "1.0", True),
    ("soft", 0.0, False),
    ("zoom", "off", 1.0),
    ("box", "1,2,3,4", (1, 2, 3, 4)),
    ("to", 7, "7"),
]


def told(option: str, value: object) -> object:
    """What a row's option comes to."""
    given = {name: parameter.default for name, parameter in _run_options().items()} | {"from_": "cat", "to": "dog"}
    shared = row_options(given)(Row(input=Path("a.png"), place=Path("a.png"), given={option: value}))
    return shared[option] if option in shared else getattr(shared["params"], option)


def _run_options() -> dict[str, object]:
    import inspect

    from diffedit_cli.cli.run import run

    return dict(inspect.signature(run).parameters)


@pytest.mark.parametrize(("option", "value", "meant"), VALUES)
def test_numbers_and_switches_are_taken_as_tables_write_them(option: str, value: object, meant: object) -> None:
    found = told(option, value)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("steps", value) for value in ("4.5", 4.5, "1,000", "nan", "inf", "1e999999999", "", "x", True, [4], {})),
        *(("seed", value) for value in (2.0**60, 16**5000, "9" * 5000)),
        *(("guidance", value) for value in ("1,000", "7.5.1", "1,2,3", None, [7.5])),
        *(("maps", value) for value in ("2.5", "some", ["auto"])),
        *(("mask", value) for value in (True, ["a.png"], {})),
        *(("soft", value) for value in ("perhaps", 2, [True])),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else "number",
)
def test_a_value_that_is_none_is_said(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{option} cannot be .*; see diffedit edit --help"):
        told(option, value)


TOO_LONG = {
    "jsonl": b'{"input": "a.png"}\n{"input": "%b"}\n{"input": "b.png"}\n',
    "csv": b"input,to\na.png,dog\n%b,dog\nb.png,dog\n",
    "csv of many columns": b"input,to" + b",x" * 40 + b"\na.png\nc.png,dog" + b",%b" * 40 + b"\nb.png,dog\n",
    "csv with a quote": b'input,to\na.png,dog\nc.png,"%b\nb.png,dog\n',
    "csv that ends with it": b"input\na.png\nb.png\n%b",
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_row_that_is_too_long_fails_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LONGEST", 100)
    text = TOO_LONG[name]
    found = names(rows(f"jobs.{name.split()[0]}", text.replace(b"%b", b"y" * (350 // max(1, text.count(b"%b"))))))
    (problem,) = [one for one in found if not one.endswith(".png")]
    assert problem.endswith("has more than 100 characters; make it shorter.")
    assert [one for one in found if one != problem] == ["a.png", "b.png"]


def test_a_result_that_is_too_long_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LONGEST", 60)
    whole = b'{"status": "failed", "input": "%b"}\n'
    data = b'{"status": "failed", "to": "' + b"y" * 32 + whole % b"no.png"
    assert of_results(whole % b"a.png" + data + whole % b"b.png") == ["a.png", "b.png"]


# The command


def run(*words: object, given: bytes = b"") -> Ran:
    return diffedit("run", *words, *WORDS, "--out", "out", "--json", given=given)


BAD_ROWS = [
    *('{"input": "\\ud800.png"}', '{"input": "a\\u0000b.png"}', '{"input": "http://[::1"}', '{"input": "file://[::1"}'),
    *('{"input": "cat.png", "output": "\\ud800.png"}', '{"input": "cat.png", "output": "a\\u0000b/c.png"}'),
    *('{"input": "cat.png", "output": ["a"]}', '{"input": "cat.png", "output": "."}', '{"input": "-"}', '{"input": 3}'),
    *(
        '{"input": "cat.png", "mask": "\\ud800.png"}',
        '{"input": "cat.png", "mask": 3}',
        '{"input": "nosuch://x/y.png"}',
    ),
    *('{"input": "cat.png", "from_embeds": "a\\u0000"}', '{"input": "cat.png", "within": {}}', "[]", "nonsense"),
    *('{"input": "cat.png", "frames": "a\\u0000b"}', '{"input": "cat.png", "preview": "\\ud800.png"}'),
    *(f'{{"input": "{"n" * 300}.png"}}', f'{{"input": "cat.png", "output": "{"n" * 300}.png"}}'),
    *(f'{{"input": "cat.png", "output": "{"n" * 300}/a.png"}}', f'{{"input": "cat.png", "output": "{"ü" * 128}.png"}}'),
    *('{"input": "cat.png", "to": "\\ud800"}', '{"input": "cat.png", "to": {}}', '{"input": "."}', '{"input": "/"}'),
]


def test_every_kind_of_bad_row_fails_alone(here: Path) -> None:
    inner = [f'{{"input": "none{number}.png"}}\n{row}' for number, row in enumerate(BAD_ROWS)]
    Path("jobs.jsonl").write_text("\n".join([*inner, '{"input": "last.png"}']))
    before = (here / "cat.png").read_bytes()
    ran = run("jobs.jsonl")
    assert ran.code == 8
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert len(results) == 2 * len(BAD_ROWS) + 1
    for row, result in zip(["", *BAD_ROWS], [results[0], *results[1::2]], strict=True):
        assert result["error"]["code"] in (2, 3, 6), (row, result["error"])
        assert "should not" not in result["error"]["message"]
    assert all("There is no picture" in result["error"]["message"] for result in results[::2])
    assert (here / "cat.png").read_bytes() == before
    assert len(Path("out/results.jsonl").read_text().splitlines()) == len(results)


def test_a_list_of_urls_and_names_of_which_some_are_none() -> None:
    ran = run("-", given=MARK + b"none1.png\r\nhttp://[::1\r\n  \r\nnone\xff.png\r\nnone2.png")
    assert ran.code == 8
    assert [json.loads(line)["error"]["code"] for line in ran.out.splitlines()] == [3, 2, 3, 3]


def test_settings_with_a_mark_are_read_and_changed(
    tmp_path: Path, tiny_v: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = config_file.users_file()
    path.parent.mkdir()
    path.write_bytes(MARK + b"steps = 3\r\n")
    assert diffedit("models", "use", tiny_v).code == 0
    assert config_file.read() == {"steps": 3, "model": str(tiny_v)}
    assert diffedit("models", "list").code == 0


@pytest.mark.usefixtures("here")
def test_whatever_fails_names_the_line_that_asked_for_it() -> None:
    Path("broken.png").write_bytes(b"no picture")
    Path("jobs.csv").write_text("input,from,to\nbroken.png,cat,dog\nnone.png,cat,dog\ncat.png,cat,dog\n")
    ran = run("jobs.csv")
    first, second, last = (json.loads(line) for line in ran.out.splitlines())
    assert first["error"]["message"].startswith("jobs.csv line 2: ")
    assert second["error"]["message"].startswith("jobs.csv line 3: ")
    assert last["error"] is None
    assert "jobs.csv line 2: " in ran.err


@pytest.mark.usefixtures("here")
def test_whatever_fails_tells_its_prompts() -> None:
    """By which the report page knows the edit, also once it has succeeded; a missing picture's card had none."""
    rows = [
        '"none.png", "from": "cat", "to": "fox"',
        '"cat.png", "from": "a", "to": "b", "steps": "many"',
        '"none2.png"',
    ]
    Path("jobs.jsonl").write_text("".join(f'{{"input": {row}}}\n' for row in rows))
    results = [json.loads(line) for line in run("jobs.jsonl").out.splitlines()]
    assert [result["status"] for result in results] == ["failed"] * 3
    assert [(result["from"], result["to"]) for result in results] == [("cat", "fox"), ("a", "b"), ("cat", "dog")]
