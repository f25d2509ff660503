"""Sources and outputs that are URLs: in fsspec's memory, in a store that several processes share, and on the disk."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import shelf
from command import WORDS, Ran, diffedit, finished, picture, started
from fsspec.implementations.memory import MemoryFileSystem

from diffedit_cli.results import results_log, thumbnails
from diffedit_cli.storage import remote

FAST = ("--steps", "2", "--maps", "1", "--no-cache")
NAMES = ("a.png", "b.jpg", "sub/a.png")


@pytest.fixture
def memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """memory://in with the pictures of NAMES and a text, the same pictures in the folder `in`, and no other files."""
    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    system = fsspec.filesystem("memory")
    for number, name in enumerate(NAMES):
        path = here / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        system.pipe_file(f"/in/{name}", picture(path, (40, 40 + number)).read_bytes())
    system.pipe_file("/in/notes.txt", b"no picture")
    system.pipe_file("/in/.hidden/c.png", b"no picture")
    yield system
    assert not list((here / "tmp").iterdir())
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def run(*words: object, out: str = "memory://out", given: bytes = b"") -> Ran:
    return diffedit("run", *words, *WORDS, *FAST, "--out", out, "--json", given=given)


def results(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def statuses(ran: Ran) -> list[str]:
    return [result["status"] for result in results(ran)]


def pictures(system: MemoryFileSystem, folder: str = "/out") -> dict[str, bytes]:
    """What lies there, page, results and small pictures apart, by name."""
    found = {path.removeprefix(folder + "/"): system.cat_file(path) for path in system.find(folder)}
    return {name: data for name, data in found.items() if name.endswith((".png", ".jpg"))}


def left(folder: Path) -> list[Path]:
    """Of folders for what is fetched or sent."""
    return list((folder / "temporary").glob(".*.part"))


def of_disk(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if name.endswith((".png", ".jpg"))}


# Sources and outputs


def test_a_run_from_and_to_urls_makes_what_a_run_on_the_disk_makes(here: Path, memory: MemoryFileSystem) -> None:
    ran = run("memory://in", "-r")
    assert ran.code == 0, ran.err
    assert run("in", "-r", out="out").code == 0
    assert pictures(memory) == of_disk(here / "out")
    told = results(ran)
    assert [said["input"] for said in told] == [f"memory://in/{name}" for name in NAMES]
    assert [said["output"] for said in told] == [f"memory://out/{name}" for name in NAMES]
    assert told[0]["mask"] == "memory://out/a.mask.png"
    kept = [json.loads(line) for line in memory.cat_file("/out/results.jsonl").splitlines()]
    assert [{**line, "progress": said["progress"]} for line, said in zip(kept, told, strict=True)] == told
    assert str(here / "tmp") not in ran.err


def test_its_page_shows_pictures_and_leads_to_results(memory: MemoryFileSystem) -> None:
    run("memory://in", "-r")
    shown = memory.cat_file("/out/index.html").decode()
    entries = json.loads(shown.split('id="entries">')[1].split("</script>")[0])
    assert [entry["after"][0]["full"] for entry in entries] == list(NAMES)
    for entry in entries:
        for one in (entry["before"], *entry["after"], entry["mask"]):
            assert memory.cat_file(f"/out/{one['small']}")[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("sources", "made"),
    [
        (["memory://in"], ["a.png", "b.jpg"]),
        (["memory://in/*.png"], ["a.png"]),
        (["memory://in/**/*.png"], ["a.png", "sub/a.png"]),
        (["memory://in/sub/a.png", "in/b.jpg"], ["a.png", "b.jpg"]),
        (["memory://jobs.jsonl"], ["a.png", "x.png"]),
        (["-"], ["a.png", "b.jpg", "in/sub/a.png"]),
    ],
    ids=str,
)
def test_urls_stand_wherever_paths_do(
    here: Path,
    memory: MemoryFileSystem,
    sources: list[str],
    made: list[str],
) -> None:
    rows = [{"input": "memory://in/a.png"}, {"input": str(here / "in" / "b.jpg"), "output": "x.png"}]
    memory.pipe_file("/jobs.jsonl", "\n".join(map(json.dumps, rows)).encode())
    listed = f"memory://in/a.png\nfile://{here}/in/b.jpg\nin/sub/a.png\n"
    ran = run(*sources, given=listed.encode())
    assert ran.code == 0, ran.err
    assert sorted(name for name in pictures(memory) if not name.endswith(".mask.png")) == made


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["file", "FILE", "local"])
def test_a_file_url_is_a_path(scheme: str, here: Path, memory: MemoryFileSystem) -> None:  # noqa: ARG001
    words = ("run", f"{scheme}://{here}/in", *WORDS, *FAST, "--out", f"{scheme}://{here}/with%20space")
    ran = finished(started(*words))
    assert ran.code == 0, ran.err
    assert run("in", out="out").code == 0
    assert of_disk(here / "with space") == of_disk(here / "out")
    before = of_disk(here / "in")
    assert run(f"{scheme}://{here}/in", "--force", out=f"{scheme}://{here}/in").code == 6
    assert {name: of_disk(here / "in")[name] for name in before} == before


# Started again


def test_a_second_run_passes_over_what_is_done_and_does_again_what_is_not(memory: MemoryFileSystem) -> None:
    run("memory://in", "-r")
    before = pictures(memory)
    assert statuses(run("memory://in", "-r")) == ["skipped"] * 3
    memory.rm_file("/out/b.jpg")
    memory.pipe_file("/in/a.png", memory.cat_file("/in/sub/a.png"))
    again = run("memory://in", "-r")
    assert statuses(again) == ["done", "done", "skipped"]
    assert pictures(memory).keys() == before.keys()
    assert pictures(memory)["b.jpg"] == before["b.jpg"]
    assert len(memory.cat_file("/out/results.jsonl").splitlines()) == 5


@pytest.mark.usefixtures("memory")
def test_results_in_the_source_are_no_sources() -> None:
    assert statuses(run("memory://in", "-r", out="memory://in/edited")) == ["done"] * 3
    assert statuses(run("memory://in", "-r", out="memory://in/edited")) == ["skipped"] * 3


@pytest.mark.parametrize("source", ["memory://in/a.png", "memory://in/*.png", "-"])
def test_a_url_is_no_file_of_the_working_folder(memory: MemoryFileSystem, source: str) -> None:  # noqa: ARG001
    given = b"memory://in/a.png\n"
    assert statuses(run(source, out=".", given=given)) == ["done"]
    assert statuses(run(source, out=".", given=given)) == ["skipped"]


def test_an_input_is_never_replaced(memory: MemoryFileSystem) -> None:
    before = pictures(memory, "/in")
    ran = run("memory:///in/sub/a.png", "--force", out="memory://in/sub")
    assert ran.code == 6
    assert "The output memory://in/sub/a.png is also an input" in ran.err
    assert pictures(memory, "/in") == before


def test_what_another_row_reads_is_never_replaced(memory: MemoryFileSystem) -> None:
    rows = [("a.png", "b.jpg"), ("b.jpg", "x.jpg"), ("sub/a.png", "nowhere.png")]
    said = [json.dumps({"input": f"memory://in/{name}", "output": output}) for name, output in rows]
    Path("jobs.jsonl").write_text("\n".join([*said, json.dumps({"input": "nowhere://in/a.png"})]))
    before = pictures(memory, "/in")
    for more in (("--dry-run",), ()):
        ran = run("jobs.jsonl", "--force", *more, out="memory://in")
        assert statuses(ran) == ["failed", *["planned" if more else "done"] * 2, "failed"]
        assert "The output memory://in/b.jpg is also an input" in results(ran)[0]["error"]["message"]
        assert {name: pictures(memory, "/in")[name] for name in before} == before


def test_neither_are_small_pictures_and_lists_of_it(memory: MemoryFileSystem) -> None:
    run("memory://in/a.png")
    small = f"memory://out/{thumbnails.path_of('memory://in/a.png', thumbnails.of_picture)}"
    mine = memory.cat_file("/in/sub/a.png")
    memory.pipe_file(small, mine)
    assert statuses(run(small, "memory://in/a.png", "--name", "x-{stem}{ext}")) == ["done"] * 2
    assert memory.cat_file(small) == mine
    memory.pipe_file("/out/results.jsonl", b'{"input": "memory://in/a.png"}\n')
    ran = run("memory://out/results.jsonl")
    assert ran.code == 6
    assert "memory://out/results.jsonl is also an input" in ran.err


def test_what_counts_is_what_was_done_last_in_whatever_parts(memory: MemoryFileSystem) -> None:
    whole = run("memory://in", "-r", "--no-metadata")
    parts = [run("memory://in", "-r", "--no-metadata", "--seed", 4, "--shard", f"{part}/2") for part in (1, 2)]
    assert [statuses(ran) for ran in (whole, *parts)] == [["done"] * 3, ["done"] * 2, ["done"]]
    files = {path.rpartition("/")[2] for path in memory.find("/out", maxdepth=1)}
    assert {"results.jsonl", "results-1-of-2.jsonl", "results-2-of-2.jsonl"} <= files
    shown = memory.cat_file("/out/index.html").decode()
    assert (shown.count('"seed":4'), shown.count('"seed":0')) == (3, 0)
    assert statuses(run("memory://in", "-r", "--no-metadata", "--seed", 4)) == ["skipped"] * 3
    assert statuses(run("memory://in", "-r", "--no-metadata")) == ["done"] * 3


@pytest.mark.thorough
def test_killed_and_started_again_it_is_as_if_nothing_had_been(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf.installed(here, monkeypatch)
    (store / "in").mkdir(parents=True)
    (here / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(here / "temporary"))
    for number in range(8):
        picture(store / "in" / f"{number}.png", (40, 40 + number))
    words = ("run", "shelf://in", *WORDS, *FAST)
    whole = finished(started(*words, "--out", "shelf://whole"))
    assert whole.code == 0, whole.err
    running = started(*words, "--out", "shelf://out", "--json")
    assert running.stdout is not None
    for _ in range(3):
        running.stdout.readline()
    running.kill()
    running.communicate()
    assert left(here)
    again = finished(started(*words, "--out", "shelf://out", "--json"))
    assert again.code == 0, again.err
    assert not left(here)
    assert len(results(again)) == 8
    assert of_disk(store / "out") == of_disk(store / "whole")
    assert {Path(said["output"]).name for said in results_log.lines(store / "out" / results_log.NAME)} == {
        f"{number}.png" for number in range(8)
    }


# What can be wrong


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("nowhere://bucket/in", 2, "nowhere"),
        ("s3://bucket/in", 2, "Install s3fs"),
        ("memory://empty", 3, "There is no memory://empty"),
        ("memory://texts", 3, "holds no pictures"),
        ("memory://in/*.bmp", 3, "holds no pictures"),
        ("memory://none.jsonl", 3, "There is no memory://none.jsonl"),
    ],
)
def test_a_source_that_is_none_is_said(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, url: str, code: int, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    memory.pipe_file("/texts/notes.txt", b"")
    ran = run(url)
    assert ran.code == code, ran.err
    assert says in ran.err + ran.out.decode()


@pytest.mark.usefixtures("memory")
def test_an_output_that_no_file_system_knows_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for out, says in (("gs://bucket/out", "gcsfs"), ("nowhere://out", "nowhere")):
        ran = run("memory://in", out=out)
        assert ran.code == 2
        assert says in ran.err


def test_a_picture_that_cannot_be_fetched_or_read_fails_alone(memory: MemoryFileSystem) -> None:
    memory.pipe_file("/in/b.jpg", b"no picture")
    ran = run("-", given=b"memory://in/none.png\nmemory://in/b.jpg\nmemory://in/a.png\n")
    assert ran.code == 8
    assert statuses(ran) == ["failed", "failed", "done"]
    first, second, _ = results(ran)
    assert first["error"] == {"code": 3, "message": "There is no memory://in/none.png; check the name."}
    assert first["input"] == "memory://in/none.png"
    assert second["error"]["message"].startswith("memory://in/b.jpg is not a picture")


def test_what_is_not_ours_is_never_replaced(memory: MemoryFileSystem) -> None:
    mine = memory.cat_file("/in/b.jpg")
    memory.pipe_file("/out/b.jpg", mine)
    memory.pipe_file("/out/index.html", b"my page")
    ran = run("memory://in")
    assert statuses(ran) == ["done", "failed"]
    assert "memory://out/b.jpg exists, and nothing shows that diffedit made it" in results(ran)[1]["error"]["message"]
    assert "index.html exists, and nothing shows that diffedit made it" in ran.err
    assert pictures(memory)["b.jpg"] == mine
    assert memory.cat_file("/out/index.html") == b"my page"
    assert statuses(run("memory://in", "--force")) == ["done", "done"]
    assert memory.cat_file("/out/index.html") != b"my page"


@pytest.mark.usefixtures("memory")
def test_a_result_that_cannot_be_sent_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryFileSystem.put_file

    def refuse(self: MemoryFileSystem, lpath: str, rpath: str, **options: Any) -> None:
        if rpath.endswith("/a.png"):
            raise PermissionError("403: no room")
        put(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    ran = run("memory://in")
    assert ran.code == 8
    assert statuses(ran) == ["failed", "done"]
    assert results(ran)[0]["error"]["code"] == 6
    assert "memory://out/a.png cannot be reached (403: no room)" in results(ran)[0]["error"]["message"]
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    assert statuses(run("memory://in")) == ["done", "skipped"]


@pytest.mark.usefixtures("memory")
def test_two_results_of_one_name_are_said_before_any_work() -> None:
    ran = run("memory://in", "memory://in/sub/a.png")
    assert ran.code == 2
    assert "would both write" in ran.err


# The module alone


@pytest.mark.parametrize(
    ("said", "url"),
    [("s3://b/a.png", True), ("HTTPS://x/a.png", True), ("a/b.png", False), ("C:/b.png", False), ("a:b", False)],
)
def test_what_a_url_is(said: str, url: bool) -> None:
    assert remote.is_url(said) == url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://b/in/a?b#c.png", "a?b#c.png"),
        ("https://x.org/in/a%20b.png?sign=1/2#top", "a b.png"),
        ("memory://a.png", "a.png"),
        ("https://x.org/", "unnamed"),
    ],
)
def test_what_a_file_at_a_url_is_called(url: str, name: str) -> None:
    assert remote.name(url) == name


def test_files_are_fetched_ahead_and_no_further(memory: MemoryFileSystem) -> None:
    for number in range(40):  # one file read by several threads at once would share its position in this file system
        memory.pipe_file(f"/many/{number}.png", memory.cat_file("/in/a.png"))
    left = iter([(f"memory://many/{number}.png", number) for number in range(40)])
    with remote.DownloadedFiles() as fetched:
        first, number = next(fetched.ahead(left))
        assert number == 0
        assert next(left)[1] == remote.AHEAD + 1
        assert isinstance(first, Path)
        assert first.read_bytes() == memory.cat_file("/in/a.png")
        assert fetched.url(str(first)) == "memory://many/0.png"
        fetched.drop(str(first))
        assert not first.exists()
