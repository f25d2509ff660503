"""What a checkpoint's network predicts, said by its tensors, its header or the .yaml beside; other noise processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import ldm_sd3
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffedit_cli.errors import ModelError
from diffedit_cli.models import registry

LDM_YAML = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    linear_start: 0.00085\n"
V_YAML = f'{LDM_YAML}    parameterization: "v"\n'
SGM_YAML = (
    "model:\n  target: sgm.models.diffusion.DiffusionEngine\n  params:\n    denoiser_config:\n      params:\n"
    "        scaling_config:\n          target: sgm.modules.diffusionmodules.denoiser_scaling.{}\n"
)
EPS, V = "epsilon", "v_prediction"


def header(word: str, key: str = "prediction_type") -> dict[str, str]:
    return {"modelspec.architecture": "stable-diffusion-v1", f"modelspec.{key}": word}


@pytest.mark.thorough
@pytest.mark.parametrize("configuration", ["tiny_epsilon", "tiny_v"])
@pytest.mark.parametrize(
    ("metadata", "marks", "beside", "expected"),
    [
        ({}, (), None, None),
        (header("v"), (), None, V),
        (header("epsilon"), (), None, EPS),
        (header("v", "predict_key"), (), None, V),
        (header("epsilon", "predict_key"), (), None, EPS),
        ({}, ("v_pred",), None, V),
        (header("epsilon"), ("v_pred", "ztsnr"), None, V),
        ({}, (), V_YAML, V),
        ({}, (), LDM_YAML, EPS),
        (header("epsilon"), (), V_YAML, V),
        ({}, (), SGM_YAML.format("VScaling"), V),
        ({}, (), SGM_YAML.format("EpsScaling"), EPS),
        (header("v"), (), "title: a picture of mine\n", V),
        ({"modelspec.title": "no word on it"}, (), "- a list\n", None),
    ],
)
def test_what_the_network_predicts_is_heeded(
    plain: dict[str, Tensor], request: pytest.FixtureRequest, tmp_path: Path,
    configuration: str, metadata: dict[str, str], marks: Iterable[str], beside: str | None, expected: str | None,
) -> None:  # fmt: skip
    file, folder = tmp_path / "file.safetensors", request.getfixturevalue(configuration)
    save_file(plain | {mark: torch.empty(0) for mark in marks}, file, metadata)
    if beside:
        file.with_suffix(".yaml").write_text(beside)
    found = registry.find(str(file), kept=tmp_path / "kept", config=str(folder))
    assert found.prediction_type == (expected or registry.find(str(folder)).prediction_type)
    settings = json.loads((found.path / "scheduler" / "scheduler_config.json").read_text())
    assert settings.get("rescale_betas_zero_snr", False) == ("ztsnr" in marks)
    file.with_suffix(".yaml").write_text(V_YAML)
    assert registry.find(str(file), kept=tmp_path / "kept", config=str(folder)).prediction_type == V


@pytest.mark.parametrize(("metadata", "marks", "beside", "says"), [
    ({}, ("edm_vpred.sigma_max", "edm_vpred.sigma_min"), None, "edm_vpred.sigma_max"),
    ({}, ("edm_mean", "edm_std"), None, "edm_mean"),
    (header("edm"), (), None, "its header says edm"),
    ({}, (), SGM_YAML.format("EDMScaling"), r"file.yaml says EDMScaling"),
    ({}, (), SGM_YAML.format("VScalingWithEDMcNoise"), r"file.yaml says VScalingWithEDMcNoise"),
    ({}, (), "model: [", "file.yaml beside .* cannot be read"),
    ({}, (), "[" * 10_000, "file.yaml beside .* cannot be read"),
    ({}, (), " " * (2**16 + 1), "file.yaml beside .* cannot be read"),
])  # fmt: skip
def test_other_noise_processes_are_refused(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path,
    metadata: dict[str, str], marks: Iterable[str], beside: str | None, says: str,
) -> None:  # fmt: skip
    file = tmp_path / "file.safetensors"
    save_file(plain | {mark: torch.ones(1) for mark in marks}, file, metadata)
    if beside:
        file.with_suffix(".yaml").write_text(beside)
    with pytest.raises(ModelError, match=says):
        registry.find(str(file), kept=tmp_path / "kept", config=str(tiny_epsilon))
    assert not list((tmp_path / "kept").glob("models/*"))


def test_a_flow_stays_a_flow(tmp_path: Path) -> None:
    folder = tiny.write_sd3(tmp_path / "sd3", first_projection=tiny.TEXT_WIDTH)
    file = ldm_sd3.write_checkpoint(folder, tmp_path / "file.safetensors")
    save_file(load_file(file), file, header("v"))
    found = registry.find(str(file), kept=tmp_path / "kept", config=str(folder))
    settings = json.loads((found.path / "scheduler" / "scheduler_config.json").read_text())
    assert settings == json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
