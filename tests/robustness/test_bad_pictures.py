"""Pictures of any kind and name: why they are refused, that a run goes on, and that nothing hangs or fills memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bad_pictures
import pytest
from command import FAST, WORDS, Ran, diffedit, installed, picture
from PIL import Image

from diffedit_cli.errors import DeviceError, InputError
from diffedit_cli.images import codecs
from diffedit_cli.storage import files

LONGEST = 10.0  # seconds for a picture
REFUSED = ("InputError", "UsageError")


def tried(folder: Path, *seeds: int) -> dict[str, dict[str, Any]]:
    """What became of each, by name. A process of its own: a decoder that crashes would end it."""
    words = [sys.executable, bad_pictures.__file__, folder, *seeds]
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Warning" not in ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return {row["name"]: row for row in rows}


def check(became: dict[str, dict[str, Any]]) -> None:
    """Each was used or refused with a sentence, soon, and within the memory of the process."""
    for row in became.values():
        assert row["became"] in ("used", *REFUSED), row
        assert row["became"] == "used" or row["said"].endswith("."), row
        assert row["seconds"] < LONGEST, row


@pytest.mark.thorough
def test_everything_bad_is_used_or_refused(tmp_path: Path) -> None:
    names = []
    for name, data in bad_pictures.corpus():
        (tmp_path / name).write_bytes(data)
        names.append(name)
    became = tried(tmp_path)
    check(became)
    assert sorted(became) == sorted(set(names))
    assert len(names) > 800
    used = {name for name, row in became.items() if row["became"] == "used"}
    assert set(bad_pictures.good()) <= used
    assert {"several.gif", "a-million.gif", "transparent-2.png", "1-by-20000.jpg", "exif-noise.jpg"} <= used
    assert not [name for name in used if name.startswith(("giant", "most", "bomb-8", "cut-at-05", "no-bytes"))]
    assert "has 60000 x 60000 pixels, more than 200 million" in became["giant.png"]["said"]
    for name in ("words.png", "postscript.png", "drawing.png"):
        assert "is not a picture that can be read" in became[name]["said"]


@pytest.mark.parametrize(
    ("first", "last"), [(0, 300), pytest.param(300, 5000, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_mutations_are_used_or_refused(tmp_path: Path, first: int, last: int) -> None:
    became = tried(tmp_path, first, last)
    check(became)
    assert len(became) == last - first
    assert {row["became"] for row in became.values()} >= {"used", "InputError"}


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what can lie among pictures, and four good ones of unusual names."""
    folder = tmp_path_factory.mktemp("strange")
    for name in (b"new\nline.png", b"quo\"te's.png", b"-dash.png", b"\xff\xfe.png"):
        picture(folder / os.fsdecode(name))
    for number, (name, data) in enumerate(bad_pictures.giants(bad_pictures.good())):
        (folder / (name if number == 0 else f"{number}-{name}")).write_bytes(data)  # results need names of their own
    cut = (folder / "-dash.png").read_bytes()[:-30]
    (folder / "cut.png").write_bytes(cut)
    (folder / "words.png").write_bytes(b"These are words, and no picture.\n")
    (folder / "nothing.png").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    if os.getuid():  # root may read it
        picture(folder / "locked.png").chmod(0)
    return folder


@pytest.mark.thorough
def test_a_run_over_strange_files_goes_on(strange: Path, tmp_path: Path, tiny_epsilon: Path) -> None:
    words = ("--json", "--model", tiny_epsilon, "--out", tmp_path / "out", *WORDS, *FAST)
    ran = installed("run", strange, *words)
    assert ran.code == 8, ran.err
    assert "Traceback" not in ran.err
    assert "should not" not in ran.err  # what a bug says
    results = [json.loads(line) for line in ran.out.splitlines()]
    done = {os.path.basename(result["input"]) for result in results if result["status"] == "done"}  # noqa: PTH119
    named = {os.fsdecode(name) for name in (b"new\nline.png", b"quo\"te's.png", b"-dash.png", b"\xff\xfe.png")}
    assert named <= done
    assert {path.name for path in (tmp_path / "out").glob("*.png")} >= named
    assert len(results) == len(os.listdir(strange))  # noqa: PTH208
    assert {result["error"]["code"] for result in results if result["status"] == "failed"} == {3}
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pipe.png", "pipe.png is a pipe or a device, not a {what}; send it to standard input"),
        ("device.png", "device.png is a pipe or a device"),
        ("loop.png", "loop.png cannot be read: Too many levels of symbolic links"),
        ("gone.png", "There is no {what}"),
        ("giant.png", "giant.png has 60000 x 60000 pixels, more than 200 million; make it smaller first, or raise"),
    ],
)
@pytest.mark.parametrize("option", ["", "--mask", "--within", "--latents", "--from-embeds"])
def test_what_is_no_file_is_refused_wherever_it_is_named(
    strange: Path, tmp_path: Path, tiny_epsilon: Path, name: str, says: str, option: str
) -> None:
    good = picture(tmp_path / "good.png")
    words = ("--to", "dog", "--model", tiny_epsilon, "-o", tmp_path / "out.png", *FAST)
    words += () if option == "--from-embeds" else ("--from", "cat")
    ran = diffedit("edit", good, option, strange / name, *words) if option else diffedit("edit", strange / name, *words)
    assert ran.code == 3, ran.err
    what = "mask" if option in ("--mask", "--within") else "picture"
    assert option in ("--latents", "--from-embeds") or says.format(what=what) in ran.err
    assert len(ran.lines) == 1


@pytest.mark.parametrize("source", ["pipe.jsonl", "device.csv", "loop.toml"])
def test_a_job_file_that_is_none_is_refused(tmp_path: Path, source: str) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    ran = diffedit("run", tmp_path / source, *WORDS, "--out", tmp_path / "out")
    assert (ran.code, len(ran.lines)) == (3, 1), ran.err
    assert "not a job file" in ran.err or "symbolic links" in ran.err


@pytest.mark.parametrize(
    "name",
    ["zero\0byte.png", "long" * 2000 + ".png", "/" * 5000 + "a.png", "..", "/"],
    ids=lambda name: ascii(name[:9]),
)
def test_a_job_file_may_name_anything(tmp_path: Path, tiny_epsilon: Path, name: str) -> None:
    picture(tmp_path / "good.png")
    rows = [{"input": name}, {"input": str(tmp_path / "good.png")}, {"input": "good.png", "mask": name}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("--json", "--model", tiny_epsilon, "--out", tmp_path / "out", *WORDS, *FAST)
    ran = diffedit("run", tmp_path / "jobs.jsonl", *words)
    assert ran.code == 8, ran.err
    assert "should not" not in ran.err
    statuses = [json.loads(line)["status"] for line in ran.out.splitlines()]
    assert statuses == ["failed", "done", "failed"]


def test_words_of_another_encoding_are_said(tmp_path: Path, tiny_epsilon: Path) -> None:
    words = ("--from", os.fsdecode(b"caf\xe9"), "--to", "dog", "--model", tiny_epsilon, *FAST)
    ran = diffedit("edit", picture(tmp_path / "a.png"), *words)
    assert ran.code == 2
    assert "--from holds bytes that are not text" in ran.err


# The limit of pixels


def limited(folder: Path, *words: object) -> Ran:
    return diffedit("edit", picture(folder / "a.png"), *WORDS, *FAST, "-o", folder / "out.png", *words)


def test_max_pixels_is_the_most_that_is_read(
    tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = limited(tmp_path, "--max-pixels", 60 * 40 - 1)
    assert refused.code == 3
    assert (
        "a.png has 60 x 40 pixels, more than 0.002399 million; make it smaller first, or raise --max-pixels"
        in refused.err
    )
    assert limited(tmp_path, "--max-pixels", 60 * 40, "--model", tiny_epsilon).code == 0
    monkeypatch.setenv("DIFFEDIT_MAX_PIXELS", "9")
    assert limited(tmp_path).code == 3
    assert limited(tmp_path, "--max-pixels", 0).code == 2


def test_max_pixels_allows_more_than_the_default(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_001)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="raise --max-pixels"):
        codecs.load(tmp_path / "large.png")
    assert codecs.load(tmp_path / "large.png", 20_000 * 10_001).size == (20_000, 10_001)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(InputError, match=r"sparse.png is larger than 1.67 GB, the limit of a picture"):
        codecs.load(tmp_path / "sparse.png")
    with open("/dev/zero") as zeros:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", zeros)
        with pytest.raises(InputError, match="Standard input is larger than"):
            files.read(files.STANDARD_STREAM, "picture", most=1000)


def test_memory_that_is_short_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "crop", full)
    with pytest.raises(DeviceError, match=r"too little memory to read the picture .*a.png"):
        codecs.load(picture(tmp_path / "a.png"))
