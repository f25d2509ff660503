"""Whatever a command writes, and whatever lies there or comes there: what is not its own stays, and an input always.

The writers are found in the declarations of the commands: a new option is in the tables here, or a test fails.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import FAST, WORDS, Ran, declared, diffedit, picture
from ldm import write_checkpoint
from PIL import Image

from diffedit_cli.engine.networks.batched_calls import Calls
from diffedit_cli.storage import atomic
from diffedit_cli.storage.files import REPLACED

# By option: the words that name a file, and the file that is then written.
WRITERS: dict[str, tuple[str, str]] = {
    "output": ("-o made/x{ending}", "made/x{ending}"),
    "depfile": ("-o x{ending} --depfile made/x.d", "made/x.d"),
    "profile": ("--profile made/x.json", "made/x.json"),
    "preview": ("--preview made/x.png", "made/x.png"),
    "overlay": ("--overlay made/x.png", "made/x.png"),
    "compare": ("--compare made/x.gif", "made/x.gif"),
    "mask_output": ("--mask-output made/x.png", "made/x.png"),
    "sheet": ("--variants 2 --sheet made/x.png", "made/x.png"),
    "frames": ("--frames made", "made/cat-001.png"),
    "save_embeds": ("--save-embeds made", "made/{prompt}.safetensors"),
}
OF_A_RUN: dict[str, tuple[tuple[str, str], ...]] = {
    "out": (("--out made", "made/cat.png"), ("--out made", "made/cat.mask.png")),
    "preview": (("--out o --preview made", "made/cat.preview.png"),),
    "frames": (("--out o --frames made", "made/cat-001.png"),),
    "save_embeds": (("--out o --save-embeds made", "made/to.safetensors"),),
}
ENDINGS = {"mask": ".png", "invert": ".safetensors", "edit": ".png"}
PROMPT = {"mask": "to", "invert": "caption", "edit": "to"}
# Written elsewhere, with tests of their own: the cache (test_cache.py), a model's folder, a run's page.
ELSEWHERE = {"cache_dir", "models save folder", "report folder"}
READ = {
    *("image", "images", "pictures", "sources", "mask", "latents", "within", "exclude", "lora", "embedding", "file"),
    *("from_embeds", "to_embeds", "caption_embeds", "negative_embeds", "from_negative_embeds", "to_negative_embeds"),
    *("model", "model_config", "text_encoder", "vae", "painter", "caption_model", "expand_model", "segmenter"),
}
NO_FILES = {  # words of other kinds
    *("from_", "to", "from_negative", "to_negative", "negative", "caption", "region", "mask_method", "box", "point"),
    *("preset", "scheduler", "seam", "device", "dtype", "offload", "quantize", "distilled", "name", "batch", "shard"),
    *("variant", "instruction", "cache_limit", "segment", "ray", "runtime", "serve", "progress"),
    "models pull name", "models use name", "models show name",
}  # fmt: skip


def parameters() -> Iterator[tuple[str, str]]:
    """Every parameter of every command that may name a file, behind the command's words."""
    for command, name, kind, _ in declared():
        if {Path, str} & {kind, *typing.get_args(kind)}:
            yield command, name


def test_every_parameter_reads_writes_or_names_no_file() -> None:
    known = {*WRITERS, *OF_A_RUN, *ELSEWHERE, *READ, *NO_FILES}
    for command, parameter in parameters():
        assert {parameter, f"{command} {parameter}"} & known, f"{command}: {parameter}"


def cases() -> Iterator[tuple[str, str, str]]:
    """Each command with each option by which it writes: command, words, file."""
    for command, name in parameters():
        if command == "run" and name in OF_A_RUN:
            for words, file in OF_A_RUN[name]:
                yield command, f"run cat.png other.png --from cat --to dog {words}", file
        elif command in ENDINGS and name in WRITERS:
            prompts = "" if command == "invert" else "--from cat --to dog"
            words, file = (text.format(ending=ENDINGS[command], prompt=PROMPT[command]) for text in WRITERS[name])
            yield command, f"{command} cat.png {prompts} {words}", file


CASES = [
    pytest.param(line, file, id=f"{line.split(' ')[0]} {file} {line.split(' --')[-1][:12]}")
    for _, line, file in cases()
]
ALL = pytest.mark.parametrize(("line", "file"), CASES)


def test_all_writers_of_all_commands_are_found() -> None:
    found = {(command, words.split(" ")[-2]) for command, words, _ in cases()}
    assert len(CASES) == len(found) + 1 == 25  # the mask of a run has no option


@pytest.fixture
def other(here: Path) -> Path:
    """Another picture of a run, and the folder into which all is written."""
    (here / "made").mkdir()
    return picture(here / "other.png", (41, 40))


def do(line: str, *more: object) -> Ran:
    return diffedit(*line.split(), *more)


def refused(ran: Ran, line: str) -> None:
    """It failed as the contract says, with a sentence."""
    assert ran.code in ((6, 8) if line.startswith("run") else (6,)), ran.err
    assert any(said.startswith("diffedit: ") for said in ran.lines)
    assert "Traceback" not in ran.err


@pytest.mark.thorough
@ALL
@pytest.mark.parametrize("link", ["hard", "symbolic"])
@pytest.mark.usefixtures("other")
def test_an_input_of_any_row_stays_even_with_force(here: Path, line: str, file: str, link: str) -> None:
    path = here / file
    for source in ("cat.png", "other.png") if line.startswith("run") else ("cat.png",):
        before = (here / source).read_bytes()
        path.symlink_to(here / source) if link == "symbolic" else path.hardlink_to(here / source)
        ran = do(line, "--force")
        refused(ran, line)
        assert "is also an input; inputs are never replaced" in ran.err
        assert (path.read_bytes(), (here / source).read_bytes()) == (before, before)
        assert path.samefile(here / source)
        path.unlink()


@pytest.mark.thorough
@ALL
@pytest.mark.parametrize("what", ["file", "link", "dangling link", "folder", "pipe"])
@pytest.mark.usefixtures("other")
def test_a_strangers_stays_without_force(here: Path, line: str, file: str, what: str) -> None:
    path, mine = here / file, here / "mine"
    mine.write_text("mine")
    {
        "file": lambda: path.write_text("mine"),
        "link": lambda: path.symlink_to(mine),
        "dangling link": lambda: path.symlink_to(here / "nothing"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }[what]()
    before = path.lstat()
    for more in ((), ("--force",) if what in ("folder", "pipe") else ()):
        refused(do(line, *more), line)
        assert (path.lstat().st_ino, path.lstat().st_mode, mine.read_text()) == (before.st_ino, before.st_mode, "mine")
    assert what != "file" or path.read_text() == "mine"
    assert not (here / "nothing").exists()


def during(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something is done while the model works, once."""
    ask, done = Calls.ask, []

    def asked(*given: object, **more: object) -> object:
        if not done:
            done.append(act())
        return ask(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Calls, "ask", asked)


@pytest.mark.thorough
@ALL
@pytest.mark.usefixtures("other")
def test_what_comes_while_it_works_stays_and_what_is_its_own_is_replaced(
    here: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str
) -> None:
    path = here / file
    with monkeypatch.context() as patch:
        during(patch, lambda: path.write_text("mine"))
        ran = do(line)
    refused(ran, line)
    assert path.read_text() == "mine"
    ran = do(line, "--force")
    assert ran.code == 0, ran.err
    own = path.read_bytes()
    assert own != b"mine"
    ran = do(line, "--seed", 1)
    assert ran.code == 0, ran.err
    changed = path.read_bytes() + b"mine"
    path.write_bytes(changed)  # and keeps the record that it had
    refused(do(line, "--seed", 2), line)
    assert path.read_bytes() == changed


@pytest.mark.thorough
@ALL
@pytest.mark.usefixtures("other")
def test_a_full_disk_leaves_nothing_of_it(here: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str) -> None:
    path, make = here / file, atomic._make_file

    def full(dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
        if prefix.startswith(f".{path.name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make(dir, prefix, suffix)

    monkeypatch.setattr(atomic, "_make_file", full)
    ran = do(line)
    refused(ran, line)
    assert "No space left" in ran.err
    assert not path.exists()
    assert not list(path.parent.glob(".*"))


# What a run writes beside


@pytest.mark.parametrize("what", ["foreign", "link", "folder", "pipe", "job file"])
def test_results_are_only_added_to_a_file_of_ours(here: Path, what: str) -> None:
    (here / "out").mkdir()
    path, mine, source = here / "out" / "results.jsonl", here / "mine", "cat.png"
    mine.write_text("mine")
    if what == "job file":
        path.write_text(json.dumps({"input": "cat.png", "status": "failed"}) + "\n")
        source = "out/results.jsonl"
    else:
        {
            "foreign": lambda: path.write_text("mine"),
            "link": lambda: path.symlink_to(mine),
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
        }[what]()
    before = path.lstat()
    for more in ((), ("--force",)):
        ran = diffedit("run", source, *WORDS, "--out", "out", *more)
        assert ran.code == 6, ran.err
        assert "results.jsonl" in ran.lines[-1]
        assert (path.lstat().st_ino, path.lstat().st_size, mine.read_text()) == (before.st_ino, before.st_size, "mine")


@pytest.mark.parametrize("command", ["run", "report"])
@pytest.mark.parametrize("name", ["index.html", "thumbnails"])
def test_a_page_of_somebody_elses_stays(here: Path, command: str, name: str) -> None:
    words = ("run", "cat.png", *WORDS, "--out", "out")
    assert diffedit(*words).code == 0
    path = here / "out" / name
    path = next(path.iterdir()) if path.is_dir() else path
    changed = path.read_bytes() + b"mine"
    path.write_bytes(changed)
    os.utime(path, (1, 1))
    ran = diffedit(*(words if command == "run" else ("report", "out")))
    assert path.read_bytes() == changed
    assert ran.code == (6 if (command, name) == ("report", "index.html") else 0), ran.err
    assert name != "index.html" or "was changed since diffedit made it" in ran.err


def test_a_model_folder_that_holds_an_input_or_comes_meanwhile_stays(
    here: Path, monkeypatch: pytest.MonkeyPatch, tiny_epsilon: Path
) -> None:
    from diffedit_cli.models.folder import ModelFolder

    files = ModelFolder.files

    def late(model: ModelFolder) -> Iterator[Path]:
        (here / "saved").mkdir(exist_ok=True)
        (here / "saved" / "notes.txt").write_text("mine")
        return files(model)

    with monkeypatch.context() as patch:
        patch.setattr(ModelFolder, "files", late)
        ran = diffedit("models", "save", "saved", "--model", tiny_epsilon)
    assert ran.code == 6, ran.err
    assert (here / "saved" / "notes.txt").read_text() == "mine"
    assert [path.name for path in (here / "saved").iterdir()] == ["notes.txt"]
    assert diffedit("models", "save", "model", "--model", tiny_epsilon).code == 0
    ran = diffedit("models", "save", "model", "--model", "model", "--force")
    assert ran.code == 6, ran.err
    ran = diffedit("models", "save", "model", "--model", here / "model" / "unet" / "..", "--force")
    assert ran.code == 6, ran.err
    assert (here / "model" / "model_index.json").is_file()


def test_the_name_that_a_replaced_folder_has_for_a_moment_is_not_taken(here: Path, tiny_epsilon: Path) -> None:
    between = here / f"saved{REPLACED}"
    between.mkdir()
    (between / "notes.txt").write_text("mine")
    for _ in range(2):
        ran = diffedit("models", "save", "saved", "--model", tiny_epsilon, "--force")
        assert ran.code == 6
        assert f"saved{REPLACED} is in the way" in ran.err
    assert (between / "notes.txt").read_text() == "mine"
    assert not (here / "saved").exists()


def test_a_saved_model_takes_nothing_of_anyones_with_it(here: Path, tiny_epsilon: Path) -> None:
    """Neither what lies in the folder that it replaces, nor the folder that a killed command left beside it."""
    words = ("models", "save", "saved", "--model", tiny_epsilon)
    assert diffedit(*words).code == 0
    for name in ("notes.txt", "unet/notes.md", "photos/a.png"):
        mine = here / "saved" / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        assert "saved holds something other than a saved model" in diffedit(*words, "--force").err
        assert mine.read_text() == "mine"
        mine.unlink()
    (here / "saved").rename(here / f"saved{REPLACED}")
    assert f"saved{REPLACED} is in the way" in diffedit(*words).err
    assert (here / f"saved{REPLACED}" / "model_index.json").is_file()
    assert diffedit(*words, "--force").code == 0


def settings_and_parts(here: Path, model: Path) -> dict[str, Path]:
    """Files that are read though no option names them."""
    shutil.copytree(model, here / "m")
    (here / "diffedit.toml").write_text("steps = 5\n")
    checkpoint = write_checkpoint(model, here / "sd.safetensors", "sd15")
    checkpoint.with_suffix(".yaml").write_text("model: {}\n")
    return {
        "settings": here / "diffedit.toml",
        "part of a model": here / "m" / "tokenizer" / "tokenizer_config.json",
        "checkpoint": checkpoint,
        "beside a checkpoint": checkpoint.with_suffix(".yaml"),
    }


@pytest.mark.parametrize("what", ["settings", "part of a model", "checkpoint", "beside a checkpoint"])
def test_what_is_read_though_no_option_names_it_is_an_input(here: Path, tiny_epsilon: Path, what: str) -> None:
    read = settings_and_parts(here, tiny_epsilon)
    before = read[what].read_bytes()
    words = ("edit", "cat.png", "--model", "sd.safetensors", "--model-config", "m", *WORDS, "-o", "out.png")
    ran = diffedit(*words, "--depfile", read[what], "--force")
    assert ran.code == 6, ran.err
    assert "is also an input" in ran.err
    assert read[what].read_bytes() == before
    assert diffedit(*words, "--depfile", "out.d").code == 0
    rule = (here / "out.d").read_text().splitlines()[0]
    assert all(path.name in rule for path in read.values())


@pytest.mark.parametrize("option", ["mask", "within", "exclude"])
@pytest.mark.parametrize("extra", [("--force",), ("--dry-run",)], ids=" ".join)
def test_no_row_replaces_what_an_option_gives_to_another(here: Path, option: str, extra: tuple[str, ...]) -> None:
    """Of a job file the rows are read as they come; the option's files are known before."""
    names = [f"{letter}.png" for letter in "abcdefgh"]
    (here / "out").mkdir()
    for name in names:
        picture(here / name)
        Image.new("L", (60, 40), 255).save(here / "out" / f"m-{name}")
    before = (here / "out" / "m-h.png").read_bytes()
    rows = [f"{name},{'m-h.png' if name == 'a.png' else f'z{name}'}" for name in names]
    (here / "jobs.csv").write_text("\n".join(["input,output", *rows]))
    words = ("run", "jobs.csv", "--from", "cat", "--to", "dog", f"--{option}", "out/m-{stem}.png", "--out", "out")
    ran = diffedit(*words, *FAST, *extra)
    assert ran.code == 8, ran.err
    assert "m-h.png is also an input" in ran.err
    assert (here / "out" / "m-h.png").read_bytes() == before


@pytest.mark.parametrize("source", ["rows.csv", "rows.jsonl"])
def test_a_row_that_is_read_later_is_not_replaced_before(here: Path, source: str) -> None:
    """Also where it lies in the output folder, and the rows are only read as they come."""
    (here / "out").mkdir()
    later = picture(here / "out" / "cat-dog.png", (41, 40))
    before = later.read_bytes()
    rows = ({"input": "cat.png", "steps": "4"}, {"input": "out/cat-dog.png", "steps": "4"})
    csv = "input,steps\n" + "".join(f"{row['input']},{row['steps']}\n" for row in rows)
    (here / source).write_text(csv if source.endswith("csv") else "".join(json.dumps(row) + "\n" for row in rows))
    ran = diffedit("run", source, *WORDS, "--out", "out", "--name", "{stem}-{to}{ext}", "--force", "--json")
    assert ran.code == 8
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert (first["error"]["code"], second["status"]) == (6, "done")
    assert later.read_bytes() == before
