"""Files that hold the denoiser alone, of every family and in every format that people have, read in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import original_names as original
import pytest
import tiny
import tiny_transformers
import torch
from command import FAST, WORDS, diffedit, picture
from gguf import GGMLQuantizationType
from huggingface_hub import constants
from ldm import Tensors, read, write_checkpoint
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from diffedit_cli.engine.networks.model_formats import FAMILIES, network_file
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters, registry
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.loader import Loader
from diffedit_cli.models.memory import OffloadOptions

WRITERS: dict[str, Callable[[Path], Path]] = {
    "flux2": tiny_transformers.write_flux2,
    "z-image": tiny_transformers.write_z_image,
    "flux": tiny_transformers.write_flux,
    "chroma": tiny_transformers.write_chroma,
    "qwen-image": tiny_transformers.write_qwen_image,
    "sd3": tiny.write_sd3,
    "sd": tiny.write_model,
    "sdxl": tiny.write_sdxl,
}
# By format: how a file is written from the tensors in the authors' layout and in diffusers' names, and the largest
# relative error of a prediction.
FORMATS: dict[str, tuple[Callable[[Tensors, Tensors, Path], Path], float]] = {
    "original": (lambda theirs, _, file: original.write(theirs, file), 1e-5),
    "comfy": (lambda theirs, _, file: original.write(theirs, file, original.COMFY), 1e-5),
    "diffusers": (lambda _, ours, file: original.write(ours, file), 1e-5),
    "bfloat16": (lambda theirs, _, file: original.write(halved(theirs), file), 0.02),
    "float8": (lambda theirs, _, file: original.write(original.float8(theirs), file), 0.1),
    "scale_weight": (
        lambda theirs, _, file: original.write(original.float8(theirs, "scale_weight"), file, original.COMFY), 0.1
    ),
    "weight_scale": (lambda theirs, _, file: original.write(original.float8(theirs, "weight_scale"), file), 0.1),
    "F16": (lambda theirs, _, file: original.write_gguf(theirs, file, GGMLQuantizationType.F16), 0.002),
    "BF16": (lambda theirs, _, file: original.write_gguf(theirs, file, GGMLQuantizationType.BF16), 0.02),
    "Q8_0": (lambda theirs, _, file: original.write_gguf(theirs, file, GGMLQuantizationType.Q8_0), 0.02),
    "Q8_0 diffusers": (lambda _, ours, file: original.write_gguf(ours, file, GGMLQuantizationType.Q8_0), 0.02),
}  # fmt: skip


def halved(tensors: Tensors) -> Tensors:
    return {name: tensor.bfloat16() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {family: write(place / family) for family, write in WRITERS.items()}


@pytest.fixture(scope="module")
def tensors(folders: dict[str, Path]) -> dict[str, Tensors]:
    """The tensors of each family's denoiser in its authors' layout."""
    return {family: original.ORIGINAL[family](denoiser(family, folder)) for family, folder in folders.items()}


def denoiser(family: str, folder: Path) -> Path:
    return folder / FAMILIES[family].denoiser


def loaded(found: ModelFolder, dtype: str = "float32", **memory: str) -> Any:
    return Loader().load(found, "cpu", dtype, OffloadOptions(**memory))


def predicted(model: Any) -> Tensor:
    x_t = torch.randn((1, model.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        eps: Tensor = model.predict(x_t, model.levels(10)[6], model.embed("a cat on grass")).eps
    return eps


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def says(name: object, **options: Any) -> str:
    """The sentence of a model that cannot be found or loaded."""
    with pytest.raises(ModelError) as caught:
        loaded(registry.find(str(name), **options))
    return str(caught.value)


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, Tensor]:
    """What each family's folder predicts."""
    return {family: predicted(loaded(registry.find(str(folder)))) for family, folder in folders.items()}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_network_alone_predicts_what_its_folder_does(
    folders: dict[str, Path],
    tensors: dict[str, Tensors],
    expected: dict[str, Tensor],
    tmp_path: Path,
    family: str,
    form: str,
) -> None:
    write, most = FORMATS[form]
    file = write(tensors[family], read(denoiser(family, folders[family]))[0], tmp_path / "network")
    found = registry.find(str(file), config=str(folders[family]))
    assert (found.family, found.path) == (family, folders[family])
    assert found.elsewhere == {FAMILIES[family].denoiser: file}
    model = loaded(found)
    assert error(predicted(model), expected[family]) < most
    if form in ("original", "comfy", "diffusers"):
        own, weights = read(denoiser(family, folders[family]))[0], model.network.state_dict()
        assert own.keys() == weights.keys()
        assert all(torch.equal(weights[name], own[name]) for name in own)


@pytest.mark.parametrize("family", WRITERS)
def test_float8_is_widened_with_its_scale(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    small = original.float8(read(denoiser(family, folders[family]))[0], "scale_weight")
    file = original.write(small, tmp_path / "network")
    weights = loaded(registry.find(str(file), config=str(folders[family]))).network.state_dict()
    scaled = {name: small.get(f"{name.removesuffix('weight')}scale_weight") for name in weights}
    assert any(scale is not None for scale in scaled.values())
    for name, scale in scaled.items():
        assert torch.equal(weights[name], small[name].float() * (1 if scale is None else scale)), name


@pytest.mark.parametrize("family", WRITERS)
def test_layouts_are_told_apart(folders: dict[str, Path], tensors: dict[str, Tensors], family: str) -> None:
    for names in (tensors[family], read(denoiser(family, folders[family]))[0]):
        for prefix in ("", original.COMFY, "diffusion_model."):
            found = network_file([prefix + name for name in names])
            assert found is not None
            assert found[0] == family


def test_the_usual_model_of_flux_depends_on_whether_it_reads_the_guidance(tensors: dict[str, Tensors]) -> None:
    dev = network_file(tensors["flux"])
    schnell = network_file([name for name in tensors["flux"] if "guidance" not in name])
    assert (dev and dev[1].usual, schnell and schnell[1].usual) == (
        "flux-dev", "flux-schnell",
    )  # fmt: skip


@pytest.mark.parametrize("family", WRITERS)
def test_a_network_with_other_weights_than_its_folder_is_refused(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path, family: str
) -> None:
    """One too few, one too many, another shape, integers: the sentence names the tensor or its name in diffusers."""
    own = read(denoiser(family, folders[family]))[0]
    for layout in (tensors[family], own):
        marks = {mark for file in FAMILIES[family].network_files for mark in file.marks}
        name = next(name for name in reversed(layout) if name not in marks and layout[name].ndim == 2)
        spoiled: list[tuple[Tensors, str]] = [
            ({one: layout[one] for one in layout if one != name}, "it lacks "),
            (layout | {"another.weight": torch.zeros(2)}, "another.weight would be left out"),
            (layout | {name: torch.zeros(6, 7)}, " has the shape "),
            (layout | {name: layout[name].to(torch.int8)}, " is stored as int8, which diffedit does not support"),
        ]
        for spoilt, sentence in spoiled:
            file = original.write(spoilt, tmp_path / "network")
            told = says(file, config=str(folders[family]))
            assert f"{file} cannot be used with the settings in " in told
            assert sentence in told


def test_a_network_of_another_family_or_size_is_refused(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path
) -> None:
    file = original.write(tensors["z-image"], tmp_path / "z.safetensors")
    told = says(file, config=str(folders["flux"]))
    assert "is the transformer of Z-Image, which does not fit" in told
    assert "--model-config" in told
    wider = {name: tensor.repeat(*[2] * tensor.ndim) for name, tensor in tensors["z-image"].items()}
    told = says(original.write(wider, tmp_path / "wide.safetensors"), config=str(folders["z-image"]))
    assert "has the shape" in told
    assert "--model-config" in told


def test_a_network_without_single_blocks_is_refused(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path
) -> None:
    """diffusers' function fails by a list's index then."""
    few = {name: tensor for name, tensor in tensors["flux"].items() if "single_blocks" not in name}
    told = says(original.write(few, tmp_path / "few.safetensors"), config=str(folders["flux"]))
    assert "(its tensors are not those of such a network: list index out of range)" in told


def test_a_damaged_header_is_refused(folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path) -> None:
    file = original.write(tensors["flux"], tmp_path / "network.safetensors")
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"shape"', b'"shade"', 1))
    assert "is cut off or damaged" in says(file, config=str(folders["flux"]))
    file.write_bytes(content[:-1])
    assert "is cut off or damaged" in says(file, config=str(folders["flux"]))


def test_a_network_for_another_noise_process_is_refused(
    folders: dict[str, Path], tensors: dict[str, Tensors], tiny_v: Path, tmp_path: Path
) -> None:
    file = tmp_path / "network.safetensors"
    original.write(tensors["sd"] | {"v_pred": torch.empty(0)}, file)
    told = says(file, config=str(folders["sd"]))
    assert "predicts v_prediction, and the scheduler in" in told
    assert "is for epsilon" in told
    original.write(original.ORIGINAL["sd"](tiny_v / "unet") | {"v_pred": torch.empty(0)}, file)
    assert registry.find(str(file), config=str(tiny_v)).prediction_type == "v_prediction"
    original.write(tensors["sd"] | {"ztsnr": torch.empty(0)}, file)
    assert "was trained with zero terminal SNR" in says(file, config=str(folders["sd"]))
    original.write(tensors["sdxl"] | {"edm_mean": torch.zeros(4)}, file)
    assert "EDM's noise process" in says(file, config=str(folders["sdxl"]))


def test_what_is_no_network_is_refused_as_a_checkpoint_is(tiny_epsilon: Path, tmp_path: Path) -> None:
    file = original.write({"lora_unet.down": torch.zeros(2)}, tmp_path / "lora.safetensors")
    assert "nor a network alone of a known family" in says(file)
    whole = load_file(write_checkpoint(tiny_epsilon, tmp_path / "whole.safetensors", "sd15"))
    assert network_file(whole) is None


def test_the_usual_model_is_looked_for_on_this_machine(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = original.write(tensors["z-image"], tmp_path / "z.safetensors")
    assert "diffedit models pull z-image-turbo --without-network" in says(file)
    assert "diffedit models pull some/where" in says(file, config="some/where")
    assert "does not fit flux2-klein (FLUX.2-klein)" in says(file, config="flux2-klein")
    assert "pull" not in says(file, config="nonsense")
    cached = tmp_path / "hub" / "models--Tongyi-MAI--Z-Image-Turbo"
    shutil.copytree(folders["z-image"], cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert registry.find(str(file)).path == cached / "snapshots" / "abc"
    shutil.rmtree(cached / "snapshots" / "abc" / "transformer")
    assert "diffedit models pull z-image-turbo --without-network" in says(file)


def test_the_digest_depends_on_every_file_that_is_read(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path
) -> None:
    file = original.write(tensors["z-image"], tmp_path / "z.safetensors")
    folder = Path(shutil.copytree(folders["z-image"], tmp_path / "folder"))

    def digest() -> str:
        return registry.find(str(file), config=str(folder)).digest

    first = digest()
    moved = registry.find(str(shutil.copy(file, tmp_path / "moved.safetensors")), config=str(folder))
    assert moved.digest == first
    (unused,) = (folder / "transformer").glob("*.safetensors")
    unused.unlink()
    assert digest() == first
    seen = {first}
    original.write(tensors["z-image"] | {"cap_pad_token": torch.zeros(1, 32)}, file)
    seen.add(digest())
    for part in ("vae", "text_encoder"):
        (weights,) = (folder / part).glob("*.safetensors")
        original.write({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
        seen.add(digest())
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")
    seen.add(digest())
    assert len(seen) == 5


def test_an_edit_is_that_of_the_folder_and_can_be_repeated(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    file = original.write(tensors["z-image"], Path("z.safetensors"), original.COMFY)
    folder = folders["z-image"]
    options = {"a.png": ("--model", folder), "b.png": ("--model", file, "--model-config", folder)}
    for output, model in options.items():
        ran = diffedit("edit", "cat.png", *WORDS, *FAST, *model, "--no-metadata", "-o", output)
        assert ran.code == 0, ran.err
    a, b = (np.asarray(Image.open(name)).astype(int) for name in ("a.png", "b.png"))
    assert abs(a - b).max() <= 1  # products round otherwise where weights lie elsewhere in memory
    assert abs(a - np.asarray(Image.open("cat.png"))).max() > 9
    assert diffedit("edit", "cat.png", *WORDS, *FAST, *options["b.png"], "-o", "c.png").code == 0
    told = diffedit("info", "c.png").out.decode()
    assert f"--model {file} --model-config {folder}" in told
    assert not (Path(os.environ["DIFFEDIT_CACHE_DIR"]) / "models").exists()  # nothing is converted


def test_a_network_alone_is_shown_and_saved_as_a_folder(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path
) -> None:
    file = original.write(tensors["flux2"], tmp_path / "network.safetensors")
    model = ("--model", file, "--model-config", folders["flux2"])
    shown = diffedit("models", "show", file, "--model-config", folders["flux2"], "--json").json
    assert shown["elsewhere"] == {"transformer": str(file)}
    assert shown["parts"]["transformer"] > file.stat().st_size
    ran = diffedit("models", "save", tmp_path / "saved", *model)
    assert ran.code == 0, ran.err
    for part in FAMILIES["flux2"].networks:
        ours, theirs = (read(place / part)[0] for place in (tmp_path / "saved", folders["flux2"]))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert registry.find(str(tmp_path / "saved")).family == "flux2"


def test_an_inpainter_is_no_network_alone(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path, here: Path
) -> None:
    file = original.write(tensors["sd"], tmp_path / "network.safetensors")
    words = ("--painter", file, "--model-config", folders["sd"])
    ran = diffedit("edit", here / "cat.png", *WORDS, *words, "-o", "x.png")
    assert (ran.code, "is a network alone" in ran.err) == (4, True)


def test_a_lora_changes_a_network_alone_as_its_folder(
    folders: dict[str, Path], tensors: dict[str, Tensors], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    width = read(folders["sd"] / "unet")[0][f"{layer}.weight"].shape
    factors = {"A": torch.randn(2, width[1]), "B": torch.randn(width[0], 2)}
    factors = {f"unet.{layer}.lora_{factor}.weight": tensor for factor, tensor in factors.items()}
    lora = original.write(factors, tmp_path / "lora.safetensors")
    file = original.write(tensors["sd"], tmp_path / "network.safetensors")
    found = [registry.find(str(folders["sd"])), registry.find(str(file), config=str(folders["sd"]))]
    changed = [loaded(adapters.attach(one, [str(lora)], [], tmp_path)) for one in found]
    ours, theirs = (model.network.state_dict()[f"{layer}.weight"] for model in changed)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, read(folders["sd"] / "unet")[0][f"{layer}.weight"])


@pytest.mark.parametrize("family", [name for name in WRITERS if name not in ("sd", "sdxl", "sd3")])
def test_sharded_folders_load(
    folders: dict[str, Path], expected: dict[str, Tensor], tmp_path: Path, family: str
) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "folder"))
    model = loaded(registry.find(str(folder)))
    for part, network in ((FAMILIES[family].denoiser, model.network), ("text_encoder", model.encoders[-1].network)):
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
        network.save_pretrained(folder / part, max_shard_size="40KB")
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
        assert list((folder / part).glob("*.safetensors.index.json"))
    sharded = registry.find(str(folder))
    assert sum("-of-" in file.name for file in sharded.files()) > 3
    assert error(predicted(loaded(sharded)), expected[family]) < 1e-5
