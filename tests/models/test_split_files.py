"""ComfyUI's split files: network, text encoders and VAE in separate files, the rest a configuration without weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ldm
import ldm_sd3
import numpy as np
import original_names as original
import pytest
import tiny
import tiny_transformers
import torch
from command import FAST, WORDS, diffedit, picture
from diffusers import AutoencoderKLQwenImage
from gguf import GGMLQuantizationType
from ldm import Tensors, read
from PIL import Image
from torch import Tensor

from diffedit_cli import DiffEdit
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import registry
from diffedit_cli.models.loader import Loader
from diffedit_cli.models.memory import OffloadOptions


def comfy_encoder(folder: Path) -> Tensors:
    """A text encoder as ComfyUI stores it: Qwen's with `model.`, T5's `encoder.block`, CLIP's `text_model`."""
    tensors = read(folder)[0]
    if any(name.startswith("encoder.layers") for name in tensors):
        return ldm.text_encoder(folder) | {"logit_scale": torch.zeros(())}
    return tensors


VAES: dict[str, Callable[[Path], Tensors]] = {"flux2": original.flux2_vae, "qwen-image": original.wan_vae}


def write_qwen_image(folder: Path) -> Path:
    """Writes a Qwen-Image model whose VAE has as many layers a level as the real one."""
    tiny_transformers.write_qwen_image(folder)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(101)
    AutoencoderKLQwenImage(
        base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
    ).save_pretrained(folder / "vae")
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "flux2": tiny_transformers.write_flux2,
    "z-image": tiny_transformers.write_z_image,
    "flux": tiny_transformers.write_flux,
    "chroma": tiny_transformers.write_chroma,
    "qwen-image": write_qwen_image,
    "sd3": tiny.write_sd3,
    "sd": tiny.write_model,
    "sdxl": tiny.write_sdxl,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {family: write(place / family) for family, write in WRITERS.items()}


@pytest.fixture
def configuration(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """What `models pull NAME --no-weights` gets."""

    def of(family: str) -> Path:
        ignored = shutil.ignore_patterns("*.safetensors")
        return Path(shutil.copytree(folders[family], tmp_path / "configuration", ignore=ignored))

    return of


def split(family: str, folder: Path, place: Path) -> dict[str, Path]:
    """Writes the networks of a folder as files of their own, in the layouts of their authors."""
    found = {}
    for part in (path.name for path in sorted(folder.iterdir()) if list(path.glob("*.safetensors"))):
        if part == FAMILIES[family].denoiser:
            tensors, prefix = original.ORIGINAL[family](folder / part), original.COMFY
        else:
            of = VAES.get(family, ldm.vae) if part == "vae" else comfy_encoder
            tensors, prefix = of(folder / part), ""
        found[part] = original.write(tensors, place / f"{family}-{part}.safetensors", prefix)
    return found


def loaded(name: object, **options: Any) -> Any:
    return Loader().load(registry.find(str(name), **options), "cpu", "float32", OffloadOptions())


def told(name: object, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(name, **options)
    return str(caught.value)


def networks(model: Any) -> dict[str, Tensor]:
    """All weights of a model."""
    return {
        f"{number} {name}": tensor
        for number, network in enumerate(model._networks())
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("family", WRITERS)
def test_split_files_are_the_model_that_they_came_from(
    folders: dict[str, Path], configuration: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    files = split(family, folders[family], tmp_path)
    encoders = [str(file) for part, file in reversed(files.items()) if part.startswith("text_encoder")]
    options: dict[str, Any] = {"text_encoders": encoders, "vae": str(files["vae"])}
    model = loaded(files[FAMILIES[family].denoiser], config=str(configuration(family)), **options)
    ours, theirs = networks(model), networks(loaded(folders[family]))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with torch.inference_mode():
        torch.testing.assert_close(model.embed("a cat").tokens, loaded(folders[family]).embed("a cat").tokens)


def test_a_text_encoder_in_scaled_float8(folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = read(folders["flux"] / "text_encoder_2")[0]
    file = original.write(original.float8(tensors, "scale_weight"), tmp_path / "t5.safetensors")
    t5 = loaded(folders["flux"], text_encoders=[str(file)]).t5.network.state_dict()
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert 0 < (t5[name] - tensors[name]).norm() / tensors[name].norm() < 0.05


def test_the_first_projection_of_sd3_may_be_left_out(tmp_path: Path) -> None:
    folder = tiny.write_sd3(tmp_path / "sd3", t5=False, first_projection=tiny.TEXT_WIDTH)
    tensors = comfy_encoder(folder / "text_encoder")
    del tensors["text_projection.weight"]
    file = original.write(tensors, tmp_path / "clip_l.safetensors")
    network = loaded(folder, text_encoders=[str(file)]).clips[0].network
    assert torch.equal(network.text_projection.weight, torch.eye(tiny.TEXT_WIDTH))
    ldm_sd3.set_no_projection(folder / "text_encoder")
    assert torch.equal(loaded(folder).clips[0].network.text_projection.weight, network.text_projection.weight)


def test_a_part_may_be_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    vae = Path(shutil.copytree(folders["z-image"] / "vae", tmp_path / "vae"))
    (weights,) = vae.glob("*.safetensors")
    original.write({name: tensor * 2 for name, tensor in read(vae)[0].items()}, weights)
    found, plain = registry.find(str(folders["z-image"]), vae=str(vae)), registry.find(str(folders["z-image"]))
    assert found.digest != plain.digest
    assert weights in found.files()
    assert folders["z-image"] / "vae" / weights.name not in found.files()
    own = loaded(folders["z-image"], vae=str(vae)).vae.state_dict()
    assert torch.equal(own["decoder.conv_in.weight"], read(vae)[0]["decoder.conv_in.weight"])


def test_files_that_do_not_fit_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, files = folders["flux"], split("flux", folders["flux"], tmp_path)
    encoder, t5, vae = (str(files[part]) for part in ("text_encoder", "text_encoder_2", "vae"))
    assert f"{vae} is no text encoder of the model {folder}" in told(folder, text_encoders=[vae])
    assert f"{encoder} cannot be used with the settings in {folder}/vae (it lacks " in told(folder, vae=encoder)
    assert f"{t5} and {t5} are both the text_encoder_2" in told(folder, text_encoders=[t5, t5])
    assert "There is no --vae file nothing.safetensors" in told(folder, vae="nothing.safetensors")
    assert "has no config.json" in told(folder, vae=str(tmp_path))
    short = read(folder / "text_encoder_2")[0]
    short.pop("encoder.block.1.layer.1.DenseReluDense.wo.weight")
    file = str(original.write(short, tmp_path / "short.safetensors"))
    assert "it lacks encoder.block.1.layer.1.DenseReluDense.wo.weight" in told(folder, text_encoders=[file])
    more = read(folder / "text_encoder_2")[0] | {"another.weight": torch.zeros(2)}
    file = str(original.write(more, tmp_path / "more.safetensors"))
    assert "its another.weight would be left out" in told(folder, text_encoders=[file])
    quantised = original.write_gguf(short, tmp_path / "t5.gguf", GGMLQuantizationType.Q8_0)
    assert "which only --model takes" in told(folder, text_encoders=[str(quantised)])


def test_an_edit_with_split_files_and_how_to_repeat_it(
    folders: dict[str, Path], configuration: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    files = split("flux", folders["flux"], Path())
    parts = (
        *("--model", files["transformer"], "--model-config", configuration("flux"), "--vae", files["vae"]),
        *("--text-encoder", files["text_encoder_2"], "--text-encoder", files["text_encoder"]),
    )
    for output, model in (("a.png", ("--model", folders["flux"])), ("b.png", parts)):
        ran = diffedit("edit", "cat.png", *WORDS, *FAST, *model, "-o", output, "--depfile", "rule.d")
        assert ran.code == 0, ran.err
    assert all(str(file) in Path("rule.d").read_text() for file in files.values())
    a, b = (np.asarray(Image.open(name)).astype(int) for name in ("a.png", "b.png"))
    assert abs(a - b).max() <= 1
    assert " ".join(map(str, parts)) in diffedit("info", "b.png").out.decode()
    saved = diffedit("models", "save", "saved", *parts)
    assert saved.code == 0, saved.err
    ours, theirs = networks(loaded("saved")), networks(loaded(folders["flux"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    model = DiffEdit(
        str(files["transformer"]), model_config="configuration", vae=files["vae"],
        text_encoder=[files["text_encoder"], files["text_encoder_2"]],
    )  # fmt: skip
    edited = model.edit("cat.png", from_="cat", to="dog", steps=5, maps=2, threshold=0.3)
    assert abs(np.asarray(edited.image).astype(int) - b).max() <= 1


def test_settings_may_name_the_files(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    file = original.write(ldm.vae(folders["z-image"] / "vae"), tmp_path / "vae.safetensors")
    monkeypatch.setenv("DIFFEDIT_VAE", str(file))
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, "--model", folders["z-image"], "-o", "out.png")
    assert ran.code == 0, ran.err
    assert f"--vae {file}" in diffedit("info", "out.png").out.decode()
