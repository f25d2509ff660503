"""The program as people and scripts use it: its outputs, its streams, its settings, and its codes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import FAST, HINTS, WORDS, Ran, diffedit, finished, installed, picture, started
from PIL import Image

from diffedit_cli import __version__

KEYS = [
    "status", "error", "input", "output", "outputs", "digests", "mask", "mask_area", "region", "evidence", "preview",
    "model", "painter", "device", "seed", "evaluations", "cache", "seconds", "warnings", "from", "to", "identity",
    "ended",
]  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(data: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.asarray(image.convert("RGB"))


# the installed program


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> tuple[Path, list[Ran]]:
    """A folder, and what two edits with the same empty cache, started at once, did in it."""
    folder = tmp_path_factory.mktemp("installed")
    words = ("edit", picture(folder / "cat.png"), *WORDS, *FAST, "--model", tiny_epsilon, "--json")
    cache = ("--cache-dir", folder / "cache")
    running = [started(*words, *cache, "-o", folder / f"{number}.png") for number in range(2)]
    return folder, [finished(process) for process in running]


@pytest.mark.thorough
def test_json_holds_the_contracts_keys_and_nothing_else_is_on_standard_output(alone: tuple[Path, list[Ran]]) -> None:
    folder, (ran, other) = alone
    found = ran.json
    assert list(found) == KEYS
    assert (found["status"], found["error"], ran.warnings) == ("done", None, [])
    assert (found["input"], found["output"]) == (str(folder / "cat.png"), str(folder / "0.png"))
    assert found["outputs"] == [found["output"]]
    assert (found["device"], found["seed"]) == ("cpu", 0)
    assert 0 < found["mask_area"] < 1
    assert set(found["evaluations"]) == set(found["cache"]) == {"mask", "invert", "edit"}
    loaded = {time for run in (ran, other) for time in run.json["seconds"]} - {"mask", "invert", "edit"}
    assert loaded == {"load"}, "whichever of the two waits for the other's results need not load a model"
    assert set(found["seconds"]) - {"load"} == {"mask", "invert", "edit"}
    assert ran.out.count(b"\n") == 1


@pytest.mark.thorough
def test_progress_is_plain_lines_on_standard_error(alone: tuple[Path, list[Ran]], tiny_epsilon: Path) -> None:
    """Whatever one of the two does, the other need not do."""
    folder, runs = alone
    hints = tuple(f"warning: {hint}" for hint in HINTS)
    told = [[line for line in ran.lines if not line.startswith(hints)] for ran in runs]
    stages = {"finding the mask (up to 2 maps)", "inverting (4 steps)", "repainting (4 steps)"}
    assert {line for *progress, _ in told for line in progress} == stages
    for number, (ran, (*_, last)) in enumerate(zip(runs, told, strict=True)):
        assert last.startswith(f"{folder / f'{number}.png'}  {100 * ran.json['mask_area']:.1f} % masked")
        assert last.endswith(f" s · {tiny_epsilon} on cpu")


def test_two_processes_with_one_cache_agree(alone: tuple[Path, list[Ran]]) -> None:
    folder, runs = alone
    assert [ran.code for ran in runs] == [0, 0]
    assert [ran.warnings for ran in runs] == [[], []]
    assert (folder / "0.png").read_bytes() == (folder / "1.png").read_bytes()
    assert len(list((folder / "cache").rglob("*.safetensors"))) == 7
    assert not list(folder.rglob("*.part"))


def test_a_pipe_gives_the_bytes_of_the_file_run(here: Path) -> None:
    """Standard input to standard output, in a process of its own: not one byte of anything else."""
    assert diffedit("mask", "cat.png", *WORDS).code == 0
    words = [sys.executable, "-m", "diffedit_cli", "mask", "-", *WORDS]
    ended = subprocess.run(words, input=(here / "cat.png").read_bytes(), capture_output=True, check=True)
    assert ended.stdout == (here / "cat.mask.png").read_bytes()
    assert ended.stderr.decode().splitlines()[-1].startswith("standard output  ")


INTERRUPTED_EARLY = """
import sys
from diffedit_cli import __main__
class Press:
    def find_spec(self, name, *_):
        if name == "diffedit_cli.cli.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Press())
sys.argv = ["diffedit", "--version"]
__main__.main()
"""


def test_ctrl_c_before_the_program_has_been_read_is_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_EARLY], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "diffedit: Interrupted; finished results are kept.\n"


@pytest.mark.thorough
def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing_torn(here: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(here / name)
    words = ("run", "a.png", "b.png", *WORDS, "--steps", 30, "--maps", 8, "--no-cache", "--out", "out")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs hand on that they ignore it
    try:
        running = started(*words, folder=here)
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stderr is not None
    said = b""
    while said.count(b"inverting") < 2:
        line = running.stderr.readline()
        assert line, said
        said += line
    running.send_signal(signal.SIGINT)
    while b"press Ctrl-C again" not in running.stderr.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    ran = finished(running)
    assert ran.code == 130
    assert ran.lines[-1] == "diffedit: Interrupted; finished results are kept."
    assert "Traceback" not in ran.err
    assert names(here / "out") == ["a.mask.png", "a.png", "results.jsonl"]
    assert pixels(here / "out" / "a.png").shape == (40, 60, 3)
    assert json.loads((here / "out" / "results.jsonl").read_text())["input"] == "a.png"


def test_the_version() -> None:
    ran = installed("--version")
    assert (ran.code, ran.out.decode(), ran.err) == (0, f"diffedit {__version__}\n", "")


# names of outputs, and streams


def test_each_command_writes_beside_its_input(here: Path) -> None:
    picture(here / "dog.jpg")
    for words, output in (
        (("mask", "cat.png", *WORDS), "cat.mask.png"),
        (("invert", "cat.png"), "cat.latents.safetensors"),
        (("edit", "cat.png", *WORDS), "cat.edited.png"),
        (("edit", "dog.jpg", *WORDS), "dog.edited.jpg"),
        (("edit", "dog.jpg", *WORDS, "-o", "chosen.webp"), "chosen.webp"),
    ):
        before = names(here)
        ran = diffedit(*words, "--json")
        assert ran.code == 0, ran.err
        assert ran.json["output"] == output
        assert names(here) == sorted([*before, output])


def test_edit_takes_several_pictures(here: Path) -> None:
    picture(here / "dog.png", (40, 60))
    ran = diffedit("edit", "cat.png", "dog.png", *WORDS, "--json")
    assert [json.loads(line)["output"] for line in ran.out.splitlines()] == ["cat.edited.png", "dog.edited.png"]


def test_edit_reads_and_writes_standard_streams(here: Path) -> None:
    given = (here / "cat.png").read_bytes()
    assert diffedit("edit", "cat.png", *WORDS).code == 0
    expected = (here / "cat.edited.png").read_bytes()
    before = names(here)
    assert diffedit("edit", "-", *WORDS, given=given).out == expected
    assert diffedit("edit", "cat.png", *WORDS, "-o", "-").out == expected
    assert names(here) == before
    assert diffedit("edit", "-", *WORDS, "-o", "out.png", given=given).out == b""
    assert (here / "out.png").read_bytes() == expected


def test_a_mask_from_standard_input_is_used(here: Path) -> None:
    diffedit("mask", "cat.png", *WORDS)
    diffedit("edit", "cat.png", *WORDS)
    mask = (here / "cat.mask.png").read_bytes()
    ran = diffedit("edit", "cat.png", *WORDS, "--mask", "-", "-o", "-", given=mask)
    assert (pixels(ran.out) == pixels(here / "cat.edited.png")).all()


@pytest.mark.usefixtures("here")
def test_quiet_says_only_errors() -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert len(diffedit("edit", "missing.png", *WORDS, "-q").lines) == 1


# overwriting


def test_only_our_own_files_are_replaced(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS).code == 0
    assert diffedit("edit", "cat.png", *WORDS).code == 0
    for output, words in (
        ("cat.mask.png", ("mask", "cat.png", *WORDS)),
        ("cat.latents.safetensors", ("invert", "cat.png")),
        ("cat.edited.png", ("edit", "cat.png", *WORDS)),
    ):
        (here / output).write_bytes(b"mine")
        refused = diffedit(*words)
        assert refused.code == 6
        assert f"{output} exists, and nothing shows that diffedit made it" in refused.err
        assert (here / output).read_bytes() == b"mine"
        assert diffedit(*words, "--force").code == 0
        assert (here / output).read_bytes() != b"mine"
        assert diffedit(*words).code == 0


@pytest.mark.usefixtures("here")
def test_latents_are_known_as_ours_under_any_name() -> None:
    for _ in range(2):
        assert diffedit("invert", "cat.png", "-o", "kept.bin").code == 0
    assert "diffedit invert" in diffedit("info", "kept.bin").out.decode()
    assert diffedit("edit", "cat.png", *WORDS, "--latents", "kept.bin").code == 0


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_the_input_is_safe_behind_a_link(here: Path, link: str) -> None:
    getattr(here / "link.png", link)(here / "cat.png")
    before = (here / "cat.png").read_bytes()
    ran = diffedit("edit", "cat.png", *WORDS, "-o", "link.png", "--force")
    assert ran.code == 6
    assert (here / "cat.png").read_bytes() == before


# run


def test_run_edits_a_folder(here: Path) -> None:
    folder = here / "photos"
    folder.mkdir()
    picture(folder / "a.png")
    picture(folder / "b.jpg", (40, 60))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    exactly = (*WORDS, "--room", "0")
    assert diffedit("edit", folder / "a.png", *exactly).code == 0
    assert diffedit("mask", folder / "a.png", *WORDS).code == 0
    ran = diffedit("run", folder, *exactly, "--out", "out", "--json")
    assert ran.code == 8
    assert names(here / "out") == [
        "a.mask.png",
        "a.png",
        "b.jpg",
        "b.jpg.mask.png",
        "index.html",
        "results.jsonl",
        "thumbnails",
    ]
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert [Path(result["input"]).name for result in results] == ["a.png", "b.jpg", "broken.png"]
    assert [result["status"] for result in results] == ["done", "done", "failed"]
    assert all(list(result) == [*KEYS, "progress"] for result in results)
    assert results[2]["error"]["code"] == 3
    assert "broken.png" in results[2]["error"]["message"]
    kept = [json.loads(line) for line in (here / "out" / "results.jsonl").read_text().splitlines()]
    assert kept == [{name: value for name, value in result.items() if name != "progress"} for result in results]
    assert (here / "out" / "a.png").read_bytes() == (folder / "a.edited.png").read_bytes()
    assert (pixels(here / "out" / "a.mask.png") == pixels(folder / "a.mask.png")).all()
    assert results[0]["mask"] == str(Path("out") / "a.mask.png")


@pytest.mark.usefixtures("here")
def test_one_failure_alone_keeps_its_own_code() -> None:
    assert diffedit("run", "missing.png", *WORDS, "--out", "out").code == 3
    assert diffedit("run", "missing.png", "cat.png", *WORDS, "--out", "out").code == 8


@pytest.mark.parametrize("second", ["other/cat.png", "cat.gif", "cat.mask.png", "cat.png"])
def test_two_pictures_of_one_name_are_refused_before_any_work(here: Path, second: str) -> None:
    (here / "other").mkdir()
    if second != "cat.png":
        picture(here / second)
    ran = diffedit("run", "cat.png", second, *WORDS, "--out", "out")
    assert ran.code == 2
    assert ("cat.png is named twice" if second == "cat.png" else "would both write") in ran.err
    assert not (here / "out").exists()


def test_run_into_the_source_folder_changes_nothing(here: Path) -> None:
    before = (here / "cat.png").read_bytes()
    assert diffedit("run", ".", *WORDS, "--out", ".", "--force").code == 6
    assert (here / "cat.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "inputs"),
    [
        (("edit", "cat.png", *WORDS, "--model", "nonesuch"), 4, ["cat.png"]),
        (("mask", "cat.png", *WORDS, "--steps", 0), 2, ["cat.png"]),
        (("edit", "cat.png", "dog.png", *WORDS, "-o", "x.png"), 2, ["cat.png", "dog.png"]),
        (("invert", "cat.png", "--dtype", "int8"), 2, ["cat.png"]),
        (("run", ".", *WORDS, "--model", "nonesuch", "--out", "out"), 4, ["cat.png", "dog.png"]),
        (("edit", "cat.png", *WORDS, "--painter", "nonesuch"), 4, ["cat.png"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_fails_before_the_first_picture_is_json_too(
    here: Path, words: tuple[object, ...], code: int, inputs: list[str]
) -> None:
    """One object a picture, and the sentence on standard error once."""
    picture(here / "dog.png")
    ran = diffedit(*words, "--json")
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == code
    assert [result["input"] for result in results] == inputs
    assert {result["status"] for result in results} == {"failed"}
    assert all(list(result) == KEYS for result in results)
    assert [f"diffedit: {result['error']['message']}" for result in results] == ran.lines * len(inputs)
    assert {result["error"]["code"] for result in results} == {code}
