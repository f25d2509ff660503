"""Offloading from a device that is emulated: the same results, with less on it, and nothing computed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import WRITERS
from torch import Tensor

from benchmarks.emulated import emulated
from diffedit_cli.engine.networks import families

DEVICE = "cuda:0"


def load(folder: Path, device: str, **memory: Any) -> Any:
    return families.load(folder, device, torch.float32, name="tiny", **memory)


def results(model: Any, clip_skip: int = 0) -> list[Tensor]:
    """What each network gives, and the attention to a word."""
    picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        x_0, at = model.encode(picture), model.levels(10)[5]
        text = model.embed("a cat", clip_skip)
        with model.watching("a cat", ["cat"]) as watch:
            model.predict(x_0, at, model.embed("a cat"))
            looks = watch.map((x_0.shape[-2], x_0.shape[-1]))
        return [text.tokens, x_0, looks, model.predict(x_0, at, model.embed("a cat")).eps, model.decode(x_0)]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device == torch.device(DEVICE)
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-5)  # memory is aligned differently


@pytest.mark.thorough
@pytest.mark.parametrize("family", WRITERS)
def test_every_family(family: str, tmp_path: Path) -> None:
    folder = WRITERS[family](tmp_path / "model")
    expected = results(load(folder, "cpu"))
    with emulated():
        model = load(folder, DEVICE, offload="group")
        for _ in range(2):  # layers are copied ahead from the second call on
            assert_alike(results(model), expected)
        assert {weight.device.type for network in model._networks() for weight in network.parameters()} == {"cpu"}


@pytest.mark.parametrize("quantize", ["none", "fp8"])
def test_less_is_on_the_device(tiny_sdxl: Path, quantize: str) -> None:
    """Also while the networks compute in float32, which renews the copies in pinned memory."""
    there = load(tiny_sdxl, "cpu", quantize=quantize)
    expected = results(there, clip_skip=1)
    with torch.inference_mode(), there.in_float32():
        in_full = results(there, clip_skip=1)
    peaks = []
    for offload in ("none", "model", "group"):
        with emulated() as devices:
            model = load(tiny_sdxl, DEVICE, offload=offload, quantize=quantize)
            assert (devices.now == 0) == (offload != "none")
            devices.peak = devices.now
            for _ in range(2):
                assert_alike(results(model, clip_skip=1), expected)
            with torch.inference_mode(), model.in_float32():
                assert_alike(results(model, clip_skip=1), in_full)
            assert_alike(results(model, clip_skip=1), expected)
            peaks.append(devices.peak)
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] < 0.7 * peaks[1]


def test_half_precision_can_be_left(tiny_epsilon: Path) -> None:
    expected = results(load(tiny_epsilon, "cpu"))
    with emulated():
        model = families.load(tiny_epsilon, DEVICE, torch.bfloat16, name="tiny", offload="group")
        results(model)
        model.vae.to(torch.float32)
        from diffedit_cli.engine.networks import offload

        offload.renew(model.vae)
        with torch.inference_mode(), model.in_float32():
            for found, theirs in zip(results(model), expected, strict=True):
                assert found.dtype == torch.float32
                assert (found.cpu() - theirs).norm() < 0.1 * theirs.norm()
        assert results(model)[3].dtype == torch.float32  # predictions are
        assert model.dtype_name == "bfloat16"
