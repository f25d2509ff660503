"""PEFT's settings of an adapter: alpha and rank, and kinds that are no LoRA."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from fused import LAYOUTS, Parts, added, check
from safetensors.torch import save_file

from diffedit_cli.engine.networks import lora
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters

SETTINGS = {"lora_alpha": 2, "r": 4}
FACTORS = {
    "unet.conv_in.lora_down.weight": torch.ones(4, 4, 3, 3),
    "unet.conv_in.lora_up.weight": torch.ones(16, 4, 1, 1),
}


@pytest.fixture(scope="module", params=["tiny_epsilon", "tiny_sdxl"])
def parts(request: pytest.FixtureRequest) -> Parts:
    return {"unet": UNet2DConditionModel.from_pretrained(request.getfixturevalue(request.param) / "unet")}


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (SETTINGS, 0.5),
        ({**SETTINGS, "use_rslora": True}, 1.0),
        ({**SETTINGS, "alpha_pattern": {"conv_in": 8}}, 2.0),
        ({**SETTINGS, "alpha_pattern": {"v_in": 8, "mid_block.conv_in": 8}}, 0.5),
        ({}, 1.0),
    ],
)
@pytest.mark.parametrize("place", ["in the header", "beside"])
def test_alpha_may_stand_in_settings(
    parts: Parts, tmp_path: Path, settings: dict[str, Any], share: float, place: str
) -> None:
    """As diffusers writes them into the header, and PEFT into a file beside."""
    start = "unet.conv_in." if place == "in the header" else "base_model.model.conv_in."
    weight = parts["unet"].conv_in.weight
    A, B = torch.ones(4, *weight.shape[1:]), torch.ones(len(weight), 4, 1, 1)
    tensors = {f"{start}lora_A.weight": A, f"{start}lora_B.weight": B}
    file = tmp_path / "adapter_model.safetensors"
    said = {f"unet.{name}": value for name, value in settings.items()}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(said)} if place == "in the header" else {})
    before = adapters.loras([str(file)], tmp_path / "memo")[0].identity
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        assert adapters.loras([str(file)], tmp_path / "memo")[0].identity != before
    check(added(parts, file), {("unet", "conv_in"): torch.full_like(weight, 4.0 * share)})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"alpha_pattern": {"^conv_.*": 8}},
            "its alpha_pattern has a regular expression, which diffedit does not support (^conv_.*)",
        ),
        ({"peft_type": "LOHA"}, "it is not a LoRA but LOHA, as its settings say"),
        ({"init_lora_weights": "pissa"}, "other weights than the model's (init_lora_weights is pissa)"),
        ({"peft_type": "LORA", "init_lora_weights": "gaussian"}, None),
        ({"peft_type": None, "init_lora_weights": True}, None),
    ],
    ids=str,
)
def test_settings_of_another_kind_of_adapter_are_refused(
    parts: Parts, tmp_path: Path, settings: dict[str, Any], says: str | None
) -> None:
    file, before = tmp_path / "adapter_model.safetensors", parts["unet"].conv_in.weight.clone()
    save_file({key: tensor.clone() for key, tensor in FACTORS.items()}, file)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    if says is None:
        check(added(parts, file), {("unet", "conv_in"): torch.full_like(before, 4.0)})
        return
    with pytest.raises(ValueError, match=re.escape(says)):
        lora.fuse(parts, file, 1.0, LAYOUTS)
    assert torch.equal(parts["unet"].conv_in.weight, before)


def test_settings_that_no_adapter_has_are_not_read(tmp_path: Path) -> None:
    file, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file(dict(FACTORS), file)
    with settings.open("wb") as sparse:
        sparse.truncate(3 * 10**9)
    with pytest.raises(ModelError, match="is too large for the settings of a LoRA"):
        adapters.loras([str(file)], tmp_path / "memo")


def test_settings_in_the_header_are_as_small_as_those_beside(tmp_path: Path) -> None:
    file, said = tmp_path / "style.safetensors", {"lora_adapter_metadata": "x" * adapters.LARGEST}
    save_file(dict(FACTORS), file, said)
    assert adapters.loras([str(file)], tmp_path / "memo")
    save_file(dict(FACTORS), file, {"lora_adapter_metadata": said["lora_adapter_metadata"] + "x"})
    with pytest.raises(ModelError, match=r"lora_adapter_metadata in .* is too large for the settings of a LoRA"):
        adapters.loras([str(file)], tmp_path / "memo")


def test_patterns_are_looked_up_and_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all layers, whatever their number."""
    looked: list[str] = []
    match = re.fullmatch
    monkeypatch.setattr(re, "fullmatch", lambda rule, text: looked.append(text) or match(rule, text))
    settings = lora._Settings({"alpha_pattern": {f"x{i}": i for i in range(50)} | {"b.c": 7, "c": 8, "a.b.c": 9}})
    assert [lora._share_said(settings, f"{i}.b.c", 1) for i in range(100)] == [8] * 100
    assert lora._share_said(settings, "a.b.c", 1) == 9
    assert lora._share_said(settings, "b.cc", 4) == 1
    assert len(looked) == 53


@pytest.mark.parametrize(
    ("settings", "scale", "says"),
    [
        ({"lora_alpha": math.nan}, 1.0, "overflows half precision"),
        ({"lora_alpha": math.inf}, 1.0, "overflows half precision"),
        ({}, 1e300, "at a scale of 1e+300"),
        ({}, -1e5, "overflows half precision"),
    ],
    ids=str,
)
def test_what_no_weight_can_hold_is_refused(
    parts: Parts, tmp_path: Path, settings: dict[str, Any], scale: float, says: str
) -> None:
    file, before = tmp_path / "adapter_model.safetensors", parts["unet"].conv_in.weight.clone()
    save_file(dict(FACTORS), file)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=re.escape(says)):
        lora.fuse(parts, file, scale, LAYOUTS)
    assert torch.equal(parts["unet"].conv_in.weight, before)


@pytest.mark.parametrize("factors", [torch.ones(0, 4, 3, 3), torch.ones(()), torch.ones(4, 4, 3, 3, dtype=torch.bool)])
def test_factors_that_are_none_are_refused(parts: Parts, tmp_path: Path, factors: torch.Tensor) -> None:
    file = tmp_path / "style.safetensors"
    save_file({**FACTORS, "unet.conv_in.lora_down.weight": factors}, file)
    with pytest.raises(ValueError, match=r"are empty|is not of floating-point numbers"):
        lora.fuse(parts, file, 1.0, LAYOUTS)
