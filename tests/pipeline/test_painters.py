"""Today's models as painters: each one's own pipeline of diffusers is the oracle, picture, mask and result are ours."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import skimage
import tiny
import tiny_painters
import tiny_transformers
import torch
from command import WORDS, diffedit, picture, settled
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint as qwen_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as qwen_plus
from PIL import Image
from safetensors.torch import load_file, save_file

from diffedit_cli import DiffEdit
from diffedit_cli.engine.networks import vision_language
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import UsageError
from diffedit_cli.images import codecs, masks
from diffedit_cli.models import registry
from diffedit_cli.models.devices import choose_device
from diffedit_cli.pipeline.inpainting import InpaintingStage
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params

BOX = (10, 8, 44, 30)
STEPS = 4
SIDE = 96  # of the square pictures of Qwen-Image in these tests


@dataclass(frozen=True)
class Kind:
    """A kind of model: how a tiny one is written, the pipeline that paints, and what that is told by default."""

    write: Callable[[Path], Path]
    pipeline: str
    told: dict[str, Any] = field(default_factory=dict)
    calls: int = STEPS
    uses: tuple[str, ...] = ("--model", "--painter")
    pillow: bool = False


PAINTS, INSTRUCTED = ("--painter",), ("--painter", "--instruction")
GUIDED = {"strength": 0.9, "negative_prompt": ""}
KINDS = {
    "sdxl": Kind(tiny.write_sdxl, "StableDiffusionXLInpaintPipeline", {"guidance_scale": 7.5, **GUIDED}, 6),
    "sd3": Kind(tiny.write_sd3, "StableDiffusion3InpaintPipeline", {"guidance_scale": 7.5, **GUIDED}, 8),
    "flux-dev": Kind(
        tiny_transformers.write_flux, "FluxInpaintPipeline", {"guidance_scale": 7.5, "strength": 0.9}
    ),
    "flux-schnell": Kind(
        lambda folder: tiny_transformers.write_flux(folder, guidance_embeds=False),
        "FluxInpaintPipeline", {"strength": 0.9},
    ),
    "flux-fill": Kind(
        tiny_painters.write_fill, "FluxFillPipeline", {"guidance_scale": 30.0, "strength": 1.0}, uses=PAINTS
    ),
    "flux-kontext": Kind(
        tiny_painters.write_kontext, "FluxKontextInpaintPipeline",
        {"guidance_scale": 2.5, "strength": 1.0, "_auto_resize": False}, uses=INSTRUCTED,
    ),
    "klein": Kind(
        tiny_painters.write_klein, "Flux2KleinInpaintPipeline", {"guidance_scale": 7.5, "strength": 0.9}, 8,
        uses=("--model", *INSTRUCTED),
    ),
    "klein-distilled": Kind(
        lambda folder: tiny_transformers.write_flux2(folder, is_distilled=True),
        "Flux2KleinInpaintPipeline", {"strength": 0.9}, uses=("--model", *INSTRUCTED),
    ),
    "z-image": Kind(tiny_transformers.write_z_image, "ZImageInpaintPipeline", {"guidance_scale": 6.5, **GUIDED}, 8),
    "chroma": Kind(tiny_transformers.write_chroma, "ChromaInpaintPipeline", {"guidance_scale": 7.5, **GUIDED}, 8),
    "qwen-image": Kind(
        tiny_transformers.write_qwen_image, "QwenImageInpaintPipeline", {"true_cfg_scale": 7.5, **GUIDED}, 8
    ),
    "qwen-edit": Kind(
        tiny_painters.write_qwen_edit, "QwenImageEditInpaintPipeline",
        {"true_cfg_scale": 4.0, "strength": 1.0, "negative_prompt": ""}, 8, INSTRUCTED, pillow=True,
    ),
    "qwen-edit-plus": Kind(
        lambda folder: tiny_painters.write_qwen_edit(folder, "QwenImageEditPlusPipeline"),
        "QwenImageEditPlusPipeline", {"true_cfg_scale": 4.0, "negative_prompt": ""}, 8, INSTRUCTED, pillow=True,
    ),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photograph and a drawn mask; Qwen-Image is made for small pictures."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    Image.fromarray(skimage.data.astronaut()[:340, :510]).resize((60, 40)).save(tmp_path / "cat.png")
    drawn = Image.new("L", (60, 40))
    drawn.paste(255, BOX)
    drawn.save(tmp_path / "drawn.png")
    monkeypatch.setitem(FAMILIES, "qwen-image", replace(FAMILIES["qwen-image"], native_side=SIDE))
    for module in (qwen_edit, qwen_plus):
        sizes = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda _, ratio, sizes=sizes: sizes(SIDE**2, ratio))
    return tmp_path


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a kind of model, written once."""
    root = tmp_path_factory.mktemp("painters")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else KINDS[name].write(root / name)

    return folder


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def oracle(kind: Kind, folder: Path) -> Any:
    """The pipeline of diffusers, with the corrections that it needs; `rows` lists the rows of its network calls."""
    given = {"processor": vision_language.read_processor(folder / "processor")} if kind.pillow else {}
    pipe = getattr(diffusers, kind.pipeline).from_pretrained(folder, use_safetensors=True, **given)
    if kind.pillow:
        vision_language.mark_pictures(pipe)
    if kind.pipeline == "ChromaInpaintPipeline":
        masked = pipe._prepare_attention_mask
        pipe._prepare_attention_mask = lambda **given: masked(**given).bool()
        pipe.transformer.register_to_config(guidance_embeds=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS)
def test_it_paints_as_its_pipeline_does(here: Path, written: Callable[[str], Path], name: str) -> None:
    kind, folder = KINDS[name], written(name)
    loaded, mask = codecs.load(here / "cat.png"), masks.load_mask(here / "drawn.png")
    ours = InpaintingStage(registry.find(str(folder)).as_painter(), choose_device("cpu"), "float32")
    done: list[tuple[int, int]] = []
    params, noise = Params(to="a dog", steps=STEPS), generator(0, loaded, "inpaint")
    painted = ours.paint(loaded, mask, params, noise, lambda *step: done.append(step))
    height, width = painted.picture.shape[:2]
    grid, cell = painted.grid, height // painted.grid[0]
    whole = Image.fromarray(mask.pixels).resize((width, height), Image.Resampling.NEAREST)
    cells = np.asarray(whole).reshape(grid[0], cell, grid[1], cell).any(axis=(1, 3))
    pipe, rows = oracle(kind, folder), []
    network = pipe.unet if name == "sdxl" else pipe.transformer
    network.register_forward_pre_hook(
        lambda _, args, named: rows.append(len(args[0] if args else named["hidden_states"])), with_kwargs=True
    )
    shown = torch.from_numpy(loaded.model_input((width, height)) / 2 + 0.5)[None]
    drawn = torch.from_numpy(cells.repeat(cell, axis=0).repeat(cell, axis=1).astype(np.float32))[None, None]
    given = kind.told if name == "qwen-edit-plus" else {**kind.told, "mask_image": drawn}
    theirs = pipe(
        prompt="a dog",
        image=pipe.image_processor.numpy_to_pil(shown.permute(0, 2, 3, 1).numpy())[0] if kind.pillow else shown,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        generator=generator(0, loaded, "inpaint"),
        output_type="pt",
        **given,
    ).images.float()
    if theirs.shape[-2:] != (height, width):
        theirs = torch.nn.functional.interpolate(theirs, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    assert np.abs(painted.picture - (theirs[0].permute(1, 2, 0).numpy() * 2 - 1)).max() < 1e-4
    assert painted.evaluations == sum(rows) == kind.calls
    assert done == [(step, pipe.num_timesteps) for step in range(1, pipe.num_timesteps + 1)]


@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS)
def test_only_masked_pixels_change_and_always_the_same_way(
    here: Path, written: Callable[[str], Path], name: str
) -> None:
    picture(here / "second.png", (50, 70))
    words = ("--to", "dog", "--painter", written(name), "--steps", STEPS, "--json")
    ran = diffedit("edit", "cat.png", "--mask", "drawn.png", *words)
    assert ran.code == 0, ran.err
    assert (ran.warnings, ran.json["evaluations"]["edit"]) == ([], KINDS[name].calls)
    changed = (pixels("cat.edited.png") != pixels("cat.png")).any(axis=2)
    inside = pixels("drawn.png")[..., 0] > 0
    assert changed[inside].mean() > 0.9
    assert not (changed & ~inside).any()
    Image.open("drawn.png").resize((50, 70)).point(lambda value: 255 * (value > 127)).save("of-second.png")
    shutil.copy("drawn.png", "of-cat.png")
    ran = diffedit("run", "second.png", "cat.png", "--mask", "of-{stem}.png", *words, "--out", "out")
    assert ran.code == 0, ran.err
    assert (here / "out" / "cat.png").read_bytes() == (here / "cat.edited.png").read_bytes()


@pytest.mark.parametrize("words", [("--from", "cat", "--to", "small cat"), (*WORDS, "--region", "remove")])
@pytest.mark.usefixtures("here")
def test_its_own_defaults_come_before_those_of_the_kind_of_edit(
    written: Callable[[str], Path], words: tuple[str, ...]
) -> None:
    assert diffedit("edit", "cat.png", *words, "--painter", written("flux-fill"), "--room", 0).code == 0
    line = diffedit("info", "cat.edited.png").out.decode().splitlines()[-1]
    assert "--guidance 30.0 " in line
    assert "--strength 1.0 " in line


@pytest.mark.parametrize("name", ["flux-fill", "flux-kontext", "klein", "z-image", "qwen-edit", "sdxl"])
def test_show_says_what_it_is(written: Callable[[str], Path], name: str) -> None:
    shown = diffedit("models", "show", written(name), "--json").json
    assert shown["use"] == list(KINDS[name].uses)
    assert shown["pipeline"] == json.loads((written(name) / "model_index.json").read_text())["_class_name"]
    assert f"use: {', '.join(KINDS[name].uses)}\n" in diffedit("models", "show", written(name)).out.decode()


def test_show_says_that_a_network_of_nine_channels_only_paints(inpainter: Path) -> None:
    assert diffedit("models", "show", inpainter, "--json").json["use"] == ["--painter"]


@pytest.mark.parametrize("name", ["flux-fill", "flux-kontext", "qwen-edit", "qwen-edit-plus"])
@pytest.mark.usefixtures("here")
def test_a_painter_is_no_model(written: Callable[[str], Path], name: str) -> None:
    for words in (("edit", "cat.png", *WORDS, "--model"), ("mask", "cat.png", *WORDS, "--model"), ("models", "use")):
        ran = diffedit(*words, written(name))
        assert ran.code == 4
        assert f"{written(name)} is a painter (" in ran.lines[-1]
        assert "use it with --painter" in ran.lines[-1]


def flux_of_fill(folder: Path) -> Path:
    return tiny_painters.renamed(tiny_painters.write_fill(folder), "FluxPipeline")


def without_processor(folder: Path) -> Path:
    shutil.rmtree(tiny_painters.write_qwen_edit(folder) / "processor")
    return folder


def of_other_width(folder: Path) -> Path:
    tiny_painters.write_kontext(folder)
    tiny.t5_encoder(folder / "text_encoder_2", 32)
    return folder


def enlarging(folder: Path) -> Path:
    settings = tiny_painters.write_qwen_edit(folder) / "processor" / "preprocessor_config.json"
    sizes = {"size": {"shortest_edge": 10**9, "longest_edge": 10**9}}
    tiny.write_json(settings, json.loads(settings.read_text()) | sizes)
    return folder


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (tiny_transformers.write_pixart, "is a PixArtSigmaPipeline, which cannot repaint under a mask; use another"),
        (flux_of_fill, "its network takes 192 channels, not 64."),
        (without_processor, "processor is missing; get it again."),
        (of_other_width, "do not fit each other ("),
        (enlarging, "preprocessor_config.json size is "),
    ],
)
def test_a_folder_that_cannot_paint_is_refused(here: Path, write: Callable[[Path], Path], said: str) -> None:
    ran = diffedit("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", write(here / "model"))
    assert ran.code == 4, ran.err
    assert said in ran.lines[-1]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("flux-fill", ("--negative", "cat"), "reads no negative prompt; leave out --negative."),
        ("qwen-edit-plus", ("--strength", 0.5), "starts from noise alone; leave out --strength."),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_option_that_it_does_not_read_is_refused(
    written: Callable[[str], Path], name: str, words: tuple[object, ...], said: str
) -> None:
    ran = diffedit("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", written(name), *words)
    assert ran.code == 2
    assert said in ran.lines[-1]


@pytest.mark.thorough
def test_an_instruction_takes_the_place_of_the_prompt(here: Path, written: Callable[[str], Path]) -> None:
    """The mask is found for --from and --to; info says the instruction, and a column of a job file gives it."""
    words = ("edit", "cat.png", *WORDS, "--room", 0, "--painter", written("flux-kontext"))
    results = {}
    for name, more in {"dog": (), "told": ("--instruction", "make it a dog"), "same": ("--instruction", "dog")}.items():
        ran = diffedit(*words, *more, "-o", f"{name}.png")
        assert ran.code == 0, ran.err
        results[name] = pixels(f"{name}.png")
    assert (results["dog"] == results["same"]).all()
    assert (results["dog"] != results["told"]).any()
    line = diffedit("info", "told.png").out.decode().splitlines()[-1]
    assert "--instruction 'make it a dog'" in line
    again = [{"PICTURE": "cat.png"}.get(word, word) for word in shlex.split(line)[1:]]
    shutil.move("told.png", "first.png")
    assert diffedit(*again, "-o", "told.png").code == 0
    assert (here / "told.png").read_bytes() == (here / "first.png").read_bytes()
    row = {"input": "cat.png", "from": "cat", "to": "dog", "instruction": "make it a dog"}
    (here / "jobs.jsonl").write_text(json.dumps(row) + "\n")
    ran = diffedit("run", "jobs.jsonl", "--room", 0, "--painter", written("flux-kontext"), "--out", "out")
    assert ran.code == 0, ran.err
    assert (pixels("out/cat.png") == results["told"]).all()


def test_with_a_mask_an_instruction_is_enough(here: Path, written: Callable[[str], Path]) -> None:
    words = ("edit", "cat.png", "--mask", "drawn.png", "--painter", written("flux-kontext"), "--steps", 2)
    assert diffedit(*words, "-o", "none.png").code == 2
    assert diffedit(*words, "--instruction", "dog", "-o", "told.png").code == 0
    assert diffedit(*words, "--to", "dog", "-o", "to.png").code == 0
    assert (pixels("told.png") == pixels("to.png")).all()
    library = DiffEdit(painter=written("flux-kontext"))
    edited = library.edit(here / "cat.png", mask=here / "drawn.png", instruction="dog", steps=2)
    assert (np.asarray(edited.image).astype(int) == pixels("to.png")).all()


def test_an_instruction_needs_a_painter(here: Path) -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--instruction", "make it a dog")
    assert ran.code == 2
    assert "--instruction tells the model of --painter what to do; name one" in ran.lines[-1]
    with pytest.raises(UsageError, match="--instruction tells the model of --painter"):
        DiffEdit().edit(here / "cat.png", from_="cat", to="dog", instruction="make it a dog")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["flux-fill", "klein"])
def test_half_precision_that_overflows_is_repeated(here: Path, written: Callable[[str], Path], name: str) -> None:
    folder = Path(shutil.copytree(written(name), here / "loud"))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["x_embedder.weight"] = tensors["x_embedder.weight"] * 3e5
    save_file(tensors, weights, {"format": "pt"})
    words = ("edit", "cat.png", "--to", "dog", "--mask", "drawn.png", "--painter", "loud", "--steps", 2, "--json")
    found = diffedit(*words, "--dtype", "float16").json
    assert any("repeated in float32" in warning for warning in found["warnings"])
    assert diffedit(*words).warnings == []


@pytest.mark.thorough
def test_it_zooms(here: Path, written: Callable[[str], Path]) -> None:
    large = picture(here / "large.png", (240, 160))
    drawn = Image.new("L", (240, 160))
    drawn.paste(255, (100, 60, 150, 100))
    drawn.save("of-large.png")
    words = ("edit", large, "--to", "dog", "--mask", "of-large.png", "--painter", written("flux-fill"), "--zoom", 2)
    ran = diffedit(*words, "-o", "zoomed.png", "--json")
    assert ran.code == 0, ran.err
    changed = (pixels("zoomed.png") != pixels(large)).any(axis=2)
    assert changed.any()
    assert not (changed & ~(pixels("of-large.png")[..., 0] > 0)).any()


def test_the_encoder_of_qwen_edit_knows_where_the_picture_is(tmp_path: Path, written: Callable[[str], Path]) -> None:
    """The embedding is that of the whole output of transformers' processor, of which diffusers passes a part."""
    pipe = oracle(KINDS["qwen-edit"], written("qwen-edit"))
    with Image.open(picture(tmp_path / "seen.png")) as opened:
        seen = opened.convert("RGB")
    with torch.inference_mode():
        found, _ = pipe.encode_prompt("a dog", image=seen, device=torch.device("cpu"))
        batch = pipe.processor(text=[pipe.prompt_template_encode.format("a dog")], images=seen, return_tensors="pt")
        assert batch["mm_token_type_ids"].sum() == 2  # tokens of 28 x 28 px in a picture of 56 x 28
        expected = pipe.text_encoder(**batch, output_hidden_states=True).hidden_states[-1]
        del batch["mm_token_type_ids"]
        pipe.text_encoder._forward_pre_hooks.clear()
        unaware = pipe.text_encoder(**batch, output_hidden_states=True).hidden_states[-1]
    leading = pipe.prompt_template_encode_start_idx
    torch.testing.assert_close(found, expected[:, leading:])
    assert (unaware - expected).abs().max() > 1e-3
