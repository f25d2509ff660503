"""Runs of piebench on a miniature PIE-Bench: the table's figures, resuming, other settings, results of other tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures_by_hand as by_hand
import numpy as np
import pytest
import torch
from checkout import PROJECT
from edit_sets import CASES, picture, write_piebench
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tiny_backbones import CLIP_HEADS, DINO_HEADS, write_clip, write_dino, write_squeezenet
from tiny_segmenters import write_clipseg
from transformers import CLIPTokenizer

pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from benchmarks.piebench import methods
from benchmarks.piebench.__main__ import main
from benchmarks.piebench.backbones import lpips_heads
from benchmarks.piebench.results import Results
from diffedit_cli.errors import NothingToEdit, UsageError

Row = dict[str, Any]
FEW = ("--set", "steps=4", "maps=1")


@pytest.fixture(scope="module")
def piebench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_piebench(tmp_path_factory.mktemp("data") / "pie")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    write_dino(folder / "dino")
    write_clip(folder / "clip")
    write_squeezenet(folder / "squeezenet.pth")
    return folder


def networks(backbones: Path) -> list[str]:
    names = {"--dino": "dino", "--clip": "clip", "--squeezenet": "squeezenet.pth"}
    return [word for option, name in names.items() for word in (option, str(backbones / name))]


def rows(out: Path, label: str) -> dict[str, Row]:
    report = json.loads((out / "piebench.json").read_text())
    return {row["case"]: row for row in report["methods"][label]["rows"]}


def weights(file: Path) -> by_hand.Weights:
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def theirs(piebench: Path, folder: Path) -> Path:
    """Writes results as other tools do: JPEG, and one as a sheet whose last picture is the result."""
    for number, (name, *_) in enumerate(CASES):
        path = Path(json.loads((piebench / "mapping_file.json").read_text())[name]["image_path"])
        (folder / "annotation_images" / path).parent.mkdir(parents=True, exist_ok=True)
        result = np.asarray(picture(number)).copy()
        result[200:300, 150:350] //= 2
        if number == 1:
            result = np.concatenate([np.zeros_like(result), result], axis=1)
        Image.fromarray(result).save(folder / "annotation_images" / path, "JPEG", quality=75)
    return folder


@pytest.mark.thorough
def test_the_table_has_the_figures_computed_by_hand(piebench: Path, backbones: Path, tmp_path: Path) -> None:
    """With the built-in model, beside results of another tool; structure, slow by hand, for one picture."""
    other, out = theirs(piebench, tmp_path / "other"), tmp_path / "out"
    words = ["run", str(piebench), "--out", str(out), *FEW, "--results", f"other={other}", *networks(backbones)]
    assert main(words) == 0
    heads, features = weights(lpips_heads()), weights(backbones / "squeezenet.pth")
    clip, tokenizer = (
        weights(backbones / "clip" / "model.safetensors"),
        CLIPTokenizer.from_pretrained(backbones / "clip"),
    )
    mapping = json.loads((piebench / "mapping_file.json").read_text())
    changed = 0
    for label, folder in (("ours", out / "ours"), ("other", other)):
        found = rows(out, label)
        assert list(found) == [name for name, *_ in CASES]
        for name, _, target, _, runs in CASES:
            source = pixels(piebench / "annotation_images" / mapping[name]["image_path"])
            made = pixels(folder / "annotation_images" / mapping[name]["image_path"])[:, -512:]
            changed += int((source != made).any())
            mask, row = by_hand.mask_by_hand(runs, 512, 512), found[name]
            tokens = tokenizer(target.replace("[", "").replace("]", ""))["input_ids"]
            expected = {
                "clip_whole": by_hand.clip_score(made, tokens, clip, CLIP_HEADS),
                "clip_edited": by_hand.clip_score(np.uint8(made * mask[..., None]), tokens, clip, CLIP_HEADS),
                **dict.fromkeys(("psnr", "mse", "ssim", "lpips")),
            }
            if not mask.all():
                one, two = by_hand.outside(source, mask), by_hand.outside(made, mask)
                expected |= {name: getattr(by_hand, name)(one, two) for name in ("psnr", "mse", "ssim")}
                expected["lpips"] = by_hand.lpips(one, two, features, heads)
            if (label, name) == ("other", "111000000000"):
                dino = weights(backbones / "dino" / "model.safetensors")
                expected["structure"] = by_hand.structure(source, made, dino, DINO_HEADS)
            for figure, value in expected.items():
                if value in (None, float("inf")):
                    assert row[figure] == (value if value is None else "inf"), (label, name, figure)
                else:
                    assert row[figure] == pytest.approx(value, abs=1e-4), (label, name, figure)
    assert changed >= 9
    for name, row in rows(out, "ours").items():
        assert row["unedited"] == (name == "911000000000")  # "watercolour" is no word of the built-in model
        assert row["unedited"] or row["evaluations"] > 0
    assert rows(out, "ours")["911000000000"]["structure"] == 0
    table = (out / "piebench.md").read_text()
    assert "| ours | 6 | " in table
    assert "| 6 change colour | 1 | " in table
    with Image.open(out / "contact.jpg") as sheet:
        assert sheet.size == (4 * 192, 16 + 6 * 208)


def tiny_run(piebench: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["run", str(piebench), "--out", str(out), "--model", str(model), *FEW, "edges=0", *more]


def timeless(out: Path) -> tuple[str, Any]:
    """Returns the table and the rows of a run without seconds."""
    report = json.loads((out / "piebench.json").read_text())
    for method in report["methods"].values():
        for found in (*method["figures"].values(), *method["rows"]):
            found.pop("seconds", None)
    table, seconds = [], 0
    for line in (out / "piebench.md").read_text().splitlines():
        cells = line.split("|")
        seconds = cells.index(" seconds ") if " seconds " in cells else seconds
        table.append("|".join(cells[:seconds] + cells[seconds + 1 :]) if len(cells) > 1 else line)
    return "\n".join(table), report


@pytest.mark.thorough
def test_a_killed_run_resumes_to_the_same_table(
    piebench: Path, backbones: Path, tiny_epsilon: Path, tmp_path: Path
) -> None:
    """Killed while it edits, before any figure, and while it measures: what is done stays, and is not done again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ("--types", "1", "4", "6", "9", "--methods", "ours", "given", *networks(backbones))
    assert main(tiny_run(piebench, tiny_epsilon, whole, *more)) == 0
    words = tiny_run(piebench, tiny_epsilon, killed, *more)
    kept: dict[Path, float] = {}
    for pattern, number in (("ours/edits/*.json", 2), ("given/edits/*.json", 1), ("given/figures/*.json", 2)):
        kill(words, lambda pattern=pattern, number=number: len(list(killed.glob(pattern))) >= number)
        assert not (killed / "piebench.json").exists()
        assert all(file.stat().st_mtime == before for file, before in kept.items())
        kept = {file: file.stat().st_mtime for part in ("edits", "figures") for file in killed.glob(f"*/{part}/*.json")}
    assert main(words) == 0
    assert all(file.stat().st_mtime == before for file, before in kept.items())
    assert timeless(killed) == timeless(whole)
    pictures = sorted(whole.glob("*/annotation_images/**/*.jpg"))
    assert len(pictures) == 8
    for one in pictures:
        assert (killed / one.relative_to(whole)).read_bytes() == one.read_bytes()


def kill(words: list[str], when: Callable[[], bool]) -> None:
    program = [sys.executable, "-m", "benchmarks.piebench", *words]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(program, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not when():
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def finished(piebench: Path, tiny_epsilon: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a tiny model over two types, without networks."""
    out = tmp_path_factory.mktemp("runs") / "out"
    assert main(tiny_run(piebench, tiny_epsilon, out, "--types", "1", "6")) == 0
    return out


def test_columns_without_a_network_are_left_out_with_a_word_why(finished: Path) -> None:
    table = (finished / "piebench.md").read_text()
    heads = next(line for line in table.splitlines() if line.startswith("| method"))
    assert heads.replace(" exact background |", "") == (  # a column only if a mask happens to lie in the true one
        "| method | pictures | PSNR | MSE x 10^4 | SSIM x 10^2 | mask IoU | evaluations | seconds |"
    )
    for columns, name in (
        ("structure x 10^3", "facebook/dino-vitb8"),
        ("LPIPS x 10^3", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
        ("CLIP whole and CLIP edited", "openai/clip-vit-large-patch14"),
    ):
        assert f"Left out: {columns}. {name} is not on this machine; " in table
    assert json.loads((finished / "piebench.json").read_text())["left_out"]


def test_results_lie_where_other_tools_look_and_nothing_is_made_twice(
    finished: Path, piebench: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = json.loads((piebench / "mapping_file.json").read_text())
    for name in ("111000000000", "611000000000"):
        with Image.open(finished / "ours" / "annotation_images" / mapping[name]["image_path"]) as result:
            assert result.format == "PNG"
    before = timeless(finished)
    monkeypatch.delattr(methods.Ours, "__init__")
    assert main(tiny_run(piebench, tiny_epsilon, finished, "--types", "1", "6")) == 0
    assert timeless(finished) == before


@pytest.mark.thorough
def test_a_damaged_result_is_made_again(finished: Path, piebench: Path, tiny_epsilon: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = timeless(out)
    files = sorted((out / "ours" / "annotation_images").rglob("*.jpg"))
    content = [file.read_bytes() for file in files]
    files[0].write_bytes(b"torn")
    next((out / "ours" / "edits").glob("6*.json")).write_text('{"key": "')
    next((out / "ours" / "figures").glob("1*.json")).write_text("[]")
    assert main(tiny_run(piebench, tiny_epsilon, out, "--types", "1", "6")) == 0
    assert [file.read_bytes() for file in files] == content
    assert timeless(out) == before


@pytest.mark.thorough
def test_results_of_other_settings_are_not_mixed(
    finished: Path, piebench: Path, tiny_epsilon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "copy"))
    other = [*tiny_run(piebench, tiny_epsilon, out, "--types", "1"), "--set", "steps=5", "maps=1"]
    assert main(other) == UsageError.code
    said = capsys.readouterr().err
    assert said.startswith(f"{out / 'ours'} holds results with settings {{'steps': 4, ")
    assert "call this one differently with --label" in said
    assert main([*other, "--label", "five-steps", "--methods", "given"]) == 0
    assert list(rows(out, "ours")) == list(rows(out, "five-steps")) == ["111000000000"]
    assert rows(out, "five-steps")["111000000000"]["iou"] == 1
    assert rows(out, "five-steps")["111000000000"]["psnr"] == "inf"
    assert "| five-steps | 1 | " in (out / "piebench.md").read_text()


@pytest.mark.thorough
def test_a_changed_picture_or_prompt_makes_its_result_anew(
    finished: Path, piebench: Path, tiny_epsilon: Path, tmp_path: Path
) -> None:
    out, data = Path(shutil.copytree(finished, tmp_path / "copy")), Path(shutil.copytree(piebench, tmp_path / "pie"))
    mapping = json.loads((data / "mapping_file.json").read_text())
    mapping["611000000000"]["editing_prompt"] = "a dog"
    (data / "mapping_file.json").write_text(json.dumps(mapping))
    picture(9).save(data / "annotation_images" / mapping["111000000000"]["image_path"])
    keys = [file.read_text() for file in sorted((out / "ours" / "edits").iterdir())]
    assert main(tiny_run(data, tiny_epsilon, out, "--types", "1", "6")) == 0
    again = [file.read_text() for file in sorted((out / "ours" / "edits").iterdir())]
    assert all(json.loads(one)["key"] != json.loads(other)["key"] for one, other in zip(keys, again, strict=True))


def test_a_refused_edit_counts_as_the_unchanged_picture(
    piebench: Path, tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise NothingToEdit("Nothing differs.")

    monkeypatch.setattr(methods.Ours, "__call__", refused)
    for _ in range(2):  # the second time from what was stored, infinity too
        assert main(tiny_run(piebench, tiny_epsilon, tmp_path, "--types", "1", "0")) == 0
    found = rows(tmp_path, "ours")
    assert {row["unedited"] for row in found.values()} == {True}
    assert found["111000000000"]["iou"] == 0
    assert found["000000000000"]["iou"] is None  # its mask is empty, too
    assert found["111000000000"]["psnr"] == "inf"
    assert re.search(r"\| ours \| 2 \|.*\| 2 \| 2 \|", (tmp_path / "piebench.md").read_text())


@pytest.mark.thorough
def test_every_method_edits(
    piebench: Path, tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.methods.DiffusersDiffEdit.__init__.__defaults__", (methods.Where(), 4, 2))
    monkeypatch.setattr(methods, "PAPER", {**methods.PAPER, "steps": 4, "maps": 2})
    names = list(methods.METHODS)
    words = tiny_run(piebench, tiny_epsilon, tmp_path, "--types", "1", "--methods", *names, "--jpeg", "75")
    assert main(words) == 0
    source = pixels(piebench / "annotation_images" / PLACE)
    for name in names:
        (row,) = rows(tmp_path, name).values()
        assert (row["evaluations"] > 0) == (name != "unchanged")
        assert (row["iou"] is None) == (name in ("sdedit", "unchanged"))
        with Image.open(tmp_path / name / "annotation_images" / PLACE) as result:
            assert result.format == "JPEG"
            assert result.size == (512, 512)
            assert (np.asarray(result) != source).any()


PLACE = "1_change_object_80/1_artificial/1_animal/111000000000.jpg"


def test_settings_reach_the_edit_with_the_words_of_its_case(tiny_epsilon: Path) -> None:
    ours = methods.Ours(str(tiny_epsilon), {"steps": 3, "negative": "{from}", "vae_tiling": True}, methods.Where())
    assert ours.params == {"steps": 3, "negative": "{from}"}
    asked = methods.Asked(np.zeros((8, 8, 3), dtype=np.uint8), "a cat", "a dog", 0, "make it a dog", None)
    assert asked.filled("no {from}, {to}: {instruction}") == "no a cat, a dog: make it a dog"
    assert asked.filled(3) == 3


def test_what_settings_name_counts_with_its_content(tmp_path: Path, tiny_epsilon: Path) -> None:
    def told(**settings: Any) -> Any:
        return methods.identity("ours", str(tiny_epsilon), settings, methods.Where())

    lora, segmenter = tmp_path / "a.safetensors", write_clipseg(tmp_path / "clipseg")
    lora.write_bytes(b"one")
    painter = Path(shutil.copytree(tiny_epsilon, tmp_path / "painter"))
    settings = {"lora": [f"{lora}:0.5"], "segmenter": str(segmenter), "segment": "the cat", "painter": str(painter)}
    before = told(**settings)
    assert sorted(before["named"]) == ["lora", "painter", "segmenter"]
    assert told(**settings) == before
    for change in (
        lambda: lora.write_bytes(b"two"),
        lambda: (segmenter / "more.json").write_text("{}"),
        lambda: (painter / "unet" / "more.json").write_text("{}"),
    ):
        change()
        now = told(**settings)
        assert now["named"] != before["named"]
        before = now
    assert "named" not in told(steps=4, negative="{from}", from_=str(lora))


def test_results_of_another_tool_may_be_incomplete(
    finished: Path, piebench: Path, tiny_epsilon: Path, tmp_path: Path
) -> None:
    out, other = Path(shutil.copytree(finished, tmp_path / "copy")), theirs(piebench, tmp_path / "other")
    (other / "annotation_images" / PLACE).unlink()
    words = tiny_run(piebench, tiny_epsilon, out, "--types", "1", "6", "--methods", "--results")
    assert main([*words, f"other={other}", f"bare={other / 'annotation_images'}"]) == 0
    assert list(rows(out, "other")) == list(rows(out, "bare")) == ["611000000000"]
    assert "| other | 1 | " in (out / "piebench.md").read_text()
    assert Results.all_in(out)[0].label == "ours"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "p2p"], "There is no method p2p; use ours, given, diffedit, diffusers, sdedit, unchanged."),
        (["--set", "steps"], "--set takes NAME=VALUE, not steps."),
        (["--set", "stepz=4"], "There is no parameter stepz; "),
        (["--label", "../up"], "A method cannot be called '../up'; "),
        (["--label", "both", "--methods", "ours", "given"], "--label is the name of ours or of given; "),
        (["--methods", "--results", "p2p=none"], "There is no folder none for the results of p2p; "),
    ],
)
def test_a_wrong_run_is_refused_in_a_sentence(
    piebench: Path, tiny_epsilon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["run", str(piebench), "--out", str(tmp_path), "--model", str(tiny_epsilon), *words]) == UsageError.code
    assert capsys.readouterr().err.startswith(said)
