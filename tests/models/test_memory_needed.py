"""The memory that an edit needs, as the headers of the weights tell it, and what is said before a model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers
import torch
from command import WORDS, diffedit, picture, settled

from diffedit_cli.engine.networks import families, quantisation
from diffedit_cli.errors import DeviceError
from diffedit_cli.models import devices, loader, memory_needed, registry
from diffedit_cli.models.memory import OffloadOptions

LARGE = 10**12


def sizes(folder: Path, kind: str, dtype: torch.dtype) -> dict[str, int]:
    """The bytes of the parameters of each network after loading."""
    model: Any = families.load(folder, "cpu", dtype, name="tiny", quantize=kind)
    found = {"vae": model.vae, model.FORMAT.denoiser: model.network}
    found |= {part: getattr(model, part) for part in ("text_encoder", "text_encoder_2") if hasattr(model, part)}
    return {part: quantisation.size(network) for part, network in found.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["none", "fp8", "int8", "nf4"])
def test_the_headers_tell_the_size_of_the_loaded_weights(
    kind: str, dtype: str, tiny_epsilon: Path, tmp_path: Path
) -> None:
    for folder in (tiny_epsilon, tiny_transformers.write_flux(tmp_path / "flux")):
        found = memory_needed.needed(registry.find(str(folder)), "cpu", dtype, OffloadOptions(quantize=kind))
        for part, size in sizes(folder, kind, getattr(torch, dtype)).items():
            assert found.weights[part] == pytest.approx(size, rel=0.05), part  # biases of fp8, and buffers
        assert found.resident == sum(found.weights.values())


def test_offloading_needs_one_network_or_one_weight(tiny_sdxl: Path) -> None:
    model = registry.find(str(tiny_sdxl))
    plain, by_model, by_group, by_layer = (
        memory_needed.needed(model, "cuda", "float32", OffloadOptions(offload=one))
        for one in ("none", "model", "group", "sequential")
    )
    assert by_model.resident == max(plain.weights.values()) < plain.resident
    assert by_layer.resident == plain.largest < by_group.resident == 2 * plain.largest < by_model.resident
    assert memory_needed.needed(model, "cpu", "float32", OffloadOptions(offload="model")).resident == plain.resident


def test_computing_grows_with_the_picture_and_the_number_format(tiny_epsilon: Path) -> None:
    """The tiny VAE has 8 channels, and six maps of 64 x 64 pixels are alive while it decodes; the UNet needs more."""
    model = registry.find(str(tiny_epsilon))
    full, half = (
        memory_needed.needed(model, "cpu", dtype, OffloadOptions()).computing - memory_needed.LIBRARIES
        for dtype in ("float32", "bfloat16")
    )
    assert full == 2 * half == 4 * max(6 * 8 * 64**2, 24 * 2 * 16**2 * 16)


def free(monkeypatch: pytest.MonkeyPatch, left: int, most: int | None = None) -> None:
    monkeypatch.setattr(memory_needed, "free", lambda _: (left, most or left))


def said(folder: Path, left: int, monkeypatch: pytest.MonkeyPatch, device: str = "cpu", **options: Any) -> list[str]:
    free(monkeypatch, left, LARGE)
    warnings: list[str] = []
    memory_needed.check(registry.find(str(folder)), device, "float32", OffloadOptions(**options), warnings.append)
    return warnings


def test_what_does_not_fit_is_said(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_needed, "LIBRARIES", 0)
    need = memory_needed.needed(registry.find(str(tiny_sdxl)), "cpu", "float32", OffloadOptions()).total
    assert said(tiny_sdxl, need, monkeypatch) == []
    (warning,) = said(tiny_sdxl, need - 1, monkeypatch)
    assert f"needs about {need / 1e6:.1f} MB and cpu has" in warning
    assert "use --dtype bfloat16 (about" in warning
    with monkeypatch.context() as patch:
        patch.setattr(devices, "has_bfloat16", lambda: False)  # it would be computed in float32
        assert not any("use --dtype bfloat16 (" in one for one in said(tiny_sdxl, need - 1, monkeypatch))
    (warning,) = said(tiny_sdxl, need // 20, monkeypatch)
    assert warning.endswith("use a smaller model, or close other programs.")
    with monkeypatch.context() as patch:
        patch.setattr(memory_needed, "BYTES", dict.fromkeys(memory_needed.BYTES, 4))  # another dtype does not help
        (warning,) = said(tiny_sdxl, need - 1, patch, device="cuda")
    assert "--quantize int8 (about" in warning
    (warning,) = said(tiny_sdxl, need * 2 // 3, monkeypatch, device="cuda", quantize="int8")
    assert "--offload model (about" in warning or "--dtype bfloat16 (about" in warning


def test_the_advice_names_what_saves_more(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_needed, "LIBRARIES", 0)
    monkeypatch.setattr(memory_needed, "BYTES", dict.fromkeys(memory_needed.BYTES, 4))
    model = registry.find(str(tiny_sdxl))
    by_model = memory_needed.needed(model, "cuda", "float32", OffloadOptions("model", quantize="fp8")).total
    (warning,) = said(tiny_sdxl, by_model - 1, monkeypatch, device="cuda", offload="model", quantize="fp8")
    assert "use --offload group (about" in warning
    assert "sequential" not in warning  # which moves no quantised layers


def test_weights_that_cannot_fit_are_not_loaded(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1000)
    with pytest.raises(DeviceError, match=r"needs about .* and cpu has 0.0 MB free; use a smaller model"):
        loader.Loader().load(registry.find(str(tiny_epsilon)), "cpu", "float32", OffloadOptions())


def test_by_the_command_line(tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    picture(tmp_path / "a.png", (64, 64))
    free(monkeypatch, 10**6, LARGE)
    ran = diffedit("edit", "a.png", *WORDS, "-o", "x.png", "--json", "--no-cache")
    assert ran.code == 0, ran.err
    assert any("needs about" in warning for warning in ran.json["warnings"])
    free(monkeypatch, 10)
    for command, output in (("edit", "y.png"), ("mask", "y.png"), ("invert", "y.safetensors")):
        words = WORDS if command != "invert" else ("--caption", "a cat")
        ran = diffedit(command, "a.png", *words, "-o", output, "--no-cache")
        assert ran.code == DeviceError.code
        assert "needs about" in ran.lines[-1]
        assert not (tmp_path / output).exists()
    ran = diffedit("run", "a.png", *WORDS, "--out", "out", "--no-cache", "--json")
    assert ran.code == DeviceError.code
    assert "needs about" in ran.err + ran.out.decode()


def test_models_show(tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, tiny_sdxl, monkeypatch)
    shown = diffedit("models", "show", str(tiny_sdxl), "--device", "cpu").out.decode().splitlines()[-1]
    assert shown.startswith("memory: about 5")
    assert "in float32: vae" in shown
    assert "cpu has" in shown
    words = ("--device", "cpu", "--dtype", "bf16", "--quantize", "int8", "--json")
    memory = json.loads(diffedit("models", "show", str(tiny_sdxl), *words).out)["memory"]
    assert memory["dtype"] == "bfloat16"
    assert memory["quantize"] == "int8"
    assert memory["needed"] == sum(memory["weights"].values()) + memory["computing"]
    assert memory["free"] > 0
    assert diffedit("models", "show", str(tiny_sdxl), "--quantize", "int3").code == 2


def test_nothing_heavy_is_imported_for_it(tiny_epsilon: Path) -> None:
    code = f"""
import sys
from diffedit_cli.cli.commands import app
try:
    app(["models", "show", {str(tiny_epsilon)!r}, "--device", "cpu", "--quantize", "nf4"])
except SystemExit:
    pass
print(sorted({{"torch", "diffusers", "transformers", "numpy"}} & {{*sys.modules}}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert "memory: about" in ran.stdout
