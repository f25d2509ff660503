"""Models larger than their device: offloading computes the same, tiles nearly, and half precision can be left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import WORDS, diffedit, picture, settled
from torch import Tensor

from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion

OFFLOADS = ("model", "group", "sequential")
FORMATS = ("tiny_epsilon", "tiny_sdxl", "tiny_sd3")


def load(folder: Path, dtype: torch.dtype = torch.float32, **memory: Any) -> Any:
    return families.load(folder, "cpu", dtype, name="tiny", **memory)


def shown(size: int) -> Tensor:
    return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0)) * 2 - 1


def results(model: LatentDiffusion) -> list[Tensor]:
    """What each network gives."""
    text = model.embed("a cat", 1)
    x_0 = model.encode(shown(64))
    return [text.tokens, x_0, model.predict(x_0, model.levels(10)[5], text).eps, model.decode(x_0)]


@pytest.mark.thorough
@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_offloading_changes_nothing(
    request: pytest.FixtureRequest, format: str, offload: str, dtype: torch.dtype
) -> None:
    """Nor does leaving half precision and coming back."""
    folder = request.getfixturevalue(format)
    model, offloaded = load(folder, dtype), load(folder, dtype, offload=offload)
    waiting = {parameter.device.type for network in offloaded._networks() for parameter in network.parameters()}
    assert waiting == ({"meta"} if offload == "sequential" else {"cpu"})
    expected = results(model)
    for ours, theirs in zip(results(offloaded), expected, strict=True):
        assert torch.equal(ours, theirs)
    with model.in_float32(), offloaded.in_float32():
        in_full = results(model)
        for ours, theirs in zip(results(offloaded), in_full, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(results(offloaded), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_one_network_at_a_time_is_on_the_device(tiny_sdxl: Path) -> None:
    """The device without memory stands for a second one, which is not here."""
    model = load(tiny_sdxl)
    networks = model._networks()
    model.offload_to("meta", "model")
    for network in networks:
        network.to = lambda where, network=network: network.to_empty(device=where)
    for used in (*networks, *reversed(networks)):
        used._hf_hook.pre_forward(used)
        devices = [next(network.parameters()).device.type for network in networks]
        assert devices == ["meta" if network is used else "cpu" for network in networks]


def test_tiles_are_those_of_diffusers_and_slices_change_nothing(tiny_epsilon: Path) -> None:
    plain, tiled, sliced = load(tiny_epsilon), load(tiny_epsilon, vae_tiling=True), load(tiny_epsilon, vae_slicing=True)
    small, large = shown(64), shown(96)
    assert torch.equal(tiled.encode(small), plain.encode(small))  # of one tile
    x_0 = plain.encode(large)
    assert not torch.equal(tiled.encode(large), x_0)
    plain.vae.enable_tiling()
    assert torch.equal(tiled.encode(large), plain.encode(large))
    assert torch.equal(tiled.decode(x_0), plain.decode(x_0))
    plain.vae.disable_tiling()
    assert not torch.equal(tiled.decode(x_0), plain.decode(x_0))
    both = torch.cat([x_0, -x_0])
    seen: list[int] = []
    sliced.vae.post_quant_conv.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    torch.testing.assert_close(sliced.decode(both), plain.decode(both), rtol=0, atol=1e-5)
    assert seen == [1, 1]


def test_by_the_command_line(tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, tiny_sdxl, monkeypatch)
    picture(tmp_path / "wide.png", (200, 50))
    made = {}
    for words in ("", "--offload model", "--offload group", "--offload sequential", "--vae-slicing", "--vae-tiling"):
        ran = diffedit("edit", "wide.png", *WORDS, "-o", "x.png", "--no-cache", "--json", *words.split())
        assert ran.code == 0, ran.err
        assert ran.warnings == ([f"{words} saves no memory on the CPU; leave it out."] if "offload" in words else [])
        made[words] = (tmp_path / "x.png").read_bytes()
    assert made[""] == made["--offload model"] == made["--offload group"] == made["--offload sequential"]
    assert made[""] == made["--vae-slicing"]
    assert made["--vae-tiling"] != made[""]
    again = diffedit("info", "x.png").out.decode().splitlines()[-1]
    assert again.endswith("--vae-tiling")
