"""Which runtime evaluates a model, and what a command says of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_transformers
from command import WORDS, diffedit
from PIL import Image

from diffedit_cli.engine.networks import openvino_runtime
from diffedit_cli.errors import UsageError
from diffedit_cli.models import main_memory, memory_needed, registry, runtimes
from diffedit_cli.models.compiled_networks import CompiledNetworks
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import OffloadOptions

MADE = (*WORDS, "--runtime", "openvino")


def chosen(model: ModelFolder, runtime: str, device: str = "cpu", dtype: str = "float32", **options: Any) -> str:
    return runtimes.chosen(model, device, dtype, OffloadOptions(runtime=runtime, **options)).runtime


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network counts as large."""
    monkeypatch.setattr(runtimes, "SMALL_NETWORK", 0)


@pytest.mark.usefixtures("large")
def test_auto_is_openvino_for_large_networks_that_it_computes(tiny_sdxl: Path, tmp_path: Path) -> None:
    model = registry.find(str(tiny_sdxl))
    assert chosen(model, "auto") == chosen(model, "auto", dtype="bfloat16") == "openvino"
    assert chosen(model, "torch") == "torch"
    assert chosen(model, "auto", "cuda") == chosen(model, "auto", dtype="float16") == "torch"
    assert chosen(model, "auto", quantize="fp8") == "torch"
    assert chosen(registry.find(str(tiny_transformers.write_flux(tmp_path / "flux"))), "auto") == "torch"


def test_auto_is_torch_for_networks_as_small_as_the_built_in_one() -> None:
    model = registry.find("builtin")
    assert chosen(model, "auto") == "torch"
    assert chosen(model, "openvino") == "openvino"


@pytest.mark.usefixtures("large")
def test_auto_is_torch_where_the_memory_is_too_small_for_both(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.find(str(tiny_sdxl))
    by_both, by_torch = (
        memory_needed.needed(model, "cpu", "float32", OffloadOptions(runtime=runtime))
        for runtime in ("openvino", "torch")
    )
    assert by_both.total == by_torch.total + 2 * by_torch.weights["unet"]  # while it is compiled
    for memory, runtime in ((2 * by_both.total, "openvino"), (2 * by_both.total - 1, "torch")):
        monkeypatch.setattr(main_memory, "whole", lambda memory=memory: memory)
        assert chosen(model, "auto") == runtime
        assert chosen(model, "openvino") == "openvino"


@pytest.mark.usefixtures("large")
def test_it_is_not_chosen_where_it_is_not_installed(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    model = registry.find(str(tiny_sdxl))
    assert chosen(model, "auto") == "torch"
    with pytest.raises(
        UsageError, match=r"install it with pip install 'diffedit-cli\[openvino\]', or use --runtime torch"
    ):
        chosen(model, "openvino")


@pytest.mark.parametrize(
    ("device", "dtype", "options", "said"),
    [
        ("cuda", "float32", {}, "the device is cuda; use --device cpu, or"),
        ("cpu", "float16", {}, "it computes in float32 and bfloat16; use --dtype float32, or"),
        ("cpu", "float32", {"quantize": "int8"}, "use the full model without --quantize, or use --runtime torch."),
    ],
)
def test_asked_for_in_vain_it_says_why(
    device: str, dtype: str, options: dict[str, str], said: str, tiny_sdxl: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        chosen(registry.find(str(tiny_sdxl)), "openvino", device, dtype, **options)
    assert said in str(raised.value)


def test_a_stored_network_is_replaced_unless_it_is_read(tiny_sdxl: Path, tmp_path: Path) -> None:
    networks = CompiledNetworks(registry.find(str(tiny_sdxl), kept=tmp_path), "float32")
    assert networks.find("1 row") is None
    networks.keep("1 row", memoryview(b"damaged"))
    found = networks.find("1 row")
    assert found is not None
    networks.keep("1 row", memoryview(b"another"))
    assert found[0].read_bytes() == b"damaged"  # which `found` holds
    path = found[0]
    del found
    networks.keep("1 row", memoryview(b"another"))
    assert path.read_bytes() == b"another"
    assert networks.find("2 rows") is None
    assert [file.name for file in tmp_path.glob("models/*/*")] == ["network.blob"]


def test_other_families_are_left_to_torch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not compute models of the kind FLUX\.1"):
        chosen(registry.find(str(tiny_transformers.write_flux(tmp_path / "flux"))), "openvino")


# The command


@pytest.mark.usefixtures("here")
def test_an_unknown_runtime_is_refused() -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--runtime", "onnx", "-o", "o.png")
    assert (ran.code, ran.err) == (2, "diffedit: --runtime onnx is unknown; use auto, torch, openvino.\n")


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_an_edit_by_openvino_is_near_that_of_torch_and_says_so() -> None:
    by = {}
    for runtime in ("torch", "openvino"):
        ran = diffedit("edit", "cat.png", *WORDS, "--runtime", runtime, "-o", f"{runtime}.png", "--json")
        assert ran.code == 0, ran.err
        assert "edit" not in json.loads(ran.out).get("cache", {}).values()
        by[runtime] = np.asarray(Image.open(f"{runtime}.png").convert("RGB")).astype(int)
    assert np.abs(by["torch"] - by["openvino"]).max() <= 2
    assert "--runtime" not in diffedit("info", "torch.png").out.decode()
    assert "--runtime openvino" in diffedit("info", "openvino.png").out.decode()


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_another_command_uses_the_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def edited(name: str) -> bytes:
        ran = diffedit("edit", "cat.png", *MADE, "--no-cache", "-o", name)
        assert ran.code == 0, ran.err
        return Path(name).read_bytes()

    first = edited("first.png")
    with monkeypatch.context() as patch:
        patch.setattr(openvino_runtime, "_converted", None)
        assert edited("second.png") == first
    assert diffedit("cache", "clear").code == 0
    assert edited("third.png") == first


@pytest.mark.thorough
@pytest.mark.usefixtures("here")
def test_a_result_is_the_same_alone_and_in_a_run() -> None:
    Path("in").mkdir()
    for name in "ab":
        Image.open("cat.png").rotate(90 if name == "a" else 0).save(Path("in", f"{name}.png"))
    assert diffedit("run", "in", *MADE, "--out", "out").code == 0
    for name in "ab":
        ran = diffedit("edit", f"in/{name}.png", *MADE, "-o", f"{name}.png")
        assert ran.code == 0, ran.err
        assert any(Path(f"{name}.png").read_bytes() == made.read_bytes() for made in Path("out").glob(f"{name}*.png"))
