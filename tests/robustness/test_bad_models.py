"""Models and additions of a stranger: nothing in them is run, and what does not fit is named (see also test_models)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import FAST, WORDS, diffedit
from safetensors.torch import load_file, save_file
from tiny import write_json

UNET = Path("unet", "diffusion_pytorch_model.safetensors")


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    pass


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("sprung",)


def trap(kind: str) -> bytes:
    """What would run code where it is loaded: a pickle of a protocol, or an archive that holds one."""
    if kind.isdecimal():
        return pickle.dumps(Trap(), protocol=int(kind))
    Path("data.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    if kind == "zip":
        with zipfile.ZipFile("archive", "w") as archive:
            archive.write("data.pkl", "archive/data.pkl")
    else:
        with tarfile.open("archive", "w") as archive:
            archive.add("data.pkl", "pickle")
    return Path("archive").read_bytes()


def sprung(*words: object) -> bool:
    """Whether anything was run, or written; it was refused in a sentence."""
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, "-o", "out.png", *words)
    assert ran.code in (3, 4), ran.err
    assert "should not" not in ran.err
    assert any(Path(str(word)).name in ran.lines[-1] for word in words)
    return Path("sprung").exists() or Path("out.png").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["0", "1", "2", "3", "4", "5", "zip", "tar"])
@pytest.mark.parametrize("name", ["bad.safetensors", "bad.png"])
def test_no_option_loads_a_pickle(kind: str, name: str) -> None:
    Path(name).write_bytes(trap(kind))
    options = [
        "--model",
        "--painter",
        "--lora",
        "--embedding",
        "--negative-embeds",
        "--latents",
        "--mask",
        "--within",
    ]
    assert [option for option in options if sprung(option, name)] == []


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "model.safetensors"])
def test_no_part_of_a_model_is_loaded_from_a_pickle(copy: Path, part: str, file: str) -> None:
    for path in (copy / part).glob("*.safetensors"):
        path.unlink()
    (copy / part / file).write_bytes(trap("zip"))
    assert not sprung("--model", copy)


def test_no_code_that_comes_with_a_model_is_run(copy: Path) -> None:
    """Neither that of the hub's `auto_map`, nor a class that the index or a part names."""
    code = "import os\nos.mkdir('sprung')\nclass Own: pass\n"
    for folder in (copy, *(path for path in copy.iterdir() if path.is_dir())):
        for name in ("own.py", "pipeline.py", "__init__.py", "modeling_own.py"):
            (folder / name).write_text(code)
        for config in [*folder.glob("*config.json"), *folder.glob("model_index.json")]:
            said = json.loads(config.read_text())
            own = "own.Own"
            config.write_text(
                json.dumps({**said, "auto_map": {"AutoModel": own, "AutoConfig": own, "AutoTokenizer": [own, own]}})
            )
    diffedit("edit", "cat.png", *WORDS, *FAST, "--model", copy)
    index = json.loads((copy / "model_index.json").read_text())
    write_json(copy / "model_index.json", {**index, "unet": ["own", "Own"], "_class_name": ["own", "Own"]})
    assert not sprung("--model", copy)


@pytest.mark.parametrize("option", ["--model", "--painter", "--lora", "--embedding"])
@pytest.mark.parametrize("name", ["pipe.safetensors", "device.safetensors", "loop.safetensors"])
def test_what_is_no_file_is_refused(option: str, name: str) -> None:
    os.mkfifo("pipe.safetensors")
    Path("device.safetensors").symlink_to("/dev/zero")
    Path("loop.safetensors").symlink_to("loop.safetensors")
    assert not sprung(option, name)


def widened(folder: Path) -> None:
    weights = load_file(folder / UNET)
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in weights.items()}, folder / UNET, {"format": "pt"})


def emptied(folder: Path) -> None:
    save_file({}, folder / UNET, {"format": "pt"})


def undefined(folder: Path) -> None:
    weights = load_file(folder / UNET)
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, folder / UNET, {"format": "pt"})


def of_another(folder: Path) -> None:
    shutil.copy(next(folder.glob("vae/*.safetensors")), folder / UNET)


SPOILT: dict[str, Callable[[Path], object]] = {
    "weights of other shapes": widened,
    "no weights": emptied,
    "weights of another part": of_another,
    "weights that are not finite": undefined,
    "an index that is a device": lambda folder: linked(folder / "model_index.json", "/dev/zero"),
    "an index that is deep": lambda folder: (folder / "model_index.json").write_text("[" * 10**5),
    "a part's settings that are deep": lambda folder: (folder / "unet" / "config.json").write_text("[" * 10**5),
    "a part's settings that are none": lambda folder: (folder / "unet" / "config.json").write_text("3"),
    "absurd settings": lambda folder: settings(folder, sample_size=-1),
    "settings of terabytes": lambda folder: settings(folder, block_out_channels=[2**40, 2**40]),
    "settings of other types": lambda folder: settings(folder, cross_attention_dim="wide"),
}


def settings(folder: Path, **more: object) -> None:
    path = folder / "unet" / "config.json"
    write_json(path, {**json.loads(path.read_text()), **more})


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_model_is_named(copy: Path, spoil: Callable[[Path], object]) -> None:
    spoil(copy)
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, "--model", copy, "--no-cache", "-o", "out.png")
    assert ran.code == 4, ran.err
    assert "should not" not in ran.err
    assert copy.name in ran.lines[-1]
    assert not Path("out.png").exists()
