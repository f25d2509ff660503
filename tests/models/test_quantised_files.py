"""--quantize with what a model may be put together from: files of one network, .gguf, LoRAs, distilled models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import original_names as original
import pytest
import tiny
import tiny_transformers
import torch
from command import FAST, WORDS, diffedit, picture
from gguf import GGMLQuantizationType
from ldm import read
from safetensors.torch import save_file
from torch import Tensor

from diffedit_cli.engine.networks import quantisation
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters, memory_needed, registry
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.loader import Loader
from diffedit_cli.models.memory import OffloadOptions

ERROR = {"fp8": 0.06, "int8": 0.02}  # of a prediction, relative to its size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.write_z_image(tmp_path_factory.mktemp("quantised") / "z-image")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return original.write(original.z_image(folder / "transformer"), folder.parent / "network.safetensors")


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    tensors = original.z_image(folder / "transformer")
    return original.write_gguf(tensors, folder.parent / "network.gguf", GGMLQuantizationType.Q8_0)


def loaded(model: ModelFolder, kind: str = "none") -> Any:
    return Loader().load(model, "cpu", "float32", OffloadOptions(quantize=kind))


@torch.inference_mode()
def predicted(model: Any) -> Tensor:
    x_t = torch.randn((1, model.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    eps: Tensor = model.predict(x_t, model.levels(10)[6], model.embed("a cat on grass")).eps
    return eps


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ERROR)
def test_a_network_alone_is_quantised_like_one_in_a_folder(kind: str, file: Path, folder: Path, tmp_path: Path) -> None:
    model = registry.find(str(file), kept=tmp_path, config=str(folder))
    small, whole = loaded(model, kind), loaded(registry.find(str(folder), kept=tmp_path / "b"), kind)
    assert quantisation.is_quantised(small.network)
    assert torch.equal(predicted(small), predicted(whole))
    assert 1e-5 < error(predicted(small), predicted(loaded(model))) < ERROR[kind]


def test_its_quantised_weights_are_made_once(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = registry.find(str(file), kept=tmp_path, config=str(folder))
    first = predicted(loaded(model, "int8"))
    monkeypatch.setattr(quantisation, "quantise", lambda *_: pytest.fail("they are made again"))
    assert torch.equal(predicted(loaded(model, "int8")), first)


def test_a_gguf_file_is_quantised_already(
    gguf: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    words = ("--model-config", folder, "--quantize", "int8")
    for ran in (
        diffedit("edit", "cat.png", *WORDS, *FAST, "--model", gguf, *words, "-o", "out.png"),
        diffedit("models", "show", gguf, *words),
    ):
        assert ran.code == 4
        assert f"--quantize int8 cannot be used with {gguf}, which is quantised already" in ran.err
    assert not (tmp_path / "out.png").exists()


def test_memory_counts_files_where_they_are(file: Path, gguf: Path, folder: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(folder / "text_encoder", tmp_path / "encoder"))
    for path in (file, gguf):
        for kind in ("none", "int8") if path is file else ("none",):
            model = registry.find(str(path), config=str(folder), text_encoders=[str(encoder)])
            found = memory_needed.needed(model, "cpu", "float32", OffloadOptions(quantize=kind)).weights
            small = loaded(model, kind)
            for part, network in {"transformer": small.network, "text_encoder": small.qwen.network}.items():
                assert found[part] == pytest.approx(quantisation.size(network), rel=0.05), (path.name, kind, part)
    shown = json.loads(diffedit("models", "show", gguf, "--model-config", folder, "--json").out)
    assert shown["memory"]["weights"]["transformer"] < shown["parts"]["transformer"] * 1.2


def test_settings_of_a_quantised_folder_do_not_quantise_a_full_file(file: Path, folder: Path, tmp_path: Path) -> None:
    """The file has the weights; what the folder says of its own does not hold for them."""
    other = Path(shutil.copytree(folder, tmp_path / "model"))
    for part in ("transformer", "text_encoder"):
        config = other / part / "config.json"
        said = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        tiny.write_json(config, json.loads(config.read_text()) | said)
    encoder = original.write(read(folder / "text_encoder")[0], tmp_path / "encoder.safetensors")
    model = registry.find(str(file), config=str(other), text_encoders=[str(encoder)])
    assert not model.is_quantised
    assert registry.find(str(other)).is_quantised
    whole = loaded(registry.find(str(folder)))
    assert error(predicted(loaded(model)), predicted(whole)) < 1e-5
    assert error(predicted(loaded(model, "int8")), predicted(whole)) < ERROR["int8"]


def test_a_quantised_folder_of_one_part(folder: Path, tmp_path: Path) -> None:
    """A text encoder that transformers quantised is taken by --text-encoder."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import Qwen3ForCausalLM, TorchAoConfig

    how = TorchAoConfig(Int8WeightOnlyConfig())
    saved = Qwen3ForCausalLM.from_pretrained(folder / "text_encoder", quantization_config=how, dtype=torch.float32)
    saved.save_pretrained(tmp_path / "encoder")
    model = registry.find(str(folder), kept=tmp_path / "cache", text_encoders=[str(tmp_path / "encoder")])
    assert model.stores_quantised("text_encoder")
    assert not model.stores_quantised("transformer")
    small = loaded(model, "int8")
    assert quantisation.is_quantised(small.qwen.network)
    assert quantisation.is_quantised(small.network)
    assert 0 < error(predicted(small), predicted(loaded(registry.find(str(folder))))) < 0.05


@pytest.mark.parametrize("place", ["folder", "file"])
def test_loras_by_original_names_are_fused_before(place: str, file: Path, folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, width = original.z_image(folder / "transformer")["layers.0.attention.qkv.weight"].shape
    down, up = torch.randn(4, width, generator=generator), torch.randn(rows, 4, generator=generator)
    layer = "diffusion_model.layers.0.attention.qkv"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    plain = registry.find(str(file), config=str(folder)) if place == "file" else registry.find(str(folder))
    model = adapters.attach(plain, [f"{tmp_path / 'lora.safetensors'}:0.2"], [], tmp_path / "digests")
    small, full = loaded(model, "int8"), predicted(loaded(model))
    assert quantisation.is_quantised(small.network)
    assert error(predicted(small), full) < ERROR["int8"]
    assert error(predicted(loaded(plain)), full) > 2 * error(predicted(small), full)


def test_distilled_models_keep_their_spacing(tiny_sdxl: Path) -> None:
    model = registry.find(str(tiny_sdxl)).as_distilled("turbo")
    assert loaded(model, "int8").scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("header", [b'{"a": {"dtype": "F32", "shape": "wide", "data_offsets": [0, 4]}}', b"nothing"])
def test_damaged_weights_count_as_large_as_they_are(header: bytes, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    damaged = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    found = memory_needed.needed(registry.find(str(copy)), "cpu", "float32", OffloadOptions())
    assert found.weights["transformer"] == damaged.stat().st_size
    with pytest.raises(ModelError, match="transformer is unreadable"):
        loaded(registry.find(str(copy)))
