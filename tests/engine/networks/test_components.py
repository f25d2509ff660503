"""Folders in the formats of Stable Diffusion XL and 3 that cannot be used: which part is to blame."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.sd3 import StableDiffusion3
from diffedit_cli.engine.networks.sdxl import StableDiffusionXL
from diffedit_cli.errors import ModelError


def load(folder: Path) -> Any:
    return families.load(folder, "cpu", torch.float32, name="tiny")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"_class_name": "AuraFlowPipeline"}', r"^tiny is a AuraFlowPipeline, which diffedit cannot use"),
        ("{}", r"^tiny is not a diffusers model: .*model_index.json names no pipeline"),
        ("[]", r"^tiny is not a diffusers model"),
        ("{", r"^tiny is not a diffusers model"),
    ],
)
def test_another_pipeline_is_refused(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


PARTS = [
    (fixture, part)
    for fixture, family in (("tiny_sdxl", StableDiffusionXL), ("tiny_sd3", StableDiffusion3))
    for part in family.READERS
]


@pytest.mark.parametrize(("fixture", "part"), PARTS)
def test_a_missing_or_damaged_part_is_named(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, part: str
) -> None:
    copy = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "model"))
    damaged = next(copy.glob(f"{part}/*.safetensors"), None) or next(
        path for name in ("vocab", "tokenizer", "scheduler_config") for path in copy.glob(f"{part}/{name}.json")
    )
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ModelError, match=rf"^The model tiny cannot be loaded, its {part} "):
        load(copy)
    shutil.rmtree(copy / part)
    with pytest.raises(ModelError, match=rf"^The model tiny has no {part}: "):
        load(copy)


def refiner(copy: Path) -> None:
    tiny.unet(copy / "unet", channels=4, width=tiny.TEXT_WIDTH + tiny.TEXT_WIDTH_2)


@pytest.mark.parametrize(
    ("fixture", "change", "message"),
    [
        ("tiny_sdxl", refiner, "takes neither pooled text nor sizes"),
        ("tiny_sdxl", lambda copy: tiny.text_encoder(copy / "text_encoder", 64), "width 80 .* give 112"),
        ("tiny_sdxl", lambda copy: tiny.text_encoder(copy / "text_encoder_2", 48, 8), "pooled .* width 24 .* give 8"),
        ("tiny_sd3", lambda copy: tiny.transformer(copy / "transformer", pooled=64), "pooled .* width 64 .* give 40"),
        ("tiny_sd3", lambda copy: tiny.transformer(copy / "transformer", channels=33), "takes 33 channels .* gives 16"),
        ("tiny_sd3", lambda copy: tiny.t5_encoder(copy / "text_encoder_3", 64), "width 96 .* give 64"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, change: Callable[[Path], None], message: str
) -> None:
    copy = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "model"))
    change(copy)
    with pytest.raises(ModelError, match=rf"^The model tiny does not fit: .*{message}"):
        load(copy)


@pytest.mark.parametrize(
    ("fixture", "config", "kind"),
    [
        ("tiny_epsilon", tiny.FLOW, "FlowMatchEulerDiscreteScheduler"),
        ("tiny_sdxl", tiny.EULER | {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ("tiny_sd3", tiny.EULER, "EulerDiscreteScheduler"),
    ],
)
def test_a_scheduler_of_another_noise_process_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, config: dict[str, Any], kind: str
) -> None:
    copy = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "model"))
    tiny.write_json(copy / "scheduler" / "scheduler_config.json", config)
    with pytest.raises(ModelError, match=rf"its scheduler is unreadable \({kind} has another noise process"):
        load(copy)


def test_a_picture_longer_than_the_transformer_reaches_is_refused(tiny_sd3: Path) -> None:
    model = load(tiny_sd3)
    assert model.encode(torch.zeros(1, 3, 192, 16)).shape == (1, 16, 48, 4)
    with pytest.raises(ModelError, match="tiny paints at most 192 pixels a side"):
        model.encode(torch.zeros(1, 3, 200, 16))


def test_each_family_reads_the_parts_that_its_format_has() -> None:
    for family in FAMILIES:
        reads = families.implementation(family)
        told = FAMILIES[family]
        of_painters = {part for painter in told.painters for part in painter.readers}
        assert set(reads.READERS) == {*told.parts, *told.optional} - of_painters
        assert set(reads.OPTIONAL) == {*told.optional} - of_painters
