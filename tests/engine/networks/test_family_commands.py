"""Each family by the installed command: mask, inversion, edit, zoom and run, unmasked pixels, wrong folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_transformers as tiny
from command import WORDS, diffedit, settled
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_json

WRITERS: dict[str, Callable[[Path], Path]] = {
    "flux2": tiny.write_flux2,
    "z-image": tiny.write_z_image,
    "flux": tiny.write_flux,
    "chroma": tiny.write_chroma,
    "qwen-image": tiny.write_qwen_image,
    "pixart": tiny.write_pixart,
}
WHOLE = ["--threshold", 0.3, "--room", 0]  # random networks give flat maps


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("family") / request.param)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_stages_chain_and_give_what_an_edit_gives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, folder, monkeypatch)
    for words in (["mask", "cat.png", *WORDS, "--threshold", 0.3], ["invert", "cat.png", "--caption", "a cat"]):
        ran = diffedit(*words)
        assert ran.code == 0, ran.err
    given = ["--mask", "cat.mask.png", "--latents", "cat.latents.safetensors", "--caption", "a cat"]
    ran = diffedit("edit", "cat.png", *WORDS, *given, "--room", 0, "--json", "-o", "stages.png")
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"]["mask"] == ran.json["evaluations"]["invert"] == 0
    before, after, mask = (read(tmp_path / name) for name in ("cat.png", "stages.png", "cat.mask.png"))
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).any()
    ran = diffedit("edit", "cat.png", *WORDS, "--caption", "a cat", *WHOLE, "-o", "once.png")
    assert ran.code == 0, ran.err
    assert (read(tmp_path / "once.png") == after).all()


def test_an_empty_mask_gives_the_picture_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, folder, monkeypatch)
    nothing = Image.new("L", Image.open("cat.png").size)
    nothing.putpixel((0, 0), 255)
    nothing.save("corner.png")
    ran = diffedit("edit", "cat.png", *WORDS, "--mask", "corner.png", "--feather", 0, "-o", "kept.png")
    assert ran.code == 0, ran.err
    changed = (read(tmp_path / "kept.png") != read(tmp_path / "cat.png")).any(axis=-1)
    assert not changed.ravel()[1:].any()


@pytest.mark.thorough
def test_run_gives_each_picture_what_it_gets_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, folder, monkeypatch)
    lines = [
        {"input": "cat.png", "from": "a cat", "to": "a dog"},
        {"input": "other.png", "from": "a cat on grass", "to": "a dog on the very green grass"},
    ]
    Image.open("cat.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("other.png")
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ran = diffedit("run", "jobs.jsonl", "--out", "out", "--batch", 2, *WHOLE)
    assert ran.code == 0, ran.err
    for line in lines:
        given = ["--from", line["from"], "--to", line["to"]]
        ran = diffedit("edit", line["input"], *given, *WHOLE, "--no-cache", "-o", f"alone-{line['input']}")
        assert ran.code == 0, ran.err
        alone, together = (read(path).astype(int) for path in (tmp_path / f"alone-{line['input']}",
                                                               *(tmp_path / "out").glob(line["input"])))  # fmt: skip
        # prompts of other lengths in the batch change the last bits, which may decide about a pixel of the mask's rim
        assert (np.abs(alone - together) > 1).mean() < 0.01


@pytest.mark.thorough
def test_zoom_repaints_a_part_of_a_large_picture(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, folder, monkeypatch)
    Image.open("cat.png").resize((360, 240)).save("large.png")
    mask = Image.new("L", (360, 240))
    mask.paste(255, (40, 40, 80, 80))
    mask.save("square.png")
    ran = diffedit("edit", "large.png", *WORDS, "--mask", "square.png", "--zoom", 3, "-o", "zoomed.png")
    assert ran.code == 0, ran.err
    before, after, inside = read(tmp_path / "large.png"), read(tmp_path / "zoomed.png"), np.asarray(mask) > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any()


def test_embeddings_files_stand_for_their_words(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, folder, monkeypatch)
    words = ["edit", "cat.png", *WORDS, "--negative", "", *WHOLE, "--no-cache"]
    ran = diffedit(*words, "--save-embeds", "embeds", "-o", "words.png")
    assert ran.code == 0, ran.err
    given = ["--from-embeds", "embeds/from.safetensors", "--to-embeds", "embeds/to.safetensors"]
    ran = diffedit("edit", "cat.png", *given, "--negative", "", *WHOLE, "--no-cache", "-o", "files.png")
    assert ran.code == 0, ran.err
    one, other = (read(tmp_path / f"{name}.png").astype(int) for name in ("words", "files"))
    assert (np.abs(one - other) > 1).mean() < 0.01  # where weights and inputs lie in memory decides about last bits


def test_half_precision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, folder, monkeypatch)
    ran = diffedit("edit", "cat.png", *WORDS, *WHOLE, "--dtype", "bfloat16", "--json")
    assert ran.code == 0, ran.err
    assert ran.warnings == [] or "seam" in ran.warnings[0]


def test_a_part_that_does_not_fit_or_is_missing_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, folder, monkeypatch)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, {"format": "pt"})
    ran = diffedit("edit", "cat.png", *WORDS, "--model", copy)
    assert ran.code == 4
    assert lost in ran.err
    assert "Traceback" not in ran.err
    shutil.rmtree(copy / "text_encoder")
    ran = diffedit("edit", "cat.png", *WORDS, "--model", copy)
    assert (ran.code, "text_encoder is missing" in ran.err) == (4, True)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(copy / "model_index.json", index | {"_class_name": "AuraFlowPipeline"})
    assert diffedit("edit", "cat.png", *WORDS, "--model", copy).code == 4
