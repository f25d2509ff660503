"""Segmenters: tiny models of the real classes, what they see, and what a stranger's model cannot do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import diffedit, settled
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_json
from tiny_segmenters import write_clipseg, write_grounding_dino, write_sam2
from transformers import BertTokenizer, CLIPSegConfig, GroundingDinoConfig, Sam2Config, Sam2VideoConfig
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.grounding_dino.processing_grounding_dino import GroundingDinoProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from diffedit_cli.engine.networks import segmenters
from diffedit_cli.engine.networks.segmenters import GroundedSam
from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.images import codecs
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import configs, registry
from diffedit_cli.pipeline import segmentation
from diffedit_cli.pipeline.segmentation import Segmenters

PAIR = "dino+sam"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenters")
    write_clipseg(folder / "clipseg")
    write_grounding_dino(folder / "dino")
    write_sam2(folder / "sam", of_films=True)
    return folder


@pytest.fixture
def models(written: Path, tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the segmenters and a picture; Grounding DINO sees it in few pixels."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(segmenters, "SHORTER", 96)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return settled(tmp_path, tiny_epsilon, monkeypatch)


def seen(name: str, picture: Picture, words: str = "a cat") -> np.ndarray[Any, np.dtype[np.float32]]:
    found = segmentation.find(f"./{name}".replace("+", "+./"), Path("memo"))
    return Segmenters().probabilities(found, picture, words)


@pytest.mark.parametrize(("name", "shape"), [("clipseg", (352, 352)), (PAIR, (64, 64))])
@pytest.mark.usefixtures("models")
def test_a_map_depends_on_picture_and_words_alone(name: str, shape: tuple[int, int]) -> None:
    cat = codecs.load(Path("cat.png"))
    once, again, other = (seen(name, cat, words) for words in ("a cat", "a cat", "dog on grass"))
    assert once.shape == shape
    assert once.dtype == np.float32
    assert once.min() >= 0
    assert once.max() <= 1
    assert once.std() > 0
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_pictures_are_prepared_as_by_the_models_own_processors() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for size in ((352, 352), (256, 256)):
        look = ViTImageProcessorPil(
            size={"height": size[1], "width": size[0]}, image_mean=list(segmenters.MEAN.tolist()),
            image_std=list(segmenters.DEVIATION.tolist()), resample=Image.Resampling.BILINEAR,
        )  # fmt: skip
        expected = look(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(segmenters.prepared(picture, size), expected, rtol=0, atol=1e-5)
    expected = GroundingDinoImageProcessorPil()(picture, return_tensors="pt")["pixel_values"]
    found = segmenters.prepared(picture, segmenters.detection_size(picture.size))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for size in ((640, 480), (480, 640), (3000, 1000), (300, 300)):
        look = GroundingDinoImageProcessorPil(do_pad=False)(Image.new("RGB", size), return_tensors="pt")
        width, height = segmenters.detection_size(size)
        assert np.abs(np.subtract(look["pixel_values"].shape[-2:], (height, width))).max() <= 1


@pytest.mark.usefixtures("models")
def test_boxes_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Segmenters().loaded(segmentation.find("./dino+./sam", Path("memo")))
    assert isinstance(found, GroundedSam)
    picture = codecs.load(Path("cat.png")).on_white()
    tokens = BertTokenizer.from_pretrained("dino")("a cat.", return_tensors="pt")
    pixels = segmenters.prepared(picture, segmenters.detection_size(picture.size))
    with torch.inference_mode():
        output = found.detector(pixel_values=pixels, **tokens)
    scores = output.logits[0].sigmoid().amax(dim=-1)
    limit = float(scores.sort().values[-4:-2].mean())  # three of the random boxes are better
    monkeypatch.setattr(segmenters, "LEAST_SCORE", limit)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(), found.tokenizer)
    (expected,) = processor.post_process_grounded_object_detection(output, tokens["input_ids"], threshold=limit)
    ours = found.boxes(picture, "A cat ")
    assert len(ours) == 3 == len(expected["boxes"])
    best = expected["scores"].argsort(descending=True)
    torch.testing.assert_close(ours, expected["boxes"][best].clamp(0, 1))
    monkeypatch.setattr(segmenters, "LEAST_SCORE", 1.0)
    assert found.boxes(picture, "a cat").shape == (0, 4)
    assert not found.probabilities(picture, "a cat").any()


@pytest.mark.usefixtures("models")
def test_several_boxes_are_one_mask() -> None:
    found = Segmenters().loaded(segmentation.find("./dino+./sam", Path("memo")))
    assert isinstance(found, GroundedSam)
    picture, boxes = codecs.load(Path("cat.png")).on_white(), torch.tensor([[0.0, 0, 0.5, 1], [0.4, 0.2, 1, 0.9]])
    each = []
    for some in (boxes[:1], boxes[1:], boxes):
        found.boxes = lambda *_, some=some: some  # type: ignore[method-assign, misc]
        each.append(found.probabilities(picture, "a cat"))
    torch.testing.assert_close(torch.maximum(each[0], each[1]), each[2])


@pytest.mark.parametrize("config", [CLIPSegConfig, GroundingDinoConfig, Sam2Config, Sam2VideoConfig])
def test_the_settings_of_the_real_models_are_taken(config: Any, tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    configs.check_folder("real", tmp_path)


def pulled(hub: Path, written: Path, **models: str) -> None:
    """Puts models into the hub's cache as `models pull` would."""
    for name, folder in models.items():
        place = hub / f"models--{registry.hub_id(name.replace('_', '-')).replace('/', '--')}"
        shutil.copytree(written / folder, place / "snapshots" / "abc")
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("abc")


def test_the_best_segmenter_on_this_machine_is_the_default(models: Path, written: Path) -> None:
    with pytest.raises(ModelError, match=r"diffedit models pull clipseg \(0.6 GB\), or, for exact outlines, both of"):
        segmentation.find("auto", Path("memo"))
    pulled(models / "hub", written, clipseg="clipseg")
    assert segmentation.find("auto", Path("memo")).name == "clipseg"
    pulled(models / "hub", written, grounding_dino="dino")
    assert segmentation.find("auto", Path("memo")).name == "clipseg"
    with pytest.raises(ModelError, match="diffedit models pull sam2"):
        segmentation.find("grounding-dino", Path("memo"))
    pulled(models / "hub", written, sam2="sam")
    assert segmentation.find("auto", Path("memo")).name == "grounding-dino+sam2"


def test_a_mask_of_another_segmenter_is_not_up_to_date(models: Path, written: Path) -> None:
    """Neither in a command nor in a run, where a row says what to look for; other masks still are."""
    Path("jobs.csv").write_text('input,mask-method\ncat.png,"""cat"" | ! ""cat"""\n')

    def statuses() -> list[str]:
        one = diffedit("mask", "cat.png", "--mask-method", '"cat" | ! "cat"', "--json")
        other = diffedit("mask", "cat.png", "--from", "cat", "--to", "dog", "-o", "noise.png", "--json")
        row = diffedit("run", "jobs.csv", "--to", "dog", "--out", "out", "--json")
        return [json.loads(ran.out)["status"] for ran in (one, other, row)]

    pulled(models / "hub", written, clipseg="clipseg")
    assert statuses() == ["done", "done", "done"]
    assert statuses() == ["skipped", "skipped", "skipped"]
    pulled(models / "hub", written, grounding_dino="dino", sam2="sam")
    assert statuses() == ["done", "skipped", "done"]
    assert statuses() == ["skipped", "skipped", "skipped"]
    assert segmentation.find("grounding-dino", Path("memo")).name == "grounding-dino+sam2"
    assert segmentation.find("./dino", Path("memo")).side == 256
    listed = {one["name"]: one for one in diffedit("models", "list", "--json").json}  # type: ignore[index]
    assert [listed[name]["here"] for name in ("clipseg", "grounding-dino", "sam2", "sd15")] == [True] * 3 + [False]
    assert "Masks from words, for --segmenter" in diffedit("models", "list").out.decode()


@pytest.mark.usefixtures("models")
def test_models_that_do_not_segment_together_are_refused() -> None:
    for name, says in {
        "./sam": "reads no words; name what finds them before it: --segmenter grounding-dino+./sam",
        "./clipseg+./sam": "joins models that do not segment together",
        "./dino+./sam+./sam": "joins models that do not segment together",
        "./dino+./clipseg": "joins models that do not segment together",
    }.items():
        with pytest.raises((UsageError, ModelError), match=says.replace("+", r"\+")):
            segmentation.find(name, Path("memo"))
    shutil.move("clipseg", "a+b")
    assert segmentation.find("a+b", Path("memo")).side == 352  # the path of a folder may hold the sign


@pytest.mark.usefixtures("models")
def test_a_segmenter_is_no_model_and_a_model_no_segmenter(tiny_epsilon: Path) -> None:
    ran = diffedit("edit", "cat.png", "--from", "cat", "--to", "dog", "--model", "clipseg")
    assert ran.code == 4
    assert "clipseg finds masks by words and edits nothing; name it with --segmenter" in ran.lines[-1]
    ran = diffedit("mask", "cat.png", "--segment", "a cat", "--segmenter", tiny_epsilon)
    assert ran.code == 4
    assert "names none; name another model" in ran.lines[-1]
    ran = diffedit("mask", "cat.png", "--segment", "a cat", "--segmenter", "clipseg", "--offline")
    assert ran.code == 4
    assert "download it with: diffedit models pull clipseg" in ran.lines[-1]


@pytest.mark.parametrize(
    ("kind", "name"), [("clipseg", "./clipseg"), ("dino", "./dino+./sam"), ("sam", "./dino+./sam")]
)
def test_a_segmenter_that_lacks_weights_is_refused(models: Path, kind: str, name: str) -> None:
    """transformers would fill them with random numbers, and say so only in a warning."""
    weights = models / kind / "model.safetensors"
    tensors = load_file(weights)
    del tensors[next(one for one in sorted(tensors) if "layers" in one)]
    save_file(tensors, weights, {"format": "pt"})
    ran = diffedit("mask", "cat.png", "--segment", "a cat", "--segmenter", name, "--no-cache")
    assert ran.code == 4
    assert re.search(r"its files lack \d weights, such as \S+layers", ran.lines[-1])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("clipseg", {"architectures": ["BertModel"]}, "is not a CLIPSegForImageSegmentation or"),
    ("clipseg", {"projection_dim": 60_000, "reduce_dim": 60_000}, "far larger network than its weights fill"),
    ("dino", {"max_text_len": 10**6}, "max_text_len is 1000000"),
    ("dino", {"backbone": "microsoft/resnet-50"}, "only swin can be used"),
    ("dino", {"backbone_config": {"model_type": "timm_backbone"}}, "timm_backbone as its backbone_config"),
    (
        "dino",
        {"backbone_config": {"model_type": "swin", "window_size": 2000}},
        "window_size is not of whole numbers up to",
    ),
    (
        "dino",
        {"backbone_config": {"model_type": "swin", "depths": [10**7, 1, 1, 1]}},
        "depths is not of whole numbers up to",
    ),
    ("dino", {"text_config": {"model_type": "llama"}}, "llama as its text_config, and only bert can be used"),
    ("sam", {"vision_config": {"model_type": "vit"}}, "vit as its vision_config"),
    ("sam", {"vision_config": {"backbone_config": {"patch_padding": [30000] * 2}}}, "patch_padding is not of whole"),
    ("sam", {"prompt_encoder_config": {"image_size": 4096}}, "it sees pictures of 4096 pixels in cells of 16"),
    ("sam", {"prompt_encoder_config": {"image_size": "big"}}, "image_size is 'big'"),
    ("sam", {"transformers_weights": "x.bin"}, "transformers_weights is"),
]


@pytest.mark.parametrize(("part", "said", "says"), BAD, ids=[says[:30] for *_, says in BAD])
def test_a_strangers_segmenter_takes_no_more_than_its_weights(
    models: Path, part: str, said: dict[str, Any], says: str
) -> None:
    path = models / part / "config.json"
    write_json(path, json.loads(path.read_text()) | said)
    ran = diffedit("mask", "cat.png", "--segment", "a cat", "--segmenter", "./clipseg" if part == "clipseg" else PAIR)
    assert ran.code == 4, ran.err
    assert says in ran.lines[-1]
    assert len(ran.lines) == 1
    assert not Path("cat.mask.png").exists()


def test_pickled_and_damaged_weights_are_refused(models: Path) -> None:
    words = ("mask", "cat.png", "--segment", "a cat", "--segmenter", "./clipseg")
    weights = models / "clipseg" / "model.safetensors"
    torch.save({}, weights)
    assert "is a pickled file" in diffedit(*words).lines[-1]
    torch.save({}, weights.rename(weights.with_name("pytorch_model.bin")))
    assert "has no .safetensors weights" in diffedit(*words).lines[-1]
    weights.write_bytes(b"\0" * 100)
    ran = diffedit(*words)
    assert ran.code == 4
    assert "cannot be loaded" in ran.lines[-1]


def test_a_vocabulary_that_does_not_fit_is_said(models: Path) -> None:
    path = models / "clipseg" / "tokenizer.json"
    said = json.loads(path.read_text())
    said["model"]["vocab"]["cat</w>"] = 999_999
    write_json(path, said)
    ran = diffedit("mask", "cat.png", "--segment", "a cat", "--segmenter", "./clipseg")
    assert ran.code == 4
    assert "Traceback" not in ran.err
