"""Whatever people give it: the contract's exit code, one sentence that names the thing and the remedy, and no trace."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import FAST, INSTALLED, WORDS, diffedit
from PIL import Image
from safetensors.torch import save_file
from tiny import write_json, write_model

TEXT = b"These are words, and no picture.\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path, tiny_v: Path) -> Path:
    """A folder of good and bad inputs, made once."""
    folder = tmp_path_factory.mktemp("inputs")
    gradient = Image.linear_gradient("L").resize((60, 40))
    Image.merge("RGB", (gradient, gradient.rotate(180), gradient)).save(folder / "good.png")
    gradient.convert("RGB").save(folder / "other.png")
    gradient.resize((30, 20)).save(folder / "small.png")
    good = (folder / "good.png").read_bytes()
    (folder / "text.png").write_bytes(TEXT)
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "nothing.png").write_bytes(b"")
    Image.new("RGBA", (20, 20)).save(folder / "clear.png")
    Image.new("LAB", (20, 20)).save(folder / "lab.tif")
    Image.new("F", (20, 20)).save(folder / "float.tif")
    Image.new("1", (20_000, 10_001)).save(folder / "huge.png")
    Image.new("L", (60, 40)).save(folder / "black.png")
    (folder / "empty").mkdir()
    (folder / "blocked" / "results.jsonl").mkdir(parents=True)
    made = ("--model", tiny_epsilon, "--steps", 4, "--maps", 1)
    diffedit("mask", folder / "good.png", "--from", "cat", "--to", "dog", "--threshold", 0.2, *made)
    diffedit("invert", folder / "good.png", "--caption", "cat", "--model", tiny_epsilon, "--steps", 4)
    latents = (folder / "good.latents.safetensors").read_bytes()
    flipped = bytearray(latents)
    flipped[-1] ^= 1
    (folder / "flipped.safetensors").write_bytes(flipped)
    (folder / "cut.safetensors").write_bytes(latents[:-9])
    (folder / "text.safetensors").write_bytes(TEXT)
    torch.save({"tokens": torch.zeros(1, 77, 32)}, folder / "pickled.safetensors")
    save_file({"tokens": torch.zeros(1, 77, 5)}, folder / "wide.safetensors")
    bad_models(folder, tiny_epsilon)
    shutil.copytree(tiny_v, folder / "elsewhere")
    return folder


def bad_models(folder: Path, good: Path) -> None:
    write_model(folder / "inpainting", channels=9)
    write_model(folder / "instructed", channels=8)
    for name in ("pickled", "cut", "partless", "xl", "aura"):
        shutil.copytree(good, folder / name)
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    (folder / "pickled" / weights).rename(folder / "pickled" / "unet" / "diffusion_pytorch_model.bin")
    (folder / "cut" / weights).write_bytes((good / weights).read_bytes()[:1000])
    shutil.rmtree(folder / "partless" / "text_encoder")
    write_json(folder / "xl" / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    write_json(folder / "aura" / "model_index.json", {"_class_name": "AuraFlowPipeline"})


@pytest.fixture
def here(kept: Path, tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command: a copy of the inputs, a tiny model and few steps as defaults."""
    folder = tmp_path / "here"
    shutil.copytree(kept, folder, copy_function=lambda source, target: Path(target).hardlink_to(source))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DIFFEDIT_MODEL", str(tiny_epsilon))
    monkeypatch.setenv("DIFFEDIT_STEPS", "4")
    monkeypatch.setenv("DIFFEDIT_MAPS", "1")
    return folder


PROMPTS = "--from cat --to dog"
LATENTS = "--latents good.latents.safetensors"
MASK = "--mask good.mask.png"
TABLE = [
    # pictures
    (f"edit missing.png {PROMPTS}", 3, "missing.png"),
    (f"edit good.gif good.png {PROMPTS}", 2, "good.edited.png"),
    (f"edit empty {PROMPTS}", 3, "empty is a folder"),
    (f"edit text.png {PROMPTS}", 3, "text.png"),
    (f"edit cut.png {PROMPTS}", 3, "cut.png is damaged"),
    (f"edit nothing.png {PROMPTS}", 3, "nothing.png"),
    (f"edit lab.tif {PROMPTS}", 3, "lab.tif has colour mode LAB"),
    (f"edit float.tif {PROMPTS}", 3, "float.tif has colour mode F"),
    (f"edit huge.png {PROMPTS}", 3, "huge.png has 20000 x 10001 pixels"),
    (f"edit - {PROMPTS} -o x.png", 3, "standard input"),
    (f"mask missing.png {PROMPTS}", 3, "missing.png"),
    ("invert text.png", 3, "text.png"),
    (f"run empty {PROMPTS} --out out", 3, "The folder empty holds no pictures"),
    ("info missing.png", 3, "missing.png"),
    (f"edit https://example.com/cat.png {PROMPTS}", 3, "https://example.com/cat.png is a URL, and only diffedit run"),
    ("info good.png", 3, "good.png has no record of how it was made"),
    ("info text.safetensors", 3, "text.safetensors"),
    # words and numbers
    ("edit good.png --from '' --to dog", 2, "--from is missing or empty"),
    ("edit good.png --from cat --to ' '", 2, "--to is missing or empty"),
    ("mask good.png --from '' --to dog", 2, "--from is missing or empty"),
    ("edit good.png --to dog", 2, "--from is missing or empty"),
    (
        "mask good.png --from cat",
        2,
        "--to is missing or empty; say in words what it should become, or give --to-embeds",
    ),
    ("edit good.png", 2, "--from is missing or empty"),
    # embeddings
    ("edit good.png --from cat --to-embeds missing.safetensors", 3, "no embeddings file missing.safetensors"),
    ("edit good.png --from cat --to-embeds empty", 3, "empty is a folder"),
    (
        "edit good.png --from cat --to-embeds text.safetensors",
        3,
        "text.safetensors is not a complete .safetensors file",
    ),
    ("edit good.png --from cat --to-embeds cut.safetensors", 3, "cut.safetensors is not a complete .safetensors file"),
    ("edit good.png --from cat --to-embeds pickled.safetensors", 4, "pickled.safetensors is a pickled file"),
    ("edit good.png --from cat --to-embeds good.latents.safetensors", 3, "holds timesteps, trajectory, and it is not"),
    ("edit good.png --from cat --to-embeds wide.safetensors", 3, "they are 5 wide and it reads 32"),
    ("invert good.png --caption-embeds wide.safetensors", 3, "they are 5 wide and it reads 32"),
    ("edit good.png --from cat --to dog --to-embeds wide.safetensors", 2, "--to and --to-embeds both"),
    ("edit good.png --from cat --to dog --save-embeds text.png", 6, "text.png cannot be made"),
    (f"edit good.png {PROMPTS} {LATENTS} --caption-embeds wide.safetensors", 3, "was made for another caption"),
    (f"edit good.png {PROMPTS} --strength 0", 2, "--strength must be above 0 and at most 1, not 0"),
    (f"edit good.png {PROMPTS} --strength 1.5", 2, "--strength must be above 0 and at most 1, not 1.5"),
    (f"edit good.png {PROMPTS} --strength nan", 2, "--strength"),
    (f"edit good.png {PROMPTS} --strength 0.1", 2, "--strength 0.1 of --steps 4 is less than one step"),
    (f"mask good.png {PROMPTS} --mask-strength 2", 2, "--mask-strength"),
    (f"mask good.png {PROMPTS} --maps 0", 2, "--maps must be between 1 and 100000, or auto"),
    (f"mask good.png {PROMPTS} --steps 0", 2, "--steps must be between 1 and 100000"),
    (f"mask good.png {PROMPTS} --steps 5000", 2, "--steps 5000"),
    (f"mask good.png {PROMPTS} --threshold 1", 2, "--threshold"),
    (f"mask good.png {PROMPTS} --clamp 0", 2, "--clamp"),
    (f"edit good.png {PROMPTS} --guidance inf", 2, "--guidance"),
    (f"edit good.png {PROMPTS} --scheduler euler", 2, "--scheduler euler is unknown; use dpm++ or ddim"),
    ("invert good.png --reg-steps -1", 2, "--reg-steps must be between 0 and 100000"),
    ("invert good.png --lambda-kl -1", 2, "--lambda-kl must be at least 0"),
    ("invert good.png --lambda-auto-corr nan", 2, "--lambda-auto-corr must be at least 0"),
    ("invert good.png --reg-steps 9 --lambda-kl 1e30", 2, "lower --lambda-auto-corr and --lambda-kl"),
    ("invert good.png --auto-corr-rolls 0", 2, "--auto-corr-rolls must be between 1 and 100000"),
    (f"edit good.png {PROMPTS} --variants 0", 2, "--variants must be between 1 and 1000"),
    (f"edit good.png {PROMPTS} --guidance-every 0", 2, "--guidance-every must be between 1 and 100000"),
    (f"edit good.png {PROMPTS} --variants 3 --eta 0", 2, "--variants 3 would be the same picture each time"),
    (f"edit good.png {PROMPTS} --variants 3 -o -", 2, "Standard output holds one picture"),
    (f"edit good.png {PROMPTS} --variants 2 --seed {2**63 - 1}", 2, "--seed must be between 0 and"),
    (f"edit good.png {PROMPTS} --frames text.png", 6, "text.png"),
    ("invert good.png --frames good.png", 6, "good.png"),
    (f"edit good.png {PROMPTS} --invert-from 1.5", 2, "--invert-from must be between 0 and 1, not 1.5"),
    (f"edit good.png {PROMPTS} --eta 1.5", 2, "--eta must be between 0 and 1, not 1.5"),
    (f"edit good.png {PROMPTS} --eta nan", 2, "--eta"),
    (f"mask good.png {PROMPTS} --seed -1", 2, "--seed"),
    (f"mask good.png {PROMPTS} --dtype int8", 2, "--dtype int8"),
    (f"mask good.png {PROMPTS} --device abacus", 2, "The device 'abacus' is unknown; use auto, cpu"),
    (f"mask good.png {PROMPTS} --clip-skip -1", 2, "--clip-skip must be at least 0, not -1"),
    (f"edit good.png {PROMPTS} --clip-skip 9", 2, "--clip-skip 9 is more than the text encoder"),
    (f"mask good.png {PROMPTS} --offload disk", 2, "--offload disk is unknown; use none, model, group, sequential"),
    (f"mask good.png {PROMPTS} --quantize int3", 2, "--quantize int3 is unknown; use none, fp8, int8, nf4"),
    (f"edit good.png {PROMPTS} --quantize nf4 --offload sequential", 2, "use --offload model"),
    ("doctor --dtype int8", 2, "--dtype int8"),
    ("cache prune --keep -1", 2, "--keep"),
    ("cache prune --keep nan", 2, "--keep"),
    (f"edit good.png other.png {PROMPTS} -o x.png", 2, "diffedit run --out"),
    (f"edit - {PROMPTS} --json", 2, "--json"),
    # outputs
    (f"edit good.png {PROMPTS} -o nowhere/x.png", 6, "nowhere"),
    (f"edit good.png {PROMPTS} -o text.png/x.png", 6, "text.png"),
    (f"mask good.png {PROMPTS} -o /proc/x.png", 6, "/proc"),
    (f"edit good.png {PROMPTS} -o empty", 6, "empty is a folder"),
    (f"edit good.png {PROMPTS} -o good.png", 6, "good.png is also an input"),
    (f"edit good.png {PROMPTS} -o good.png --force", 6, "good.png is also an input"),
    (f"edit good.png {PROMPTS} -o other.png", 6, "other.png exists, and nothing shows that diffedit made it"),
    (f"mask good.png {PROMPTS} -o /dev/full --force", 6, "/dev/full"),
    (f"edit good.png {PROMPTS} {MASK} -o good.mask.png", 6, "good.mask.png is also an input"),
    ("invert good.png -o other.png", 2, "diffedit invert writes no .png file"),
    (f"edit good.png {PROMPTS} -o x.xyz", 2, "x.xyz"),
    (f"edit clear.png {PROMPTS} -o x.jpg", 2, "clear.png has transparency"),
    (f"run good.png {PROMPTS} --out text.png", 6, "text.png"),
    # models
    (f"edit good.png {PROMPTS} --model nonesuch", 4, "nonesuch"),
    (f"edit good.png {PROMPTS} --model some/where", 4, "diffedit models pull some/where"),
    (f"edit good.png {PROMPTS} --model good.png", 4, "good.png is not a .safetensors checkpoint"),
    (f"edit good.png {PROMPTS} --model empty", 4, "empty is not a diffusers model"),
    (f"edit good.png {PROMPTS} --model pickled", 4, "pickled weights can run code"),
    (f"edit good.png {PROMPTS} --model cut", 4, "its unet is unreadable"),
    (f"edit good.png {PROMPTS} --model partless", 4, "text_encoder is missing"),
    (f"edit good.png {PROMPTS} --model xl", 4, "text_encoder_2 is missing"),
    (f"edit good.png {PROMPTS} --model aura", 4, "aura is a AuraFlowPipeline, which diffedit cannot use"),
    (f"edit good.png {PROMPTS} --model inpainting", 4, "inpainting does not fit: its UNet takes 9 channels"),
    ("mask good.png --from cat --to zebra --model builtin", 4, '"zebra"; it knows only these words: '),
    (f"edit good.png {PROMPTS} --model text.safetensors", 4, "text.safetensors is not a .safetensors checkpoint"),
    (
        f"edit good.png {PROMPTS} --model elsewhere/unet/diffusion_pytorch_model.safetensors",
        4,
        "is the unet of Stable Diffusion 1.x and 2.x alone",
    ),
    (f"edit good.png {PROMPTS} --painter nonesuch", 4, "nonesuch"),
    (f"edit good.png {PROMPTS} --painter a/b", 4, "diffedit models pull a/b"),
    (f"edit good.png {PROMPTS} --painter pickled", 4, "pickled weights can run code"),
    (f"edit good.png {PROMPTS} --painter partless", 4, "text_encoder is missing"),
    (f"edit good.png {PROMPTS} --painter aura", 4, "aura is a AuraFlowPipeline, which diffedit cannot use"),
    (f"edit good.png {PROMPTS} --threshold 0.2 --painter cut", 4, "The inpainting model cut cannot be loaded"),
    (f"edit good.png {PROMPTS} --threshold 0.2 --painter instructed", 4, "instructed is not an inpainting model"),
    (f"edit good.png {PROMPTS} --painter elsewhere {LATENTS}", 2, "leave out --latents"),
    (f"edit good.png {PROMPTS} --painter elsewhere --frames frames", 2, "leave out --latents and --frames"),
    ("models show nonesuch", 4, "nonesuch"),
    ("models show ~nobody/x/y", 4, "~nobody/x/y"),
    (f"models show {'x' * 300}", 4, "There is no model"),
    ("models show 'empty/../partless'", 4, "text_encoder is missing; get it again"),
    (f"edit good.png {PROMPTS} --model a/b --offline", 4, "diffedit models pull a/b"),
    ("models show sdxl", 4, "diffedit models pull sdxl"),
    ("models use nonesuch", 4, "nonesuch"),
    ("models use partless", 4, "text_encoder is missing"),
    ("models save x --model partless", 4, "text_encoder is missing"),
    ("models save empty/.. --model elsewhere", 6, "holds something other than a saved model"),
    ("models save good.png --model elsewhere", 6, "good.png is a file"),
    ("models save elsewhere --model elsewhere", 6, "elsewhere exists"),
    ("models save elsewhere --model elsewhere --force", 6, "elsewhere is the model itself"),
    ("models save /proc/x --model elsewhere", 6, "/proc/x"),
    ("models pull sd15 --offline", 4, "offline"),
    ("models pull builtin", 2, "in the package"),
    ("models pull nonesuch", 2, "nonesuch is not a model of the hub"),
    # nothing to edit
    ("mask good.png --from cat --to (cat)1", 5, "good.png"),
    ("mask good.png --from cat --to Cat", 2, 'both say "cat"; say in --to what it should become'),
    ("edit good.png --from cat --to cat", 2, "both say"),
    ("run good.png --from cat --to cat --out made", 2, "both say"),
    (f"edit good.png {PROMPTS} --mask black.png", 5, "black.png is empty"),
    # the device
    (f"mask good.png {PROMPTS} --device cuda:99", 7, "cuda:99"),
    # stages of something else, or damaged
    (f"edit other.png {PROMPTS} {LATENTS}", 3, "good.latents.safetensors was made for another picture"),
    (f"edit good.png {PROMPTS} {LATENTS} --steps 5", 3, "good.latents.safetensors was made for steps 4, not 5"),
    (f"edit good.png {PROMPTS} {LATENTS} --strength 1", 3, "good.latents.safetensors was made for strength 0.9, not 1"),
    (f"edit good.png {PROMPTS} {LATENTS} --scheduler ddim", 3, "made for scheduler dpm++, not ddim"),
    (f"edit good.png {PROMPTS} {LATENTS} --caption dog", 3, "good.latents.safetensors was made for caption cat"),
    (f"edit good.png {PROMPTS} {LATENTS} --model elsewhere", 3, "good.latents.safetensors was made for model"),
    (f"edit other.png {PROMPTS} {MASK}", 3, "good.mask.png was made for another picture"),
    (f"edit good.png {PROMPTS} {MASK} --steps 5", 3, "good.mask.png was made for steps 4, not 5"),
    (f"edit good.png {PROMPTS} {MASK} --model elsewhere", 3, "good.mask.png was made for model"),
    (f"edit good.png {PROMPTS} --mask small.png", 3, "small.png is 30 x 20 pixels and good.png is 60 x 40"),
    (f"mask good.png {PROMPTS} --within small.png", 3, "small.png is 30 x 20 pixels and good.png is 60 x 40"),
    (f"edit good.png {PROMPTS} --exclude text.png", 3, "text.png"),
    (f"edit good.png {PROMPTS} --within missing.png", 3, "missing.png"),
    (f"edit good.png {PROMPTS} --mask text.png", 3, "text.png"),
    (f"edit good.png {PROMPTS} --mask missing.png", 3, "missing.png"),
    (f"edit good.png {PROMPTS} --latents missing.safetensors", 3, "missing.safetensors"),
    (f"edit good.png {PROMPTS} --latents empty", 3, "empty is a folder"),
    (f"edit good.png {PROMPTS} --latents text.safetensors", 3, "text.safetensors"),
    (f"edit good.png {PROMPTS} --latents flipped.safetensors", 3, "flipped.safetensors"),
    (f"edit good.png {PROMPTS} --latents cut.safetensors", 3, "cut.safetensors"),
    (f"edit good.png {PROMPTS} --latents good.png", 3, "good.png"),
    (
        f"edit good.png {PROMPTS} --latents elsewhere/unet/diffusion_pytorch_model.safetensors",
        3,
        "not made by diffedit",
    ),
]


def listing(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.thorough
@pytest.mark.parametrize(("line", "code", "says"), TABLE, ids=[line for line, _, _ in TABLE])
def test_one_sentence_and_the_code(here: Path, line: str, code: int, says: str) -> None:
    before = listing(here)
    ran = diffedit(*shlex.split(line), given=TEXT)
    *progress, sentence = ran.lines
    assert ran.code == code, ran.err
    assert ran.out == b""
    assert sentence.startswith("diffedit: ")
    assert says in sentence
    assert sentence.endswith(".")
    assert all(line.startswith(("finding the mask", "inverting", "repainting", "sd15 is ")) for line in progress)
    assert "Traceback" not in ran.err
    assert "should not" not in ran.err  # what a bug says
    assert listing(here) == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", ["edit", "run good.png --from cat --to dog", "edit good.png --tu dog", "nonsense"])
def test_a_wrong_command_line_is_wrong_usage(line: str) -> None:
    ran = diffedit(*shlex.split(line))
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.startswith("diffedit: ")
    assert "Traceback" not in ran.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("value", ["many", "3.5", "0"])
def test_a_bad_value_in_the_environment_is_wrong_usage(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_STEPS", value)
    ran = diffedit("mask", "good.png", "--from", "cat", "--to", "dog")
    assert ran.code == 2
    assert "--steps" in ran.err


@pytest.mark.usefixtures("here")
def test_the_words_that_a_model_knows_are_listed() -> None:
    ran = diffedit("mask", "good.png", "--from", "cat", "--to", "zebra", "--model", "builtin")
    known = ran.err.split("only these words: ")[1].split(".")[0].split(", ")
    assert {"cat", "dog", "grass"} <= set(known)
    assert "zebra" not in known


@pytest.mark.usefixtures("here")
def test_a_results_file_that_cannot_be_written_is_said() -> None:
    ran = diffedit("run", "good.png", "--from", "cat", "--to", "dog", "--threshold", 0.2, "--out", "blocked")
    assert ran.code == 6
    assert str(Path("blocked") / "results.jsonl") in ran.lines[-1]


@pytest.mark.usefixtures("here")
def test_a_file_name_is_shown_as_it_is() -> None:
    """Neither as an emoji nor as markup, and without falling over bytes that are no text."""
    for name in (":cat:.png", "[red]cat[/red].png"):
        assert name in diffedit("mask", name, "--from", "cat", "--to", "dog").err
    ran = diffedit("mask", b"\xff.png".decode(errors="surrogateescape"), "--from", "cat", "--to", "dog", "--json")
    assert ran.code == 3
    assert ran.json["error"]["code"] == 3


@pytest.mark.usefixtures("here")
def test_a_mask_given_with_a_missing_picture_blames_the_picture() -> None:
    ran = diffedit("edit", "missing.png", "--to", "dog", "--mask", "good.mask.png")
    assert ran.code == 3
    assert "missing.png" in ran.err


def test_standard_output_that_is_full_is_said() -> None:
    code = "from pathlib import Path; from diffedit_cli.storage import files; files.publish(Path('-'), bytes(9))"
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert "OutputError: Standard output cannot be written: No space left" in ended.stderr


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [("mask", "good.png", *WORDS, *FAST, "--json"), ("models", "list")])
def test_what_is_told_on_a_full_standard_output_fails_in_one_sentence(words: tuple[str, ...], buffered: bool) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([INSTALLED, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert ended.returncode == 6, ended.stderr
    assert "diffedit: Standard output cannot be written: No space left on device; make room" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("run", "in", "--out", "made"), ("edit", "in/a.png", "in/b.png", "in/c.png")])
def test_all_pictures_are_done_though_nobody_reads_what_is_told(words: tuple[str, ...]) -> None:
    Path("in").mkdir()
    for name in "abc":
        shutil.copy("good.png", f"in/{name}.png")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as broken:
        line = [INSTALLED, *words, *WORDS, *FAST, "--json"]
        ended = subprocess.run(line, stdout=broken, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 6, ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("diffedit: ")]
    assert said == [
        "diffedit: Standard output cannot be written: its reader has gone; send it elsewhere to have all of it."
    ]
    made = "made/{}.png" if words[0] == "run" else "in/{}.edited.png"
    assert [name for name in "abc" if Path(made.format(name)).is_file()] == ["a", "b", "c"]


@pytest.mark.usefixtures("here")
def test_a_name_cannot_move_the_cursor_of_a_terminal() -> None:
    shutil.copy("good.png", "\x1b[2Ja\nb.png")
    Path("\x1b[31mcut.png").write_bytes(Path("good.png").read_bytes()[:99])
    ran = diffedit("run", ".", *WORDS, *FAST, "--out", "done")
    assert "\\x1b[2Ja\\nb.png" in ran.err
    assert "\\x1b[31mcut.png" in ran.err
    assert "\x1b" not in ran.err
    assert (Path("done") / "\x1b[2Ja\nb.png").exists()
    assert "\x1b" not in diffedit("edit", "\x1b[31mcut.png", *WORDS).err
