"""Stable Diffusion XL and 3 beside diffusers' own pipelines, by the command line, and in half precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from command import WORDS, diffedit, settled
from diffusers import DDIMScheduler, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffedit_cli.engine.diffedit import Text, Trajectory, edit, invert
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.networks.sd3 import StableDiffusion3
from diffedit_cli.engine.networks.sdxl import StableDiffusionXL

FORMATS = ("tiny_sdxl", "tiny_sd3")
SOURCE, TARGET = "a cat on grass", "a dog on grass"
LONG = "a cat on grass " * 40


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return families.load(folder, "cpu", dtype, name="tiny")


@pytest.fixture(scope="module", params=FORMATS)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    if "sdxl" in folder.name:
        pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    else:
        pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


# Which family


def test_the_index_names_the_family(tiny_v: Path, tiny_sdxl: Path, tiny_sd3: Path) -> None:
    for folder, family in ((tiny_v, StableDiffusion), (tiny_sdxl, StableDiffusionXL), (tiny_sd3, StableDiffusion3)):
        assert type(load(folder)) is family


def test_models_are_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 3e6


# What the network is told


def encoded(pipe: Any, prompt: str, negative: str | None = None) -> list[Tensor]:
    """Tokens, negative tokens, pooled, negative pooled."""
    second: dict[str, Any] = {"prompt_2": None, "device": "cpu", "negative_prompt": negative}
    third = {"prompt_3": None} if isinstance(pipe, StableDiffusion3Pipeline) else {}
    return list(pipe.encode_prompt(prompt, **second, **third))


def close(ours: Tensor | None, theirs: Tensor) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", [SOURCE, "a zebra", LONG])
def test_embeddings_are_those_of_diffusers(model: Any, pipe: Any, prompt: str) -> None:
    tokens, _, pooled, _ = encoded(pipe, prompt)
    ours = model.embed(prompt)
    close(ours.tokens, tokens)
    close(ours.pooled, pooled)
    assert tokens.std() > 0.1
    assert pooled.std() > 0.1


def test_the_empty_prompt_is_that_of_diffusers(model: Any, pipe: Any) -> None:
    """XL's is all zeros, as diffusers has it for a negative prompt that is not given."""
    _, tokens, _, pooled = encoded(pipe, SOURCE)
    close(model.embed("").tokens, tokens)
    close(model.embed("").pooled, pooled)
    assert bool(pooled.any()) == isinstance(model, StableDiffusion3)


def test_a_model_can_have_its_empty_prompt_encoded(tiny_sdxl: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_sdxl, tmp_path / "model"))
    tiny.write_index(copy, "StableDiffusionXLPipeline", force_zeros_for_empty_prompt=False)
    pipe = StableDiffusionXLPipeline.from_pretrained(copy, local_files_only=True, add_watermarker=False)
    _, tokens, _, pooled = encoded(pipe, SOURCE)
    close(load(copy).embed("").tokens, tokens)
    close(load(copy).embed("").pooled, pooled)
    assert tokens.any()


def test_without_t5_its_tokens_are_zeros(tmp_path: Path) -> None:
    folder = tiny.write_sd3(tmp_path / "model", t5=False)
    absent: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent)
    tokens, _, pooled, _ = encoded(pipe, SOURCE)
    ours = load(folder).embed(SOURCE)
    close(ours.tokens, tokens)
    close(ours.pooled, pooled)
    assert not ours.tokens[:, 77:].any()
    assert load(folder).prompt_warning("cat " * 76).startswith("The prompt is longer than the 75 tokens")


def test_what_no_encoder_reads_is_told(tiny_sdxl: Path, tiny_sd3: Path) -> None:
    for folder, room in ((tiny_sdxl, 75), (tiny_sd3, 255)):
        model = load(folder)
        assert model.prompt_warning("cat " * room) is None
        warning = model.prompt_warning("cat " * room + "dog grass")
        assert f"longer than the {room} tokens" in warning
        assert '"dog grass"' in warning
        assert torch.equal(model.embed("cat " * room + "dog grass").tokens, model.embed("cat " * room).tokens)


@contextmanager
def told(network: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Collects what a network is asked, by the names of its parameters."""
    asked: list[dict[str, Any]] = []
    names = ("x_t", "t", "text")
    hook = network.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(dict(zip(names, args, strict=False)) | kwargs), with_kwargs=True
    )
    yield asked
    hook.remove()


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_a_picture_drawn_from_noise_is_that_of_diffusers(model: Any, pipe: Any, size: tuple[int, int]) -> None:
    """Everything at once: levels, labels, text, sizes, guidance and the step, at every level down to the clean one."""
    height, width = size
    noise = torch.randn(
        (1, model.vae.config["latent_channels"], height // 4, width // 4), generator=torch.Generator().manual_seed(0)
    )
    levels = model.levels(10, noise.shape[-2:].numel())
    given = Trajectory(noise.expand(len(levels), -1, -1, -1), levels)
    query = Text(model.embed(TARGET), model.embed(SOURCE), 5.0)
    with told(model.network) as ours:
        *_, y_0 = edit(model, given, torch.ones(noise.shape[-2:]), query)

    with told(getattr(pipe, "transformer", None) or pipe.unet) as theirs:
        drawn = pipe(
            TARGET, negative_prompt=SOURCE, latents=noise.clone(), guidance_scale=5.0, num_inference_steps=10,
            height=height, width=width, output_type="latent",
        ).images  # fmt: skip
    torch.testing.assert_close(y_0, drawn, rtol=0, atol=1e-4)
    assert (y_0 - noise).abs().max() > 0.1
    if isinstance(model, StableDiffusionXL):
        assert len(ours) == len(theirs) == 10
        for mine, other in zip(ours, theirs, strict=True):
            close(mine["added_cond_kwargs"]["time_ids"], other["added_cond_kwargs"]["time_ids"])
            close(mine["added_cond_kwargs"]["text_embeds"], other["added_cond_kwargs"]["text_embeds"])
        assert mine["added_cond_kwargs"]["time_ids"][0].tolist() == [height, width, 0, 0, height, width]


def test_latents_are_those_of_diffusers_vae(model: Any, pipe: Any) -> None:
    config = pipe.vae.config
    shift = config.shift_factor or 0.0
    assert bool(shift) == isinstance(model, StableDiffusion3)
    mean = pipe.vae.encode(picture()).latent_dist.mode()
    close(model.encode(picture()), (mean - shift) * config.scaling_factor)
    x_0 = torch.randn((1, config.latent_channels, 16, 8), generator=torch.Generator().manual_seed(0))
    close(model.decode(x_0), pipe.vae.decode(x_0 / config.scaling_factor + shift).sample.clamp(-1, 1))


# Noise that is known


@dataclass
class Output:
    sample: Tensor


class Gaussian(nn.Module):
    """The exact noise for Gaussian data of the text's mean m and deviation s, E[eps | x_t]."""

    def __init__(self, like: nn.Module, alphas: Tensor, s: float) -> None:
        super().__init__()
        self.config, self.dtype, self.alphas, self.s = like.config, torch.float32, alphas, s

    def forward(self, x_t: Tensor, t: Tensor, *, encoder_hidden_states: Tensor, **_: Any) -> Output:
        m, alpha = encoder_hidden_states[:, :1, :1, None], self.alphas[t].reshape(-1, 1, 1, 1)
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        return Output(b * (x_t - a * m) / (a * a * self.s**2 + b * b))


def test_inversion_follows_the_diffusion_and_decoding_leads_back(tiny_sdxl: Path) -> None:
    """For this noise the probability flow's line is x_t = a m + sqrt(a^2 s^2 + b^2) / s (x_0 - m)."""
    model, s, m = load(tiny_sdxl), 0.7, 0.4
    model.network = model.unet = Gaussian(model.unet, model.scheduler.alphas_cumprod, s)
    text, levels = Text(Embedding(torch.full((1, 1, 1), m), torch.zeros(1, 1))), model.levels(50)
    x_0 = m + s * torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    given = Trajectory(torch.cat([x_0, *invert(model, x_0, levels, text)]), levels)
    *_, y_0 = edit(model, given, torch.ones(16, 16), text)

    def line(a: float, b: float) -> Tensor:
        return a * m + (a * a * s * s + b * b) ** 0.5 * start

    start = (x_0 - levels[0].a * m) / (levels[0].a ** 2 * s * s + levels[0].b ** 2) ** 0.5
    exact = line(levels[-1].a, levels[-1].b)
    assert (given.latents[-1:] - x_0).norm() / x_0.norm() > 0.3
    assert (given.latents[-1:] - exact).norm() / exact.norm() < 0.05
    assert (y_0 - x_0).norm() / x_0.norm() < 0.05


# By the command line


def test_mask_invert_and_edit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, folder, monkeypatch)
    for words in (["mask", "cat.png", *WORDS], ["invert", "cat.png", "--caption", "a cat"]):
        ran = diffedit(*words)
        assert ran.code == 0, ran.err
    levels = 5  # 4 of 5 steps, and the picture itself
    kept = load_file(tmp_path / "cat.latents.safetensors")
    assert len(kept["trajectory"]) == len(kept["timesteps"]) == levels
    assert kept["timesteps"].tolist() == [level.timestep for level in load(folder).levels(5)[:levels]]

    given = ["--mask", "cat.mask.png", "--latents", "cat.latents.safetensors", "--caption", "a cat"]
    ran = diffedit("edit", "cat.png", *WORDS, *given, "--room", 0, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"] == {"mask": 0, "invert": 0, "edit": 6}
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("cat.png", "cat.edited.png"))
    mask = np.asarray(Image.open(tmp_path / "cat.mask.png")) > 127
    assert (after[~mask] == before[~mask]).all()
    assert (after[mask] != before[mask]).any()


def test_evaluations_at_the_defaults(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the maps, of which random weights may need any number: here the paper's."""
    settled(tmp_path, folder, monkeypatch)
    monkeypatch.delenv("DIFFEDIT_STEPS")
    ran = diffedit("edit", "cat.png", *WORDS, "--json", "--maps", 10)
    assert ran.code == 0, ran.err
    assert ran.json["evaluations"] == {"mask": 20, "invert": 7, "edit": 19}
    assert ran.warnings == []


# Half precision


def dtypes_of(model: LatentDiffusion) -> dict[str, torch.dtype]:
    """Of everything that a model computes with."""
    networks = {"vae": model.vae, "network": model.network}
    networks |= {f"text encoder {i}": encoder.network for i, encoder in enumerate(model.encoders)}
    return {f"{part} {name}": value.dtype for part in networks for name, value in networks[part].state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_says_nearly_the_same_and_can_be_left(folder: Path, model: Any, dtype: torch.dtype) -> None:
    half, at = load(folder, dtype), model.levels(10)[5]
    x_t = torch.randn((1, model.vae.config["latent_channels"], 16, 16), generator=torch.Generator().manual_seed(0))

    def eps(model: LatentDiffusion) -> Tensor:
        return model.predict(x_t, at, model.embed(SOURCE)).eps

    before = eps(half)
    assert before.dtype == torch.float32
    assert not torch.equal(before, eps(model))
    torch.testing.assert_close(before, eps(model), rtol=0.1, atol=0.1)
    dtypes = dtypes_of(half)
    with half.in_float32():
        assert half.dtype_name == "float32"
        torch.testing.assert_close(eps(half), eps(model), rtol=0.1, atol=0.1)
    assert half.dtype_name == str(dtype).removeprefix("torch.")
    assert dtypes_of(half) == dtypes
    assert torch.equal(eps(half), before)


def loud(folder: Path, copy: Path) -> Path:
    """A copy whose VAE leaves float16's range on the way, and comes back; `force_upcast` does not warn of it."""
    shutil.copytree(folder, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        tensors[name] = tensors[name] * 5e5  # the normalisation after it takes it back
    save_file({name: tensor.clamp(-6e4, 6e4) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    config = json.loads((copy / "vae" / "config.json").read_text())
    tiny.write_json(copy / "vae" / "config.json", config | {"force_upcast": False})
    return copy


def test_a_vae_that_overflows_goes_to_float32_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(loud(folder, tmp_path / "loud"), torch.float16)
    assert model.encode(picture()).isfinite().all()
    assert model.vae_overflowed
    assert (model.vae.dtype, model.network.dtype) == (torch.float32, torch.float16)
    with model.in_float32():
        pass
    assert (model.vae.dtype, model.network.dtype) == (torch.float32, torch.float16)

    settled(tmp_path, tmp_path / "loud", monkeypatch)
    ran = diffedit("edit", "cat.png", *WORDS, "--dtype", "float16", "--json")
    assert ran.code == 0, ran.err
    assert ran.warnings == ["The VAE overflowed in float16; it runs in float32."]


def test_noise_that_is_not_finite_is_no_fault_of_the_vae(folder: Path) -> None:
    model = load(folder, torch.float16)
    assert not model.decode(torch.full((1, model.vae.config["latent_channels"], 16, 16), torch.nan)).isfinite().any()
    assert not model.vae_overflowed


@pytest.mark.parametrize(("upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_xl_upcasts_its_vae_where_the_model_says_so(
    tiny_sdxl: Path, tmp_path: Path, upcast: bool, dtype: torch.dtype
) -> None:
    copy = Path(shutil.copytree(tiny_sdxl, tmp_path / "model"))
    config = json.loads((copy / "vae" / "config.json").read_text())
    tiny.write_json(copy / "vae" / "config.json", config | {"force_upcast": upcast})
    model = load(copy, torch.float16)
    assert (model.vae.dtype, model.unet.dtype) == (dtype, torch.float16)
    assert model.decode(model.encode(picture())).isfinite().all()
    assert not model.vae_overflowed
