"""What a folder or a pattern holds: all that can be read is found, and what is passed over is said."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from command import WORDS, diffedit, picture
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from diffedit_cli.errors import InputError
from diffedit_cli.images import codecs
from diffedit_cli.jobs import output_names, sources
from diffedit_cli.jobs.sources import SkippedFiles


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*given: str, recursive: bool = False) -> tuple[list[str], str]:
    """The places of the rows, and what is said of the rest."""
    passed = SkippedFiles()
    rows = list(sources.list_rows(given, recursive=recursive, skip=lambda _: False, passed=passed))
    for row in rows:
        if row.problem:
            raise row.problem
    return [row.place.as_posix() for row in rows], str(passed)


# Endings


def test_every_ending_of_what_can_be_read_is_found() -> None:
    Image.init()
    codecs._enable_heic()
    known = {ending for ending, name in Image.registered_extensions().items() if name in (*codecs.READABLE, "HEIF")}
    unreadable = {".pfm"}  # of a colour mode that is refused
    assert set(sources.EXTENSIONS) - known <= {".mpo"}  # a JPEG, whichever plugin Pillow gives it to
    assert known - unreadable <= set(sources.EXTENSIONS)
    names = [f"in/{number}{ending.upper()}" for number, ending in enumerate(sources.EXTENSIONS)]
    made(*names)
    assert sorted(found("in")[0]) == sorted(Path(name).name for name in names)
    assert sorted(found("in/*")[0]) == sorted(Path(name).name for name in names)


@pytest.mark.parametrize("ending", codecs.EXTENSIONS)
def test_what_can_be_written_comes_back_under_its_own_ending_and_format(ending: str) -> None:
    codecs._enable_heic()
    path = Path(f"a{ending}")
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(path, codecs.EXTENSIONS[ending])
    read = codecs.load(path)
    assert codecs.default_extension(read) == output_names.written_extension(path) == ending
    assert codecs.output_format(Path(f"b{ending}"), read) == read.format == codecs.EXTENSIONS[ending]


@pytest.mark.parametrize("ending", [".pgm", ".ppm", ".pbm", ".pnm", ".dib", ".jp2", ".j2k", ".jpx", ".gif", ".apng"])
def test_what_can_only_be_read_comes_back_as_png(ending: str) -> None:
    path = Path(f"a{ending}")
    mode = {".pgm": "L", ".pbm": "1"}.get(ending, "RGB")
    chosen = {".pnm": "PPM", ".apng": "PNG"}.get(ending)
    Image.linear_gradient("L").resize((32, 32)).convert(mode).save(path, chosen)
    read = codecs.load(path)
    assert codecs.default_extension(read) == output_names.written_extension(path) == ".png"


# What is passed over


def test_hidden_files_are_passed_over_and_counted() -> None:
    made("in/a.png", "in/._a.png", "in/.b.png", "in/__MACOSX/._a.png", "in/__MACOSX/c.png", "in/.git/d.png")
    made("in/sub/._e.png", "in/sub/e.png", "in/sub/note.txt", "in/README")
    expected = ["a.png", "sub/e.png"]
    others = "no pictures by their names: 2 (.txt, no ending)"
    assert found("in", recursive=True) == (expected, f"{others}, hidden: 5")
    said = "no pictures by their names: 1 (no ending), hidden: 4, folders: 1 (--recursive looks into them)"
    assert found("in") == (["a.png"], said)
    assert found("in/**/*.png")[0] == expected
    assert found("in/**")[0] == expected
    assert found("in/*.png") == (["a.png"], "hidden: 2")
    assert found("in/.b*") == ([".b.png"], "")  # who asks for hidden ones gets them
    assert found("in/.b.png", "in/sub/._e.png")[0] == [".b.png", "._e.png"]


def test_a_url_is_looked_through_in_the_same_way() -> None:
    made("in/a.png", "in/._a.png", "in/__MACOSX/a.png", "in/sub/b.jfif", "in/sub/note.txt")
    store = fsspec.filesystem("memory")
    store.put("in", "/looked-through", recursive=True)
    said = found("memory://looked-through", recursive=True)
    store.rm("/looked-through", recursive=True)
    assert said == (["a.png", "sub/b.jfif"], "no pictures by their names: 1 (.txt)")


def test_links_to_folders_are_not_followed_and_said() -> None:
    made("in/a.png", "else/b.png")
    Path("in/linked").symlink_to("../else")
    Path("in/round").symlink_to(".")
    said = "linked folders: 2 (in/linked, in/round: name them to look into them)"
    assert found("in", recursive=True) == (["a.png"], said)
    assert found("in/**/*.png") == (["a.png"], said)
    assert found("in/linked") == (["b.png"], "")
    assert found("in/*/b.png") == (["linked/b.png"], "")


def test_what_diffedit_made_is_counted(here: Path) -> None:
    picture(here / "ours.png")
    passed = SkippedFiles()
    rows = sources.list_rows([str(here)], recursive=False, skip=lambda path: path.name == "ours.png", passed=passed)
    assert [row.name for row in rows] == [str(here / "cat.png")]
    assert str(passed) == "made by diffedit: 1"


@pytest.mark.parametrize("folder", ["photos [2020]", "a[bc]", "what?", "ab*", "[!x]", "[]"])
def test_a_folder_may_be_called_as_a_pattern_is(folder: str) -> None:
    made(f"{folder}/a.png", f"{folder}/sub/b.png", "ab/c.png", "other/d.png")
    assert found(folder)[0] == ["a.png"]
    assert found(f"{folder}/*.png")[0] == ["a.png"]
    assert found(f"{folder}/**/*.png")[0] == ["a.png", "sub/b.png"]
    assert found(f"{Path.cwd()}/{folder}/s?b/*.png")[0] == ["sub/b.png"]
    assert found(f"{folder}/a.png", f"{folder}/none.png")[0] == ["a.png", "none.png"]


def test_patterns_mean_what_they_did() -> None:
    made("in/a1.png", "in/a2.png", "in/b/a1.png", "in/b/c/a1.png", "in/.h/a1.png")
    assert found("in/a[12].png")[0] == ["a1.png", "a2.png"]
    assert found("in/*/a1.png")[0] == ["b/a1.png"]
    assert found("in/**/**/a1.png")[0] == ["a1.png", "b/a1.png", "b/c/a1.png"]
    assert found("in/../in/a?.png")[0] == ["a1.png", "a2.png"]
    for pattern in ("in/x*.png", "none/*.png", "in/a1.png/*.png", "in/*/*/*/*.png"):
        with pytest.raises(InputError, match="No picture is called"):
            found(pattern)


# Folders that may not be entered


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that may not be looked into: by nobody, as who is root may do all."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.chdir(folder)
        made("in/a.png", "in/locked/b.png", "in/z.png")
        path = Path("in/locked")
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield path
        finally:
            os.seteuid(user)
            path.chmod(0o700)
            monkeypatch.undo()


@pytest.mark.parametrize("source", ["in", "in/locked", "in/**/*.png", "in/locked/*.png"])
def test_a_folder_that_may_not_be_entered_fails_alone(locked: Path, source: str) -> None:
    rows = list(sources.list_rows([source], recursive=True, skip=lambda _: False))
    (bad,) = [row for row in rows if row.problem is not None]
    assert isinstance(bad.problem, InputError)
    assert str(bad.problem) == f"The folder {locked} cannot be read: Permission denied; check its permissions."
    others = [row.name for row in rows if row.problem is None]
    assert others == ([] if "locked" in source else ["in/a.png", "in/z.png"])


def test_the_run_says_so_and_does_the_rest(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in" / "locked").mkdir(parents=True)
    (here / "in" / "a.png").write_bytes(b"no picture")
    (here / "in" / "notes.txt").touch()
    refused = PermissionError(13, "Permission denied", "in/locked")
    walked = [("in", ["locked"], ["a.png", "notes.txt"])]

    def walk(_: object, onerror: object) -> Iterator[object]:
        yield from walked
        onerror(refused)  # type: ignore[operator]

    monkeypatch.setattr(os, "walk", walk)
    ran = diffedit("run", "in", "-r", *WORDS, "--out", "out")
    assert ran.code == 8
    assert "skipped: no pictures by their names: 1 (.txt)" in ran.lines
    assert "diffedit: The folder in/locked cannot be read: Permission denied; check its permissions." in ran.lines
    assert "diffedit: in/a.png is not a picture that can be read" in ran.err
    assert len((here / "out" / "results.jsonl").read_text().splitlines()) == 2


# Beside others


BAD = ["foo://x/a.png", "http://[bad/x.png", "file://[bad/x.png", "memory://none/a*.png", "empty", "none*.png", ""]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.usefixtures("here")
def test_a_source_that_is_none_fails_alone(bad: str) -> None:
    Path("empty").mkdir()
    Path("broken.png").write_bytes(b"no picture")
    ran = diffedit("run", bad, "broken.png", *WORDS, "--out", "out", "--json")
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert (ran.code, first["input"]) == (8, bad or ".")
    assert first["error"]["code"] in (2, 3)
    assert second["error"]["message"].startswith("broken.png is not a picture")
    alone = diffedit("run", bad, *WORDS, "--out", "other", "--json")
    assert alone.code == first["error"]["code"]
    assert json.loads(alone.out)["error"] == first["error"]
    assert not Path("other").exists()


@pytest.mark.usefixtures("here")
def test_a_file_system_whose_package_is_missing_and_one_that_is_away_fail_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> bool:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(MemoryFileSystem, "isdir", away)
    ran = diffedit("run", "s3://b/a.png", "memory://in/a.png", "cat.png", *WORDS, "--out", "out", "--dry-run", "--json")
    first, second, third = (json.loads(line) for line in ran.out.splitlines())
    assert "Install s3fs" in first["error"]["message"]
    assert "memory://in/a.png cannot be reached (no route to host)" in second["error"]["message"]
    assert third["status"] == "planned"


def test_a_picture_whose_result_would_replace_another_fails_alone(here: Path) -> None:
    for folder in "pq":
        (here / folder).mkdir()
    (here / "p" / "cat.png").write_bytes(b"no picture")
    picture(here / "q" / "dog.png")
    before = (here / "q" / "dog.png").read_bytes()
    ran = diffedit("run", "p/cat.png", "q/dog.png", *WORDS, "--out", "q", "--json", "--force")
    first, second = (json.loads(line)["error"] for line in ran.out.splitlines())
    assert first["message"].startswith("p/cat.png is not a picture")
    assert (second["code"], "q/dog.png is also an input" in second["message"]) == (6, True)
    assert (here / "q" / "dog.png").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_where_there_are_only_results_it_is_said() -> None:
    fsspec.filesystem("memory").pipe_file("/results/a.png", b"")
    ran = diffedit("run", "memory://results/*.png", *WORDS, "--out", "memory://results")
    assert ran.code == 3
    assert "All pictures lie in --out" in ran.err
