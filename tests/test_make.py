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
from command import WORDS, diffedit, picture

from diffedit_cli.cache import Cache
from diffedit_cli.made import rule

EXAMPLES = Path(__file__).parent.parent / "examples"
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


def test_a_rule_escapes_what_make_would_read() -> None:
    said = rule([Path("a b.png")], [Path("c#d$e%.png"), Path("f:g.png")])
    assert said == "a\\ b.png: c\\#d$$e\\%.png f\\:g.png\nc\\#d$$e\\%.png:\nf\\:g.png:\n"


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
        "import sys, time; from pathlib import Path; from diffedit_cli.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "with cache.alone('abc'):\n"
        "    if cache.find('kind', 'abc') is None:\n"
        "        time.sleep(0.5); cache.store('kind', 'abc', b'x'); print('made')\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert sorted(one.communicate()[0] for one in running) == [b"", b"", b"made\n"]


def test_where_no_lock_can_be_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("in the way")
    with Cache(tmp_path).alone("abc"):
        assert Cache(tmp_path).find("kind", "abc") is None


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


def test_the_pipeline_of_the_examples_uses_one_inversion_for_several_edits(here: Path) -> None:
    done = subprocess.run(
        [EXAMPLES / "pipeline.sh", "cat.png", "cat", "dog", "a cow"],
        cwd=here, env={**os.environ, "PATH": ENVIRONMENT_PATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (here / "cat.results.jsonl").read_text().splitlines()]
    assert [result["output"] for result in results] == ["cat.dog.png", "cat.a-cow.png"]
    assert all(result["evaluations"]["invert"] == result["evaluations"]["mask"] == 0 for result in results)
