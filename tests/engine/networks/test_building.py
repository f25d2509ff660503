"""Networks that a stranger's settings describe: none is built that is far larger than what its weights fill."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import write_json, write_model, write_safety, write_sd3, write_sdxl
from torch import nn
from torch.nn.modules import module as registry_of_hooks
from transformers import CLIPTextConfig, CLIPTextModel

from diffedit_cli.engine.networks import building, families
from diffedit_cli.engine.networks.safety_checker import SafetyChecker
from diffedit_cli.errors import ModelError

LARGE = {"num_hidden_layers": 40, "intermediate_size": 2**16}  # 84 million numbers and more, which no weights fill
CASES = {
    "text_encoder": LARGE,
    "text_encoder_2": LARGE,
    "text_encoder_3": {"num_layers": 16, "d_ff": 2**16},
    "unet": {"layers_per_block": 250},
    "vae": {"layers_per_block": 250},
    "transformer": {"num_layers": 250},
    "safety_checker": {"vision_config": LARGE},
}
WRITERS: dict[str, Callable[[Path], Path]] = {"text_encoder_3": write_sd3, "transformer": write_sd3}


def widened(folder: Path, part: str) -> None:
    """With settings that no weights fill, and with a thousand tensors that only count."""
    path = folder / part / "config.json"
    said = json.loads(path.read_text())
    for key, value in CASES[part].items():
        said[key] = {**said[key], **value} if isinstance(value, dict) else value
    write_json(path, said)
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path) | {f"x{number}": torch.zeros(1) for number in range(1000)}
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("part", CASES)
def test_no_part_is_built_larger_than_its_weights(tmp_path: Path, part: str) -> None:
    writers = {**WRITERS, "text_encoder_2": write_sdxl}
    folder = writers.get(part, write_model)(tmp_path / "model")
    write_safety(folder, 1.0)
    widened(folder, part)
    before = dict(registry_of_hooks._global_parameter_registration_hooks)
    load = SafetyChecker.load if part == "safety_checker" else functools.partial(families.load, dtype=torch.float32)
    with pytest.raises(ModelError, match=f"its {part} is unreadable .*far larger network than its weights fill"):
        load(folder, device="cpu", name="model")
    assert registry_of_hooks._global_parameter_registration_hooks == before


def test_building_stops_at_the_first_number_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SPARE_NUMBERS", 0)
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 2), "b": torch.zeros(2)}, path)
    with building.no_larger_than([path]):
        nn.Linear(7, 2)  # 16 numbers, twice 8
    built: list[nn.Module] = []
    with pytest.raises(ValueError, match="far larger"), building.no_larger_than([path]):
        built += [nn.Linear(7, 2), nn.Linear(1, 1)]
    assert not built


def test_what_others_build_at_the_same_time_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SPARE_NUMBERS", 0)
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    built: list[nn.Module] = []
    with building.no_larger_than([path]):
        other = threading.Thread(target=lambda: built.append(nn.Linear(9, 9)))
        other.start()
        other.join()
    assert len(built) == 1


def test_networks_of_transformers_are_built_as_ever_without_symbols() -> None:
    """What torch would need sympy for on the meta device is done in another way, with the same outcome."""
    config = CLIPTextConfig(vocab_size=7, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    built = []
    for way in (contextlib.nullcontext(), building.WithoutSymbols()):
        with way, torch.device("meta"):
            network = CLIPTextModel(config)
            numbers = torch.arange(3, 9, 2)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        built.append({name: (one.shape, one.dtype, one.device.type) for name, one in tensors.items()})
        with way:
            like = torch.empty_like(numbers.expand(2, -1), device="cpu")
        assert (numbers.device.type, numbers.dtype, numbers.shape) == ("meta", torch.int64, (3,))
        assert (like.device.type, like.dtype, like.shape) == ("cpu", torch.int64, (2, 3))
    assert built[0] == built[1]
    with building.WithoutSymbols():
        drawn = torch.nn.init.normal_(torch.zeros(100))
    assert drawn.std() > 0.5  # off the meta device nothing changes
