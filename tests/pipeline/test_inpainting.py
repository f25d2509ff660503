"""An inpainting model in place of inversion and edit: the work is diffusers', picture, mask and result are ours."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from command import WORDS, diffedit, installed, settled
from diffusers import StableDiffusionInpaintPipeline
from ldm import write_checkpoint
from PIL import Image
from tiny import write_safety

from diffedit_cli.images import codecs, masks
from diffedit_cli.models import registry
from diffedit_cli.models.devices import choose_device
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params

BOX = (10, 8, 44, 30)


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture and a drawn mask."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    drawn = Image.new("L", (60, 40))
    drawn.paste(255, BOX)
    drawn.save(tmp_path / "drawn.png")
    return tmp_path


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "evaluations"), [("made for it", 10), ("plain", 8)])
def test_it_repaints_the_mask_and_nothing_else(
    here: Path, inpainter: Path, tiny_v: Path, kind: str, evaluations: int
) -> None:
    """Through the installed program."""
    model = inpainter if kind == "made for it" else tiny_v
    words = ("--to", "dog", "--mask", "drawn.png", "--painter", model, "--json")
    ran = installed("edit", "cat.png", *words, folder=here)
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"] == {"mask": 0, "invert": 0, "edit": evaluations}
    assert (ran.warnings, ran.json["status"]) == ([], "done")
    assert ran.json["painter"] == str(model)
    assert f" and {model} on cpu" in ran.lines[-1]
    assert set(ran.json["seconds"]) == {"edit"}  # the model itself was never loaded
    told = [line for line in ran.lines[:-1] if not line.startswith("warning: The edit of")]
    assert told == [f"repainting ({evaluations // 2} steps)"]
    changed = (pixels(here / "cat.edited.png") != pixels(here / "cat.png")).any(axis=2)
    inside = pixels(here / "drawn.png")[..., 0] > 0
    assert changed.any()
    assert not (changed & ~inside).any()


def test_the_mask_is_found_as_ever(here: Path, inpainter: Path) -> None:
    words = (*WORDS, "--room", "0", "--painter", inpainter)
    ran = diffedit("edit", "cat.png", *words, "--json")
    assert ran.json["evaluations"] == {"mask": 4, "invert": 0, "edit": 10}
    assert ran.json["cache"] == {"mask": "miss", "edit": "miss"}
    assert diffedit("mask", "cat.png", *WORDS, "--json").json["mask_area"] == ran.json["mask_area"]
    ran = diffedit("run", "cat.png", *words, "--out", "out")
    assert (here / "out" / "cat.png").read_bytes() == (here / "cat.edited.png").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"to": "grass"},
        {"negative": "dog"},
        {"guidance": 3.0},
        {"guidance": 1.0},
        {"strength": 1.0},
        {"steps": 6},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_parameter_reaches_diffusers(here: Path, inpainter: Path, changes: dict[str, object]) -> None:
    """The oracle is the pipeline itself, given what the options say."""
    params = Params(**{"to": "dog", "steps": 5, "guidance": 7.5, "strength": 0.9, **changes})
    picture, mask = codecs.load(here / "cat.png"), masks.load_mask(here / "drawn.png")
    ours = InpaintingStage(registry.find(str(inpainter)), choose_device("cpu"), "float32")
    steps: list[tuple[int, int]] = []
    painted = ours.paint(
        picture, mask, params, generator(params.seed, picture, "inpaint"), lambda *done: steps.append(done)
    )
    size = (painted.grid[1] * 4, painted.grid[0] * 4)
    whole_cells = Image.fromarray(mask.pixels).resize(size, Image.Resampling.NEAREST)
    cells = np.asarray(whole_cells).reshape(painted.grid[0], 4, painted.grid[1], 4).any(axis=(1, 3))
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(inpainter, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=params.to,
        negative_prompt=params.negative,
        image=torch.from_numpy(picture.model_input(size) / 2 + 0.5)[None],
        mask_image=torch.from_numpy(cells.repeat(4, axis=0).repeat(4, axis=1).astype(np.float32))[None, None],
        height=size[1],
        width=size[0],
        guidance_scale=params.guidance,
        strength=params.strength,
        num_inference_steps=params.steps,
        generator=generator(params.seed, picture, "inpaint"),
        output_type="np",
    ).images[0]
    assert np.abs(painted.picture - (theirs * 2 - 1)).max() < 1e-4
    count = pipeline.num_timesteps  # PNDM, the scheduler of such models, makes its first step twice
    assert count == int(params.steps * params.strength) + 1
    assert steps == [(done, count) for done in range(1, count + 1)]
    assert painted.evaluations == count * (1 if params.guidance == 1 else 2)


@pytest.mark.parametrize(
    "words",
    [
        (*WORDS, "--negative", "cat", "--seed", "3"),
        (*WORDS, "--strength", "1", "--guidance", "3"),
        ("--to", "dog", "--mask", "drawn.png", "--seed", "5"),
        (*WORDS, "--mask", "found.png", "--steps", "6"),
    ],
    ids=" ".join,
)
def test_info_repeats_it(here: Path, inpainter: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    assert diffedit("mask", "cat.png", *WORDS, "-o", "found.png").code == 0
    ran = diffedit("edit", "cat.png", *words, "--painter", inpainter)
    assert ran.code == 0, ran.err
    first = (here / "cat.edited.png").read_bytes()
    line = diffedit("info", "cat.edited.png").out.decode().splitlines()[-1]
    assert f"--painter {inpainter}" in line
    mask = "found.png" if "found.png" in words else "drawn.png"
    again = [{"PICTURE": "cat.png", "MASK.png": mask}.get(word, word) for word in shlex.split(line)[1:]]
    for name in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{name}")
    ran = diffedit(*again)
    assert ran.code == 0, ran.err
    assert (here / "cat.edited.png").read_bytes() == first


@pytest.mark.parametrize("family", ["tiny_sdxl", "tiny_sd3"])
def test_other_families_paint_too(here: Path, family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--strength", 0.8, "--painter", model, "--json")
    ran = diffedit(*words)
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"]["edit"] == 8
    assert (pixels(here / "cat.edited.png") != pixels(here / "cat.png")).any()


@pytest.mark.usefixtures("here")
def test_a_graded_mask_is_refused_and_a_feather_recorded(inpainter: Path) -> None:
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", inpainter)
    ran = diffedit(*words, "--soft")
    assert ran.code == 2
    assert "leave out --soft" in ran.err
    assert diffedit(*words, "--feather", 2, "-o", "wide.png").code == 0
    assert "--feather 2.0" in diffedit("info", "wide.png").out.decode()


def test_its_own_safety_checker_counts(here: Path, inpainter: Path, tiny_epsilon: Path) -> None:
    write_safety(Path(shutil.copytree(inpainter, here / "strict")), -1.01)
    write_safety(Path(shutil.copytree(tiny_epsilon, here / "model")), -1.01)
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--model", "model")
    assert diffedit(*words, "--painter", "strict").code == 9
    assert diffedit(*words, "--painter", "strict", "--no-safety").code == 0
    assert diffedit(*words, "--painter", inpainter).code == 0


def test_half_precision_that_overflows_is_repeated(here: Path, inpainter: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(inpainter, here / "loud"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    for name in ("conv_in.weight", "conv_in.bias"):
        tensors[name] = tensors[name] * 1e5
    save_file(tensors, weights, {"format": "pt"})
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", "loud", "--json")
    found = diffedit(*words, "--dtype", "float16").json
    assert any("repeated in float32" in warning for warning in found["warnings"])
    assert diffedit(*words).warnings == []


@pytest.mark.parametrize("named", ["four channels", "nine channels"])
def test_an_inpainting_checkpoint_paints(here: Path, tiny_epsilon: Path, inpainter: Path, named: str) -> None:
    """How many channels its network takes, the file says; `info` says how to repeat it."""
    file = write_checkpoint(inpainter, here / "painter.safetensors", "sd15")
    model = write_checkpoint(tiny_epsilon, here / "model.safetensors", "sd15")
    config = {"four channels": tiny_epsilon, "nine channels": inpainter}[named]
    words = ("edit", "cat.png", *WORDS, "--model", model if named == "four channels" else tiny_epsilon)
    ran = diffedit(*words, "--painter", file, "--model-config", config, "-o", "painted.png")
    assert ran.code == 0, ran.err
    told = diffedit("info", "painted.png").out.decode()
    assert f"--painter {file}" in told
    assert told.count(f"--model-config {config}") == 1
    ran = diffedit("edit", "cat.png", *WORDS, "--painter", inpainter, "-o", "expected.png")
    assert ran.code == 0, ran.err
    assert (pixels("painted.png") == pixels("expected.png")).all()
    ran = diffedit("mask", "cat.png", *WORDS, "--model", file, "--model-config", config)
    assert ran.code == 4
    assert "takes 9 channels" in ran.err


def test_a_configuration_of_another_family_is_said(here: Path, inpainter: Path, tiny_sdxl: Path) -> None:
    file = write_checkpoint(inpainter, here / "painter.safetensors", "sd15")
    ran = diffedit("edit", "cat.png", *WORDS, "--painter", file, "--model-config", tiny_sdxl)
    assert ran.code == 4
    assert f"which the configuration of {tiny_sdxl} does not fit" in ran.lines[-1]


@pytest.mark.parametrize("words", [(), ("--strength", 1), ("--variants", 2)], ids=str)
@pytest.mark.usefixtures("here")
def test_one_step_is_enough_with_a_mask(tiny_v: Path, words: tuple[object, ...]) -> None:
    """The usual strengths are at least one step, and the strength of the mask is none of a mask that is given."""
    told = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", tiny_v, "--steps", 1)
    ran = diffedit(*told, *words)
    assert ran.code == 0, ran.err
    assert diffedit(*told, "--strength", 0.5).code == 2


@pytest.mark.usefixtures("here")
def test_with_a_mask_any_picture_is_painted_without_a_model(inpainter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in model, which refuses photographs, is not asked."""
    monkeypatch.delenv("DIFFEDIT_MODEL")
    Image.fromarray(skimage.data.astronaut()).resize((60, 40)).save("cat.png")
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", inpainter, "--steps", 2)
    assert diffedit(*words, "--zoom", 2, "-o", "zoomed.png").code == 0
    assert diffedit(*words).code == 0
    ran = diffedit("edit", "cat.png", *WORDS, "--painter", inpainter, "--steps", 2)
    assert ran.code == 4
    assert "is unlike the drawn scenes" in ran.lines[-1]
