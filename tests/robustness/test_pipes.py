"""A pipe in place of any file that is read: it is said, or passed over, and nobody waits for what it may bring."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import FAST, INSTALLED, WORDS, diffedit

LIMIT = 300  # seconds: on a busy machine an edit may take a minute


@pytest.fixture(autouse=True)
def _here(here: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder with a model, an old run and a picture; whoever waits in it is interrupted."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "config"))
    shutil.copytree(tiny_epsilon, here / "model")
    (here / "old" / "thumbnails").mkdir(parents=True)
    (here / "old" / "results.jsonl").write_text(json.dumps({"status": "failed", "input": "none.png"}) + "\n")

    def late(*_: object) -> None:
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).unlink(missing_ok=True)
    os.mkfifo(path)


EDIT = ("edit", "cat.png", *WORDS)
IN_MODEL = [
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"),
    *("scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors"),
    *("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"),
]
READ = [
    (3, "p.png", ("edit", "p.png", *WORDS)),
    (3, "p.png", ("mask", "p.png", *WORDS)),
    (3, "p.png", ("invert", "p.png")),
    (3, "p.png", ("info", "p.png")),
    (3, "p.png", ("run", "p.png", *WORDS, "--out", "out")),
    (3, "in/p.png", ("run", "in", *WORDS, "--out", "out")),
    (3, "in/p.png", ("run", "in/*.png", *WORDS, "--out", "out")),
    *((3, f"p{ending}", ("run", f"p{ending}", *WORDS, "--out", "out")) for ending in (".csv", ".jsonl", ".toml")),
    *((3, "p.png", (*EDIT, option, "p.png")) for option in ("--mask", "--within", "--exclude")),
    (3, "p.safetensors", (*EDIT, "--latents", "p.safetensors")),
    (3, "p.safetensors", ("edit", "cat.png", "--to", "dog", "--from-embeds", "p.safetensors")),
    (4, "p.safetensors", (*EDIT, "--lora", "p.safetensors")),
    (4, "p.safetensors", (*EDIT, "--embedding", "p.safetensors")),
    (4, "p.safetensors", (*EDIT, "--model", "p.safetensors")),
    *((4, f"model/{name}", ("models", "show", "model")) for name in IN_MODEL),
    *((4, f"model/{name}", (*EDIT, "--model", "model")) for name in IN_MODEL),
    (6, "cat.edited.png", EDIT),
    (6, "out/results.jsonl", ("run", "cat.png", *WORDS, "--out", "out")),
    (6, "out/results-1-of-2.jsonl", ("run", "cat.png", *WORDS, "--out", "out")),
    (3, "old/results.jsonl", ("report", "old")),
    (3, "old/results-2-of-3.jsonl", ("report", "old")),
    (6, "old/index.html", ("report", "old")),
    (6, "old/index.html", ("report", "old", "--force")),
    (2, "config/diffedit/diffedit.toml", ("models", "use", "builtin")),
]


@pytest.mark.parametrize(("code", "path", "words"), READ, ids=lambda value: str(value)[:60])
def test_a_pipe_is_said(code: int, path: str, words: tuple[str, ...]) -> None:
    pipe(path)
    ran = diffedit(*words)
    assert ran.code == code or (code == 2 and ran.code == 6), ran.err
    assert "should not" not in ran.err
    assert "TimeoutError" not in ran.err
    assert len([line for line in ran.lines if line.startswith("diffedit: ")]) == 1, ran.err
    assert Path(path).is_fifo()


def test_small_pictures_and_settings_that_are_pipes_are_passed_over() -> None:
    Path("old/results.jsonl").write_text(json.dumps({"status": "done", "input": "cat.png", "output": "cat.png"}) + "\n")
    assert diffedit("report", "old").code == 0
    (small,) = Path("old/thumbnails").iterdir()
    small.unlink()
    Path("cat.png").unlink()
    pipe(small)
    pipe("diffedit.toml")
    pipe("config/diffedit/diffedit.toml")
    assert diffedit("report", "old").code == 0
    assert diffedit("models", "list").code == 0


def test_what_is_kept_is_made_again_where_pipes_stand_in_its_place() -> None:
    assert diffedit(*EDIT, *FAST).code == 0
    made = Path("cat.edited.png").read_bytes()
    kept = [path for path in Path(os.environ["DIFFEDIT_CACHE_DIR"]).rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} >= {".safetensors", ".json"}
    for path in kept:
        pipe(path)
    ran = diffedit(*EDIT, *FAST)
    assert ran.code == 0, ran.err
    assert Path("cat.edited.png").read_bytes() == made


def test_a_terminal_as_standard_input_is_said_at_once() -> None:
    person, program = pty.openpty()
    ran = subprocess.run([INSTALLED, "edit", "-", *WORDS, *FAST], stdin=program, capture_output=True, check=False)
    os.close(program)
    os.close(person)
    assert ran.returncode == 3
    assert b"Standard input is a terminal; send a picture to it" in ran.stderr
