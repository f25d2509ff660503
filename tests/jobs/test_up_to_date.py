"""At home in Makefiles: what is up to date costs no edit, rules say what it depends on, processes share the work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import EXAMPLES
from command import WORDS, diffedit, picture

from diffedit_cli.errors import UsageError
from diffedit_cli.jobs.depfile import rule
from diffedit_cli.storage.cache import Cache

ENVIRONMENT_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


# Up to date


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("mask", *WORDS), ("invert",), ("edit", *WORDS), ("edit", *WORDS, "-o", "x.webp")])
def test_what_is_there_from_the_same_is_only_touched(words: tuple[str, ...]) -> None:
    first = diffedit(words[0], "cat.png", *words[1:], "--json").json
    output = Path(first["output"])
    os.utime(output, (1, 1))
    before = output.read_bytes()
    again = diffedit(words[0], "cat.png", *words[1:], "--json")
    assert (again.code, again.json["status"], again.json["output"]) == (0, "skipped", first["output"])
    assert again.json["evaluations"] == {}
    assert output.read_bytes() == before
    assert output.stat().st_mtime > time.time() - 100
    assert diffedit(words[0], "cat.png", *words[1:], "--json", "--force").json["status"] == "done"


def test_what_changed_is_made_again(here: Path) -> None:
    def status(*words: object) -> str:
        return str(diffedit("edit", "cat.png", *WORDS, *words, "--json").json["status"])

    assert status() == "done"
    assert status("--seed", 5) == "done"
    assert status("--seed", 5) == "skipped"
    picture(here / "cat.png", (61, 40))
    assert status("--seed", 5) == "done"
    written = (here / "cat.edited.png").read_bytes()
    (here / "cat.edited.png").write_bytes(written + b"changed by hand")
    ran = diffedit("edit", "cat.png", *WORDS, "--seed", 5)
    assert ran.code == 6
    assert "cat.edited.png was changed since diffedit made it" in ran.err
    assert (here / "cat.edited.png").read_bytes() == written + b"changed by hand"
    assert status("--seed", 5, "--force") == "done"
    assert (here / "cat.edited.png").read_bytes() == written
    (here / "cat.edited.png").unlink()
    assert status("--seed", 5) == "done"
    for note in (here / os.environ["DIFFEDIT_CACHE_DIR"] / "made").iterdir():
        note.write_text("no note")
    assert status("--seed", 5) == "done"
    assert status("--seed", 5, "--no-cache") == "done"
    assert status("--seed", 5, "--preview", "shown.png") == "done"


@pytest.mark.usefixtures("here")
def test_another_command_of_the_same_output_is_another() -> None:
    assert diffedit("mask", "cat.png", *WORDS, "-o", "x.png").code == 0
    assert diffedit("edit", "cat.png", *WORDS, "-o", "x.png", "--json").json["status"] == "done"


# Rules


MIDDLES = [letter for letter in map(chr, [*range(1, 128), 128, 160, 233]) if letter != "/" and not letter.isalnum()]
NAMES = [
    *(f"a{middle}b.png" for middle in MIDDLES),
    *(f"{first}b.png" for first in MIDDLES),
    *(f"a{last}" for last in MIDDLES),
    *(
        "100%.png",
        "a%b%c",
        "~root",
        "a = b",
        "a := b",
        "$(touch MADE)",
        "`touch MADE`",
        "a\\ b",
        "a\\%b",
        "a\\\\b",
        "export",
    ),
    *(
        "\n\ttouch\tMADE\n\ttrue\t.png",
        "\ttouch MADE",
        "a;touch MADE",
        "a|b&c=d?e*[f].png",
        "x\n>pwned\n.json",
        "\udce9.png",
    ),
]


def make(name: str) -> subprocess.CompletedProcess[bytes]:
    words = ["make", "-f", "M", "--", name]
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(words, capture_output=True, check=False, env={**outside, "LC_ALL": "C"})


def spelled(target: str, source: str) -> bytes | None:
    """The rule; None for a name that Make has no spelling for."""
    try:
        return rule([Path(target)], [Path(source)])
    except UsageError:
        assert {*target, *source} & {*map(chr, range(32)), *"\\; )\u00a0"}
        return None


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_make_reads_each_name_as_it_is_or_is_not_told_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = spelled("out", name)
    if said is None:
        return
    Path("M").write_bytes(b"out: ; @echo REMADE; touch out\n" + said)
    for path in (name, "out"):
        Path(path).touch()
    os.utime(name, (1, 1))
    assert b"up to date" in make("out").stdout
    os.utime("out", (1, 1))
    os.utime(name, (100, 100))
    assert b"REMADE" in make("out").stdout
    Path(name).unlink()
    assert make("out").returncode == 0  # it may go away
    assert not Path("MADE").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name[0] not in "-=~"], ids=ascii)  # else no goal for Make
def test_make_makes_what_has_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = spelled(name, "source")
    if said is None:
        return
    Path("M").write_bytes(said.split(b"\n")[0] + b"\n\t@echo REMADE\n")
    for path in (name, "source"):
        Path(path).touch()
    os.utime("source", (1, 1))
    assert b"up to date" in make(name).stdout
    os.utime(name, (1, 1))
    os.utime("source", (100, 100))
    assert make(name).stdout == b"REMADE\n"
    assert not Path("MADE").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["100%.png", "caf\udce9.png", "a=b c.png"])
def test_a_depfile_names_any_picture(name: str) -> None:
    Path("cat.png").rename(name)
    assert diffedit("mask", name, *WORDS, "-o", "out.png", "--depfile", "out.d").code == 0
    Path("M").write_text("out.png: ; @echo REMADE; touch out.png\ninclude out.d\n")
    os.utime("out.png", (1, 1))
    assert b"REMADE" in make("out.png").stdout


def test_a_name_that_make_cannot_have_is_refused_before_any_work(here: Path, copy: Path) -> None:
    words = ("mask", "cat.png", *WORDS, "-o", "out.png", "--depfile", "out.d")
    (copy / "unet" / "x\n>pwned\n.json").write_text("{}")
    ran = diffedit(*words, "--model", copy)
    assert ran.code == 2
    assert "--depfile cannot name" in ran.err
    assert not [name for name in ("out.png", "out.d") if (here / name).exists()]


def test_a_depfile_names_all_that_was_read(here: Path, tiny_epsilon: Path) -> None:
    assert diffedit("mask", "cat.png", *WORDS, "-o", "m.png").code == 0
    assert diffedit("edit", "cat.png", *WORDS, "--mask", "m.png", "-o", "x.png", "--depfile", "x.d").code == 0
    first = (here / "x.d").read_text().splitlines()[0]
    assert first.startswith("x.png: cat.png m.png ")
    assert str(tiny_epsilon / "unet" / "config.json") in first
    assert diffedit("edit", "cat.png", *WORDS, "--mask", "m.png", "-o", "x.png", "--depfile", "y.d").code == 0
    assert (here / "y.d").read_text() == (here / "x.d").read_text()


@pytest.mark.parametrize("words", [("cat.png", "dog.png"), ("-",), ("cat.png", "-o", "-")])
def test_a_depfile_goes_with_one_picture_of_files(here: Path, words: tuple[str, ...]) -> None:
    picture(here / "dog.png")
    ran = diffedit("edit", *words, *WORDS, "--depfile", "x.d", given=(here / "cat.png").read_bytes())
    assert ran.code == 2
    assert "--depfile" in ran.err


# Together


def test_two_processes_do_not_make_the_same_entry(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from diffedit_cli.storage.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "with cache.exclusively('abc'):\n"
        "    if cache.find('kind', 'abc') is None:\n"
        "        time.sleep(0.5); cache.store('kind', 'abc', b'x'); print('made')\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert sorted(one.communicate()[0] for one in running) == [b"", b"", b"made\n"]


def test_where_no_lock_can_be_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("in the way")
    with Cache(tmp_path).exclusively("abc"):
        assert Cache(tmp_path).find("kind", "abc") is None


@pytest.mark.thorough
def test_the_makefile_of_the_examples_does_each_picture_once(here: Path) -> None:
    shutil.copy(EXAMPLES / "Makefile", here)
    (here / "photos").mkdir()
    for number in range(3):
        picture(here / "photos" / f"{number}.png", (40 + number, 40))

    def make(*words: str) -> str:
        environment = {**os.environ, "PATH": ENVIRONMENT_PATH, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["make", "-j2", *words], cwd=here, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert make().count("diffedit edit") == 3
    edited = {path: path.read_bytes() for path in (here / "edited").glob("*.png")}
    assert len(edited) == 3
    assert "Nothing to be done" in make()
    (here / "photos" / "1.png").touch()
    assert make().count("diffedit edit") == 1
    assert {path: path.read_bytes() for path in (here / "edited").glob("*.png")} == edited


@pytest.mark.thorough
def test_the_pipeline_of_the_examples_uses_one_inversion_for_several_edits(here: Path) -> None:
    done = subprocess.run(
        [EXAMPLES / "pipeline.sh", "cat.png", "cat", "dog", "a cow"],
        cwd=here, env={**os.environ, "PATH": ENVIRONMENT_PATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (here / "cat.results.jsonl").read_text().splitlines()]
    assert [result["output"] for result in results] == ["cat.dog.png", "cat.a-cow.png"]
    assert all(result["evaluations"]["invert"] == result["evaluations"]["mask"] == 0 for result in results)
