"""Fixtures of all tests: tiny models on disk, the built-in model, and isolation from the user's own settings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it; commands that tests start inherit it
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from checkout import SAMPLES
from command import settled
from ldm import write_checkpoint
from safetensors.torch import load_file
from tiny import BUILTIN, write_json, write_model, write_sd3, write_sdxl

from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.models import devices


@pytest.fixture(scope="session", autouse=True)
def _no_user_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DIFFEDIT_")]:
            patch.delenv(name)
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DIFFEDIT_CACHE_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks compute in bfloat16 where they are told to, also on a processor that emulates it."""
    monkeypatch.setattr(devices, "has_bfloat16", lambda: True)


@pytest.fixture(scope="session")
def tiny_epsilon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that predicts noise, in the format of Stable Diffusion 1.5."""
    return write_model(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture
def copy(tmp_path: Path, tiny_epsilon: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_epsilon, tmp_path / "copy"))


@pytest.fixture(scope="session")
def tiny_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that predicts v, in the format of Stable Diffusion 2.1."""
    return write_model(tmp_path_factory.mktemp("tiny") / "v", v_prediction=True)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that predicts noise, in the format of Stable Diffusion XL."""
    return write_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that predicts a flow's velocity, in the format of Stable Diffusion 3."""
    return write_sd3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture
def here(tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture."""
    return settled(tmp_path, tiny_epsilon, monkeypatch)


@pytest.fixture
def sample_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the sample cat.png, for the built-in model at its defaults."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES / "cat.png", "cat.png")
    return tmp_path


@pytest.fixture(scope="session")
def builtin() -> StableDiffusion:
    """The built-in model, loaded once in float32."""
    return StableDiffusion.load(BUILTIN, "cpu", torch.float32, name="builtin")


@pytest.fixture(scope="session")
def plain(tiny_epsilon: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint in the layout of Stable Diffusion 1.5's authors."""
    file = tmp_path_factory.mktemp("plain") / "file.safetensors"
    return load_file(write_checkpoint(tiny_epsilon, file, "sd15"))


@pytest.fixture
def choosy(tiny_epsilon: Path, tmp_path: Path) -> Path:
    """A model whose domain check refuses every picture."""
    folder = tmp_path / "choosy"
    shutil.copytree(tiny_epsilon, folder)
    (folder / "fitness.json").write_text(json.dumps({"strength": 0.25, "limit": 0.0}))
    return folder


@pytest.fixture(scope="session")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny inpainting model: its UNet has nine channels, for latents, mask and masked picture."""
    folder = write_model(tmp_path_factory.mktemp("models") / "inpainter", channels=9)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "StableDiffusionInpaintPipeline"})
    return folder
