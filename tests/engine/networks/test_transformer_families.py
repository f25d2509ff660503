"""The families with transformers beside diffusers' own pipelines: prompts, noise levels, guidance, latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers as tiny
import torch
from diffusers import (
    ChromaPipeline,
    DPMSolverMultistepScheduler,
    Flux2KleinPipeline,
    FluxPipeline,
    PixArtSigmaPipeline,
    QwenImagePipeline,
    ZImagePipeline,
)
from torch import Tensor

from diffedit_cli.engine.diffedit import Trajectory, edit, invert
from diffedit_cli.engine.networks import families, flow
from diffedit_cli.engine.solvers import SOLVERS

SOURCE, TARGET = "a cat on grass", "a dog on the green grass"
GUIDANCE = 4.0


@dataclass(frozen=True)
class Kind:
    """A kind of model: how a tiny one is written, its pipeline, and what the pipeline is told."""

    write: Callable[[Path], Path]
    pipeline: Any
    guidance: Callable[[float], dict[str, float]]
    packs: Callable[[Tensor], Tensor] = lambda latents: latents
    negative: bool = True


def flux2_tokens(latents: Tensor) -> Tensor:
    """Latents as FLUX.2's pipeline takes them: patches of 2 x 2 cells as channels."""
    height, width = latents.shape[-2:]
    return flow.pack(latents).reshape(len(latents), height // 2, width // 2, -1).permute(0, 3, 1, 2)


KINDS = {
    "klein": Kind(tiny.write_flux2, Flux2KleinPipeline, lambda g: {"guidance_scale": g}, flux2_tokens, False),
    "klein-distilled": Kind(
        lambda folder: tiny.write_flux2(folder, is_distilled=True),
        Flux2KleinPipeline, lambda g: {"guidance_scale": g}, flux2_tokens, False,
    ),
    "z-image": Kind(tiny.write_z_image, ZImagePipeline, lambda g: {"guidance_scale": g - 1}),
    "flux-dev": Kind(tiny.write_flux, FluxPipeline, lambda g: {"guidance_scale": g}, flow.pack, False),
    "flux-schnell": Kind(
        lambda folder: tiny.write_flux(folder, guidance_embeds=False),
        FluxPipeline, lambda g: {"guidance_scale": g}, flow.pack, False,
    ),
    "chroma": Kind(tiny.write_chroma, ChromaPipeline, lambda g: {"guidance_scale": g}, flow.pack),
    "qwen-image": Kind(tiny.write_qwen_image, QwenImagePipeline, lambda g: {"true_cfg_scale": g}, flow.pack),
    "pixart": Kind(
        tiny.write_pixart, PixArtSigmaPipeline, lambda g: {"guidance_scale": g, "use_resolution_binning": False}
    ),
}  # fmt: skip


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return families.load(folder, "cpu", dtype, name="tiny")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kind.write(tmp_path_factory.mktemp("family") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder)


@pytest.fixture(scope="module")
def pipe(kind: Kind, folder: Path) -> Any:
    pipe = kind.pipeline.from_pretrained(folder, local_files_only=True)
    if kind.pipeline is PixArtSigmaPipeline:
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=1)  # DDIM
    if kind.pipeline is ChromaPipeline:  # its float mask masks nothing (huggingface/diffusers#12116)
        masked = pipe._prepare_attention_mask
        pipe._prepare_attention_mask = lambda **given: masked(**given).bool()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(model: Any, height: int = 16, width: int = 24) -> Tensor:
    return torch.randn((1, model.channels, height, width), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(16, 24), (16, 16)])
def test_a_picture_drawn_from_noise_is_that_of_diffusers(
    kind: Kind, model: Any, pipe: Any, size: tuple[int, int]
) -> None:
    """Everything at once: prompts, levels, times, guidance and the steps, down to the clean level."""
    x_T = noise(model, *size)
    levels = model.levels(10, size[0] * size[1])
    trajectory = Trajectory(x_T.expand(len(levels), -1, -1, -1), levels)
    with torch.inference_mode():
        query = model.text(model.embed(TARGET), model.embed(SOURCE if kind.negative else ""), GUIDANCE)
        *_, y_0 = edit(model, trajectory, torch.ones(size), query)
    negative = {"negative_prompt": SOURCE} if kind.negative else {}
    drawn = pipe(
        prompt=TARGET, **negative, **kind.guidance(GUIDANCE), latents=kind.packs(x_T.clone()), num_inference_steps=10,
        height=size[0] * model.factor, width=size[1] * model.factor, output_type="latent",
    ).images  # fmt: skip
    ours = model._unscaled(y_0) if kind.pipeline is Flux2KleinPipeline else kind.packs(y_0)
    torch.testing.assert_close(ours, drawn, rtol=1e-5, atol=1e-4)  # PixArt's reach 400
    assert (y_0 - x_T).abs().max() > 0.1


def test_prompts_of_different_lengths_share_a_call(model: Any) -> None:
    """The prediction for each is that of its own call."""
    x_t, at = noise(model), model.levels(10, 16 * 24)[6]
    with torch.inference_mode():
        texts = [model.embed(prompt) for prompt in (SOURCE, TARGET, "", f"{SOURCE} " * 12)]
        together = texts[0]
        for text in texts[1:]:
            together = together.followed_by(text)
        found = model.predict(x_t.expand(len(texts), -1, -1, -1), at, together)
        for row, text in enumerate(texts):
            alone = model.predict(x_t, at, text)
            torch.testing.assert_close(found.eps[row : row + 1], alone.eps, rtol=0, atol=1e-4)
    assert (found.eps[0] - found.eps[1]).abs().max() > 1e-3


def test_inversion_leads_back(model: Any) -> None:
    x_0 = 0.3 * noise(model)
    levels = model.levels(50, 16 * 24)[:41]
    with torch.inference_mode():
        caption = model.text(model.embed(SOURCE), model.embed(""), 1.0)
        trajectory = Trajectory(torch.cat([x_0, *invert(model, x_0, levels, caption, SOLVERS["dpm++"]())]), levels)
        *_, y_0 = edit(model, trajectory, torch.ones(16, 24), caption, SOLVERS["dpm++"]())
        *_, kept = edit(model, trajectory, torch.zeros(16, 24), caption)
    assert (y_0 - x_0).norm() / x_0.norm() < 0.05
    assert (trajectory.latents[-1] - x_0).norm() / x_0.norm() > 0.3
    assert torch.equal(kept, x_0)


def test_latents_are_those_of_the_pipelines_vae(kind: Kind, model: Any, pipe: Any) -> None:
    picture = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        x_0 = model.encode(picture)
        if kind.pipeline is QwenImagePipeline:
            mean, std = (torch.tensor(pipe.vae.config[f"latents_{name}"])[:, None, None] for name in ("mean", "std"))
            z = pipe.vae.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0]
            expected, shown = (z - mean) / std, pipe.vae.decode(z[:, :, None]).sample[:, :, 0]
        elif kind.pipeline is Flux2KleinPipeline:
            z = pipe.vae.encode(picture).latent_dist.mode()
            expected, shown = pipe._encode_vae_image(picture, None), pipe.vae.decode(z).sample
            torch.testing.assert_close(kind.packs(x_0), expected, rtol=0, atol=1e-4)
            expected = model._scaled(z)
        else:
            config = pipe.vae.config
            z = pipe.vae.encode(picture).latent_dist.mode()
            expected, shown = (z - (config.shift_factor or 0)) * config.scaling_factor, pipe.vae.decode(z).sample
        torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.decode(x_0), shown.clamp(-1, 1), rtol=0, atol=1e-4)
    assert x_0.shape == (1, *model.latent_shape((96, 64)))


@pytest.mark.parametrize("write", [tiny.write_flux2, tiny.write_z_image, tiny.write_qwen_image])
def test_what_a_language_model_does_not_read_is_told(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The end of the template may be cut without a word: the prompt is what counts."""
    model = load(write(tmp_path / "model"))
    qwen = model.qwen
    room = qwen.limit - len(qwen.tokenizer(qwen.template("").rpartition("<|im_end|>")[0]).input_ids)
    first, each = (len(qwen.tokenizer(text).input_ids) for text in ("cat", " cat"))
    fitting = "cat" + " cat" * ((room - first) // each)
    assert len(qwen.tokenizer(qwen.template(fitting)).input_ids) > qwen.limit
    assert model.prompt_warning("cat cat") is None
    assert model.prompt_warning(fitting) is None
    warning = model.prompt_warning(f"{fitting} dog grass dog")
    assert f"longer than the {room} tokens" in warning
    assert "dog" in warning
    assert "cat" not in warning
    assert "im_end" not in warning
