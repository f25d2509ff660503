"""The safety checker that a model may ship: what it flags is withheld, and it is asked about results alone."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command import WORDS, diffedit, installed, picture, settled
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_safety

from diffedit_cli.engine.networks.safety_checker import SafetyChecker
from diffedit_cli.models import registry

ANY, NONE = -1.01, 1.01  # thresholds of a cosine
CHECKER = Path("safety_checker") / "model.safetensors"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> Path:
    """A model whose checker flags every picture."""
    return write_safety(Path(shutil.copytree(tiny_epsilon, tmp_path_factory.mktemp("models") / "strict")), ANY)


@pytest.fixture
def here(tmp_path: Path, strict: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture, and the strict model as default."""
    return settled(tmp_path, strict, monkeypatch)


def lenient(strict: Path, folder: Path) -> Path:
    return write_safety(Path(shutil.copytree(strict, folder)), NONE)


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.thorough
def test_a_flagged_edit_is_withheld(here: Path) -> None:
    before = listing(here)
    ran = installed("edit", "cat.png", *WORDS, "--json", folder=here)
    assert ran.code == 9
    assert ran.json["status"] == "withheld"
    assert ran.json["error"]["code"] == 9
    assert (ran.json["output"], ran.json["mask"]) == (None, None)
    assert "cat.png is withheld" in ran.lines[-1]
    assert "--no-safety" in ran.lines[-1]
    assert "black image" not in ran.err
    assert listing(here) == before


@pytest.mark.usefixtures("here")
def test_a_flagged_edit_is_not_sent_to_standard_output() -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "-o", "-")
    assert (ran.code, ran.out) == (9, b"")


def test_what_is_not_flagged_is_the_bytes_of_a_model_without_a_checker(
    here: Path, strict: Path, tiny_epsilon: Path
) -> None:
    lenient(strict, here / "model")
    shutil.copytree(tiny_epsilon, here / "plain")
    (here / "plain").rename(here / "kept")
    results = []
    for model in ("model", "kept"):
        (here / model).rename(here / "named")
        ran = diffedit("edit", "cat.png", *WORDS, "--model", "named", "-o", f"{model}.png", "--json")
        assert ran.code == 0, ran.err
        assert ("safety" in ran.json["seconds"]) == (model == "model")
        results.append((here / f"{model}.png").read_bytes())
        (here / "named").rename(here / model)
    assert results[0] == results[1]


def test_no_safety_writes_it_and_is_recorded(here: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, "--no-safety").code == 0
    line = diffedit("info", "cat.edited.png").out.decode().splitlines()[-1]
    assert line.endswith(" --no-safety") or " --no-safety " in line
    first = (here / "cat.edited.png").read_bytes()
    again = ["cat.png" if word == "PICTURE" else word for word in shlex.split(line)[1:]]
    assert diffedit(*again).code == 0
    assert (here / "cat.edited.png").read_bytes() == first


def test_without_a_checker_no_safety_changes_nothing(here: Path, tiny_epsilon: Path) -> None:
    for extra in ([], ["--no-safety"]):
        assert diffedit("edit", "cat.png", *WORDS, *extra, "--model", tiny_epsilon, "-o", f"{len(extra)}.png").code == 0
    assert (here / "0.png").read_bytes() == (here / "1.png").read_bytes()


def test_the_others_of_a_batch_go_on(here: Path, strict: Path) -> None:
    """Of two results the checker knows one: its concept is that very picture."""
    model = lenient(strict, here / "model")
    picture(here / "dog.png", (24, 64))
    words = ("run", "cat.png", "dog.png", *WORDS, "--model", "model", "--json")
    assert diffedit(*words, "--out", "free").code == 0
    weights = load_file(model / CHECKER)
    weights["concept_embeds"][0] = seen(model, here / "free" / "dog.png")
    near = torch.cosine_similarity(weights["concept_embeds"][:1], seen(model, here / "free" / "cat.png")[None])
    assert near < 0.99
    weights["concept_embeds_weights"][0] = (1 + near.item()) / 2
    save_file(weights, model / CHECKER, {"format": "pt"})
    ran = diffedit(*words, "--out", "out")
    assert ran.code == 9
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert [result["status"] for result in results] == ["done", "withheld"]
    kept = [json.loads(line) for line in (here / "out" / "results.jsonl").read_text().splitlines()]
    assert kept == [{name: value for name, value in result.items() if name != "progress"} for result in results]
    assert {path.name for path in (here / "out").glob("*.png")} == {"cat.png", "cat.mask.png"}
    (here / "bad.png").write_text("no picture")
    assert diffedit("run", "bad.png", *words[1:], "--out", "again").code == 8


def seen(model: Path, path: Path) -> torch.Tensor:
    """CLIP's embedding of a picture."""
    checker = SafetyChecker.load(model, "cpu", "model")
    with Image.open(path) as image:
        features = checker.extractor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return checker.network.visual_projection(checker.network.vision_model(features)[1])[0]


def test_mask_and_inversion_never_load_it(here: Path, strict: Path) -> None:
    """Its weights are no weights at all: the edit alone notices."""
    shutil.copytree(strict, here / "broken")
    (here / "broken" / CHECKER).write_bytes(b"no weights")
    for words in (("mask", "cat.png", *WORDS), ("invert", "cat.png"), ("edit", "cat.png", *WORDS, "--no-safety")):
        assert diffedit(*words, "--model", "broken").code == 0
    ran = diffedit("edit", "cat.png", *WORDS, "--model", "broken", "-o", "x.png")
    assert ran.code == 4
    assert "its safety_checker is unreadable" in ran.err
    assert "--no-safety" in ran.err
    assert not (here / "x.png").exists()


def test_a_checker_without_all_of_its_weights_is_refused(here: Path, strict: Path) -> None:
    """Random ones would flag at random."""
    shutil.copytree(strict, here / "partial")
    weights = load_file(here / "partial" / CHECKER)
    del weights["visual_projection.weight"]
    save_file(weights, here / "partial" / CHECKER, {"format": "pt"})
    ran = diffedit("edit", "cat.png", *WORDS, "--model", "partial")
    assert ran.code == 4
    assert "weights are missing" in ran.err


def test_show_and_doctor_say_whether_there_is_one(here: Path, strict: Path, tiny_epsilon: Path) -> None:
    for model, has in ((strict, True), (tiny_epsilon, False)):
        assert diffedit("models", "show", model, "--json").json["safety-checker"] is has
        assert f"safety-checker: {'yes' if has else 'no'}" in diffedit("models", "show", model).out.decode()
        detail = {
            finding["what"]: finding["detail"]
            for finding in json.loads(diffedit("doctor", "--model", model, "--json").out)
        }["model"]
        assert ("with a safety checker" in detail, "no safety checker" in detail) == (has, not has)
    assert registry.find(str(strict)).digest == registry.find(str(tiny_epsilon)).digest
    assert here.is_dir()
