"""Painters of families that have no row: any editing pipeline of diffusers, called by its signature."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import skimage
import tiny
import tiny_painters
import torch
from command import diffedit, settled
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
from PIL import Image

from diffedit_cli.engine.networks import other_painters, vision_language
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.images import codecs, masks
from diffedit_cli.models import formats, registry
from diffedit_cli.models.devices import choose_device
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params

BOX = (10, 8, 44, 30)
STEPS = 3
GUIDED = {"guidance_scale": 7.5, "negative_prompt": ""}
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {  # how it is written, what its pipeline is told
    "pix2pix": (tiny_painters.write_pix2pix, GUIDED),
    "sdxl-pix2pix": (tiny_painters.write_sdxl_pix2pix, GUIDED | {"guidance_scale": 5.0}),
    "pag": (tiny_painters.write_pag, GUIDED | {"strength": 0.9}),
    "longcat": (tiny_painters.write_longcat, GUIDED | {"guidance_scale": 4.5}),
}


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photograph and a drawn mask."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    Image.fromarray(skimage.data.astronaut()[:340, :510]).resize((60, 40)).save("cat.png")
    drawn = Image.new("L", (60, 40))
    drawn.paste(255, BOX)
    drawn.save("drawn.png")
    sizes = longcat.calculate_dimensions
    monkeypatch.setattr(longcat, "calculate_dimensions", lambda _, ratio: sizes(64**2, ratio))
    return tmp_path


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a kind of model, written once."""
    root = tmp_path_factory.mktemp("others")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else KINDS[name][0](root / name)

    return folder


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def small(folder: Path, name: str) -> Path:
    """The folder with another native size of a family that has 1024 px, for speed."""
    settings = folder / "vae" / "config.json"
    if name == "longcat":
        tiny.write_json(settings, json.loads(settings.read_text()) | {"sample_size": 64})
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS)
def test_it_paints_as_its_pipeline_does(here: Path, written: Callable[[str], Path], name: str) -> None:
    folder = small(written(name), name)
    loaded, mask = codecs.load(here / "cat.png"), masks.load_mask(here / "drawn.png")
    ours = InpaintingStage(registry.find(str(folder)).as_painter(), choose_device("cpu"), "float32")
    noise = generator(0, loaded, "inpaint")
    painted = ours.paint(loaded, mask, Params(to="a dog", steps=STEPS), noise, lambda *_: None)
    height, width = painted.picture.shape[:2]
    given: dict[str, Any] = dict(KINDS[name][1])
    parts = {}
    if name == "longcat":
        parts["text_processor"] = vision_language.read_processor(folder / "text_processor")
    pipe = getattr(diffusers, registry.find(str(folder)).pipeline).from_pretrained(
        folder, use_safetensors=True, safety_checker=None, **parts
    )
    if name == "longcat":
        vision_language.mark_pictures(pipe)
    if name == "pag":
        cell = height // painted.grid[0]
        whole = Image.fromarray(mask.pixels).resize((width, height), Image.Resampling.NEAREST)
        cells = np.asarray(whole).reshape(painted.grid[0], cell, painted.grid[1], cell).any(axis=(1, 3))
        drawn = cells.repeat(cell, axis=0).repeat(cell, axis=1).astype(np.float32)
        given |= {"mask_image": torch.from_numpy(drawn)[None, None], "height": height, "width": width}
    elif name == "sdxl-pix2pix":
        given |= {"height": height, "width": width}
    pipe.set_progress_bar_config(disable=True)
    shown = loaded.model_input((width, height)).transpose(1, 2, 0) / 2 + 0.5
    theirs = pipe(
        prompt="a dog",
        image=pipe.image_processor.numpy_to_pil(shown[None])[0],
        num_inference_steps=STEPS,
        generator=generator(0, loaded, "inpaint"),
        output_type="pt",
        **given,
    ).images.float()
    if theirs.shape[-2:] != (height, width):
        theirs = torch.nn.functional.interpolate(theirs, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    assert painted.motion is None
    assert np.abs(painted.picture - (theirs[0].permute(1, 2, 0).numpy() * 2 - 1)).max() < 1e-4
    assert painted.evaluations > 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("here")
def test_only_masked_pixels_change_and_always_the_same_way(written: Callable[[str], Path], name: str) -> None:
    words = ("edit", "cat.png", "--mask", "drawn.png", "--to", "dog", "--painter", small(written(name), name))
    ran = diffedit(*words, "--steps", STEPS, "--json", "-o", "first.png")
    assert ran.code == 0, ran.err
    assert (ran.warnings, ran.json["painter"]) == ([], str(written(name)))
    changed = (pixels("first.png") != pixels("cat.png")).any(axis=2)
    inside = pixels("drawn.png")[..., 0] > 0
    assert changed[inside].mean() > 0.9
    assert not (changed & ~inside).any()
    assert diffedit(*words, "--steps", STEPS, "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()


@pytest.mark.usefixtures("here")
def test_it_is_a_painter_and_no_model(written: Callable[[str], Path]) -> None:
    folder = written("pix2pix")
    ran = diffedit("edit", "cat.png", "--from", "cat", "--to", "dog", "--model", folder)
    assert ran.code == 4
    assert f"{folder} is a painter (StableDiffusionInstructPix2PixPipeline)" in ran.lines[-1]
    shown = diffedit("models", "show", folder, "--json").json
    assert shown["use"] == ["--painter", "--instruction"]
    words = ("edit", "cat.png", "--mask", "drawn.png", "--to", "dog", "--painter", folder, "--strength", 0.5)
    assert "starts from noise alone; leave out --strength." in diffedit(*words).lines[-1]


def with_index(folder: Path, **more: object) -> Path:
    index = folder / "model_index.json"
    tiny.write_json(index, json.loads(index.read_text()) | more)
    return folder


def pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.with_suffix(".bin").write_bytes(pickle.dumps({"a": 1}))
    weights.unlink()


def with_code(folder: Path) -> None:
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit('run')")
    (folder / "pipeline.py").write_text("raise SystemExit('run')")


def enormous(folder: Path) -> None:
    settings = folder / "unet" / "config.json"
    tiny.write_json(settings, json.loads(settings.read_text()) | {"block_out_channels": [32768, 65536]})


def immense(folder: Path) -> None:
    settings = folder / "unet" / "config.json"
    tiny.write_json(settings, json.loads(settings.read_text()) | {"sample_size": 10**9})


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "custom pipeline": (lambda at: with_index(at, _class_name=["evil", "EditPipeline"]), "which diffedit cannot use"),
    "unknown pipeline": (lambda at: with_index(at, _class_name="NoSuchEditPipeline"), "which diffedit cannot use"),
    "no pipeline": (lambda at: with_index(at, _class_name="InpaintingError"), "which diffedit cannot use"),
    "control": (lambda at: with_index(at, _class_name="FluxControlInpaintPipeline"), "which diffedit cannot use"),
    "of films": (lambda at: with_index(at, _class_name="ChronoEditPipeline"), "which diffedit cannot use"),
    "function": (lambda at: with_index(at, unet=["transformers", "pipeline"]), "which diffedit cannot use"),
    "own library": (lambda at: with_index(at, unet=["os", "system"]), "which diffedit cannot use"),
    "odd pair": (lambda at: with_index(at, tokenizer=[["os"], {"a": 1}]), "which diffedit cannot use"),
    "no denoiser": (lambda at: with_index(at, unet="unet"), "which diffedit cannot use"),
    "part is missing": (lambda at: shutil.rmtree(at / "text_encoder"), "text_encoder is missing"),
    "pickled": (pickled, "pickled weights can run code"),
    "code in it": (with_code, "cannot be loaded"),
    "enormous": (enormous, "cannot be loaded"),
    "immense": (immense, "sample_size"),
    "damaged settings": (lambda at: (at / "vae" / "config.json").write_text("[1"), "which diffedit cannot use"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_sentence(here: Path, written: Callable[[str], Path], what: str) -> None:
    folder = Path(shutil.copytree(written("pix2pix"), here / "hostile"))
    change, said = HOSTILE[what]
    change(folder)
    ran = diffedit("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", folder)
    assert ran.code == 4, ran.err
    assert said in ran.lines[-1]
    assert "Traceback" not in ran.err


def test_which_pipelines_of_diffusers_are_called_by_their_signature() -> None:
    """The table in docs/models.md lists them; a new one of diffusers is to be looked at, and added there."""
    rows = {name for family in FAMILIES.values() for name in family.pipelines}
    named = {name for name in dir(diffusers) if other_painters.may_paint(name)} - rows
    taken = {name for name in named if other_painters.arguments(name) is not None}
    assert {
        "StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline",
        "StableDiffusionPAGInpaintPipeline", "StableDiffusionXLPAGInpaintPipeline", "LongCatImageEditPipeline",
    } <= taken  # fmt: skip
    assert not {name for name in taken if "Control" in name or "Video" in name or "Combined" in name}
    page = (Path(formats.__file__).parents[2] / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in page for name in taken)
