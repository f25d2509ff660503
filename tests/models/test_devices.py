"""Devices by their names, what they have, and what they cannot do; none but the processor is here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import FAST, WORDS, diffedit, picture
from PIL import Image
from tiny_families import WRITERS

from benchmarks.emulated import emulated
from diffedit_cli.engine.networks import families, precision
from diffedit_cli.errors import DeviceError, UsageError
from diffedit_cli.models import devices, memory_needed, registry
from diffedit_cli.models.memory import OffloadOptions, format_on
from diffedit_cli.pipeline import model_session
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.stats import EditStats

DEVICE = "cuda:0"


def has(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, xpu: int = 0, mps: bool = False) -> None:
    """Lets torch say that so many GPUs are here."""
    for kind, count in (("cuda", cuda), ("xpu", xpu)):
        monkeypatch.setattr(f"torch.{kind}.is_available", lambda count=count: count > 0)
        monkeypatch.setattr(f"torch.{kind}.device_count", lambda count=count: count)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)


def test_auto_is_the_best_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, best in (({"cuda": 1, "xpu": 1, "mps": True}, "cuda"), ({"xpu": 2, "mps": True}, "xpu"),
                       ({"mps": True}, "mps"), ({}, "cpu")):  # fmt: skip
        has(monkeypatch, **here)
        assert devices.choose_device("auto") == best
    has(monkeypatch, xpu=2)
    assert devices.choose_device("xpu:1") == "xpu:1"
    with pytest.raises(DeviceError, match="xpu:2 is not available here; use --device xpu or xpu:0 or xpu:1 or cpu"):
        devices.choose_device("xpu:2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose_device("auto") == "xpu:1"


def test_a_run_takes_every_gpu_or_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.choose_devices("auto") == ["cpu"]
    has(monkeypatch, cuda=2, xpu=3)
    assert devices.choose_devices("auto") == ["cuda:0", "cuda:1"]
    assert devices.choose_devices("cuda") == ["cuda"]
    assert devices.choose_devices("cuda:1,cuda:0,xpu") == ["cuda:1", "cuda:0", "xpu"]
    with pytest.raises(DeviceError, match="cuda:2 is not available"):
        devices.choose_devices("cuda:0,cuda:2")
    with pytest.raises(UsageError, match="The device 'abacus' in --device cuda:0,abacus is unknown"):
        devices.choose_devices("cuda:0,abacus")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose_devices("auto") == ["cuda:1"]


@pytest.mark.parametrize(
    "said",
    ["CUDA error: an illegal memory access", "HIP error: invalid device function", "MPS backend failed",
     "XPU device count is zero", "level_zero backend failed with error: 40", "UR error"],
)  # fmt: skip
def test_errors_of_drivers_are_said(said: str) -> None:
    with pytest.raises(DeviceError, match=r"The device cpu failed: .*; try --device cpu"), devices.device_errors("cpu"):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="another"), devices.device_errors("cpu"):
        raise RuntimeError("another")


def test_half_precision_and_free_memory_of_intel_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [format_on(one, "auto", "bfloat16") for one in ("cuda:1", "xpu", "mps", "cpu")] == [
        "bfloat16", "bfloat16", "float32", "float32",
    ]  # fmt: skip
    monkeypatch.setattr("torch.xpu.mem_get_info", lambda _: (5, 9))
    assert memory_needed.free("xpu:0") == (5, 5)

    def refuse(_: str) -> None:
        raise RuntimeError("The device does not support querying the available free memory.")

    monkeypatch.setattr("torch.xpu.mem_get_info", refuse)
    monkeypatch.setattr("torch.xpu.get_device_properties", lambda _: SimpleNamespace(total_memory=9))
    monkeypatch.setattr("torch.xpu.memory_reserved", lambda _: 2)
    assert memory_needed.free("xpu") == (7, 7)


def test_doctor_says_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(tested)" in diffedit("doctor", "--device", "cpu", "--model", "builtin").out.decode()
    has(monkeypatch, xpu=2)
    monkeypatch.setattr("torch.xpu.get_device_name", lambda _: "Intel Arc")
    from diffedit_cli.cli import doctor

    assert doctor._device("auto") == "; ".join(
        f"xpu:{number}, Intel Arc (Intel's GPUs are not tested)" for number in (0, 1)
    )
    monkeypatch.setattr("torch.version.hip", "6.4")
    assert "AMD" in devices.tried("cuda:0")


NO_DEVICE = ("", " ", "CPU", "abacus", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "cuda:01", "cuda\n")
NO_LIST = (",", "cpu,", ",cpu", "cpu,cpu", "cpu,cpu:0", "cuda,cuda:0", "cuda:1,cuda:0,cuda:1", "mps:0,mps", "auto,cpu")


@pytest.mark.parametrize("name", [*NO_DEVICE, *NO_LIST, "cuda:0,cuda:1", "auto,"])
def test_what_names_no_device_is_wrong_usage_before_anything_else(name: str) -> None:
    """Whether PyTorch is there or not, and whether the picture or the result is."""
    with pytest.raises(UsageError, match=r"device"):
        devices.choose_device(name)
    for words in (["edit", "none.png", *WORDS], ["mask", "none.png", *WORDS], ["invert", "none.png"],
                  ["models", "show", "builtin"]):  # fmt: skip
        ran = diffedit(*words, "--device", name)
        assert (ran.code, len(ran.lines)) == (2, 1), ran.err
    if name != "cuda:0,cuda:1":
        for words in (["run", "none", *WORDS, "--out", "out"], ["doctor"]):
            ran = diffedit(*words, "--device", name)
            assert (ran.code, len(ran.lines)) == (2, 1), ran.err
        with pytest.raises(UsageError, match=r"device"):
            devices.choose_devices(name)


def test_a_device_named_twice_is_said_to_be() -> None:
    ran = diffedit("run", "none", *WORDS, "--out", "out", "--device", "cuda,cpu,cuda:0")
    assert "--device cuda,cpu,cuda:0 names one device twice, as cuda and cuda:0; name each once." in ran.err
    ran = diffedit("run", "none", *WORDS, "--out", "out", "--ray", "2", "--device", "cuda:0,cuda:1")
    assert (ran.code, "--device cuda:0,cuda:1 names several devices" in ran.err) == (2, True)


@pytest.mark.parametrize("name", ["cuda:9", "xpu", "xpu:1", "mps", "mps:1", "cpu:0", "cpu:3"])
def test_a_device_that_is_not_here_is_said_to_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, cuda=2)
    with pytest.raises(DeviceError, match=f"The device {name} is not available here; use --device cuda or"):
        devices.choose_device(name)


@pytest.mark.parametrize(
    ("machine", "capabilities", "expected"),
    [("x86_64", {"avx2": True}, False), ("x86_64", {"avx512_f": True, "avx512_bf16": False}, False),
     ("AMD64", {"avx512_bf16": True}, True), ("x86_64", {"amx_bf16": True}, True)],
)  # fmt: skip
def test_which_processors_have_bfloat16(
    monkeypatch: pytest.MonkeyPatch, machine: str, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.undo()  # the answer of the fixture
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert devices.has_bfloat16() == expected


def test_bfloat16_is_not_emulated(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bfloat16", lambda: False)
    folder = registry.find(str(tiny_epsilon))

    def session(dtype: str, quantize: str = "none") -> ModelSession:
        return ModelSession(folder, "cpu", dtype, OffloadOptions(quantize=quantize), any_picture=False)

    stats, given = EditStats(), session("bfloat16")
    assert given.dtype == given.model(stats).dtype_name == "float32"
    assert [warning for warning in stats.warnings if "bfloat16" in warning] == [
        "This processor has no bfloat16 and would only emulate it; float32 is used, which is faster."
    ]
    assert session("float16").dtype == "float16"
    assert session("bfloat16", "int8").dtype == "bfloat16"  # whose kernels compute in it


def refuse_float64(func: Any, made: torch.Tensor) -> None:
    assert made.dtype not in (torch.float64, torch.complex128), func


@pytest.mark.thorough
@pytest.mark.parametrize("words", ["", "--keep 0.5 --eta 0.5 --mask-method noise", "--soft --zoom auto"])
def test_an_edit_makes_no_float64_on_the_device(
    tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """And computes nothing from tensors of two places; its pixels are those of the processor."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", (96, 64))
    for module in (devices, model_session):
        monkeypatch.setattr(module, "choose_device", lambda name: name)
    monkeypatch.setattr(memory_needed, "free", lambda _: (10**12, 10**12))
    options = (*WORDS, *FAST, *words.split(), "--model", tiny_epsilon, "--no-cache", "--dtype", "float32")
    ran = diffedit("edit", "a.png", *options, "--device", "cpu", "-o", "cpu.png")
    assert ran.code == 0, ran.err
    with emulated(seen=refuse_float64):
        ran = diffedit("edit", "a.png", *options, "--device", DEVICE, "-o", "there.png", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["device"] == DEVICE
    here, there = (np.asarray(Image.open(name), dtype=int) for name in ("cpu.png", "there.png"))
    assert np.abs(here - there).max() <= 1


@pytest.mark.thorough
@pytest.mark.parametrize("family", WRITERS)
def test_networks_make_no_float64_on_the_device(family: str, tmp_path: Path) -> None:
    folder = WRITERS[family](tmp_path / "model")
    made = []
    for device in ("cpu", DEVICE):
        with emulated(seen=refuse_float64), torch.inference_mode():
            model: Any = families.load(folder, device, torch.float32, name="tiny")
            if device == DEVICE:
                precision.keep_float64_off(model.network, device)  # as on Intel's GPUs
            x_0 = model.encode(torch.zeros(1, 3, 64, 64))
            eps = model.predict(x_0, model.levels(10)[5], model.embed("a cat")).eps
            made.append([x_0.cpu(), eps.cpu(), model.decode(x_0).cpu()])
    for here, there in zip(*made, strict=True):
        torch.testing.assert_close(there, here, rtol=0, atol=1e-5)
