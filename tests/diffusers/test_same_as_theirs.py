"""The drop-in beside diffusers' pipeline: the same parameters, and the same results where no defect is involved.

That is: one picture encoded to the mean of the posterior, equal negative prompts in the mask, unguided or guided alike
in both, a mask of ones (so that no background is pasted), DDIM, and clip_skip without guidance.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from oracle import Oracle, load_oracle
from photographs import photograph
from torch import Tensor

from diffedit_cli.diffusers import StableDiffusionDiffEditPipeline
from diffedit_cli.diffusers.arguments import encode

SOURCE, TARGET = "a cat on grass", "a dog on grass"
STEPS: dict[str, Any] = {"num_inference_steps": 6}
MASK: dict[str, Any] = {
    "source_prompt": SOURCE, "target_prompt": TARGET, "num_maps_per_mask": 4, "mask_thresholding_ratio": 2.0, **STEPS
}  # fmt: skip


@dataclass
class Pair:
    """One model loaded by both sides; theirs has the picture's latents preset, as they sample the posterior."""

    ours: StableDiffusionDiffEditPipeline
    theirs: Oracle


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module", params=["tiny_epsilon", pytest.param("tiny_v", marks=pytest.mark.thorough)])
def pair(request: pytest.FixtureRequest) -> Pair:
    folder: Path = request.getfixturevalue(request.param)
    ours, theirs = StableDiffusionDiffEditPipeline.from_pretrained(folder), load_oracle(folder)
    object.__setattr__(theirs.text_encoder, "text_model", theirs.text_encoder)  # where it was until transformers 5
    ours.set_progress_bar_config(disable=True)
    theirs.x_0 = encode(ours._model(), photograph(), 1).x_0
    return Pair(ours, theirs)


@pytest.fixture(scope="module")
def latents(pair: Pair) -> Tensor:
    return pair.ours.invert(SOURCE, photograph(), **STEPS).latents


@pytest.mark.parametrize("method", ["generate_mask", "invert", "__call__", "encode_prompt"])
def test_parameters_have_their_names_order_and_defaults(method: str) -> None:
    """But for the guidance of `invert`, 7.5 there, with which a picture is not reconstructed."""
    ours, theirs = (
        inspect.signature(getattr(side, method)).parameters
        for side in (StableDiffusionDiffEditPipeline, diffusers.StableDiffusionDiffEditPipeline)
    )
    assert list(ours) == list(theirs)
    differ = [name for name in theirs if theirs[name].default not in (inspect.Parameter.empty, ours[name].default)]
    assert differ == (["guidance_scale"] if method == "invert" else [])


def test_methods_are_theirs() -> None:
    """But for internal steps, and adapters and configuration beside what the documentation shows."""
    ours, theirs = (
        {name for name in dir(side) if not name.startswith("_")}
        for side in (StableDiffusionDiffEditPipeline, diffusers.StableDiffusionDiffEditPipeline)
    )
    shown = {
        "components", "device", "dtype", "encode_prompt", "from_pipe", "from_pretrained", "fuse_lora", "generate_mask",
        "invert", "load_lora_weights", "load_textual_inversion", "save_lora_weights", "save_pretrained", "set_adapters",
        "set_progress_bar_config", "to", "unload_lora_weights", "remove_all_hooks", "enable_model_cpu_offload",
        "enable_sequential_cpu_offload", "enable_attention_slicing", "disable_attention_slicing",
        "enable_xformers_memory_efficient_attention", "disable_xformers_memory_efficient_attention",
    }  # fmt: skip
    assert shown <= ours & theirs


def test_the_mask_is_theirs(pair: Pair) -> None:
    ours = pair.ours.generate_mask(photograph(), generator=seeded(), **MASK)
    theirs = pair.theirs.generate_mask(photograph(), generator=seeded(), **MASK)
    assert 0 < ours.sum() < ours.size
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_inverted_latents_are_theirs(pair: Pair, guidance: float) -> None:
    ours, theirs = (
        side.invert(SOURCE, photograph(), guidance_scale=guidance, **STEPS).latents for side in (pair.ours, pair.theirs)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("output_type", ["latent", "np", "pil"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_edit_of_the_whole_picture_is_theirs(
    pair: Pair, latents: Tensor, guidance: float, output_type: str
) -> None:
    arguments = {"negative_prompt": SOURCE, "guidance_scale": guidance, "output_type": output_type, **STEPS}
    ours, theirs = (side(TARGET, torch.ones(16, 16), latents, **arguments).images for side in (pair.ours, pair.theirs))
    assert type(ours) is type(theirs)
    ours, theirs = (np.asarray(side[0], dtype=np.float64) for side in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= (1 if output_type == "pil" else 1e-4)


def test_callbacks_get_the_same(pair: Pair, latents: Tensor) -> None:
    """Also while inverting: number, timestep and latents of every second step."""
    told: list[list[Any]] = [[], []]
    for side, calls in zip((pair.ours, pair.theirs), told, strict=True):

        def note(*call: Any, calls: list[Any] = calls) -> None:
            calls.append(call)

        told_how = {"callback": note, "callback_steps": 2, "guidance_scale": 1.0, **STEPS}
        side.invert(SOURCE, photograph(), **told_how)
        side(TARGET, torch.ones(16, 16), latents, **told_how)
    assert len(told[0]) == len(told[1]) == 4
    for ours, theirs in zip(*told, strict=True):
        assert ours[:2] == theirs[:2]
        torch.testing.assert_close(ours[2], theirs[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompt", [SOURCE, [SOURCE, TARGET]], ids=["one", "two"])
@pytest.mark.parametrize("guides", [True, False], ids=["guided", "unguided"])
def test_prompts_are_encoded_alike(pair: Pair, prompt: Any, guides: bool) -> None:
    negative = "a cat" if isinstance(prompt, str) else ["a cat", ""]
    ours, theirs = (side.encode_prompt(prompt, "cpu", 2, guides, negative) for side in (pair.ours, pair.theirs))
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
    if guides:
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-5)
    else:
        assert ours[1] is theirs[1] is None


def test_embeddings_in_place_of_words(pair: Pair, latents: Tensor) -> None:
    source, target = (pair.ours.encode_prompt(words, "cpu", 1, False)[0] for words in (SOURCE, TARGET))
    nothing = pair.ours.encode_prompt("", "cpu", 1, False)[0]
    mean = (source + target) / 2
    names = ("source", "target")
    said = {"source_prompt_embeds": source, "target_prompt_embeds": mean}
    said |= {f"{name}_negative_prompt_embeds": nothing for name in names}
    rest = {name: value for name, value in MASK.items() if name not in ("source_prompt", "target_prompt")}
    ours, theirs = (
        side.generate_mask(photograph(), generator=seeded(), **said, **rest) for side in vars(pair).values()
    )
    assert np.array_equal(ours, theirs)
    for call in ({"image": photograph()}, {"mask_image": torch.ones(16, 16), "image_latents": latents}):
        results = [
            (side if "image_latents" in call else side.invert)(
                prompt_embeds=mean, negative_prompt_embeds=source, guidance_scale=3.0, output_type="latent",
                return_dict=False, **call, **STEPS,
            )[0]
            for side in (pair.ours, pair.theirs)
        ]  # fmt: skip
        torch.testing.assert_close(*results, rtol=0, atol=1e-4)


def test_noise_in_the_steps(pair: Pair, latents: Tensor) -> None:
    arguments: dict[str, Any] = {"eta": 0.7, "output_type": "latent", "guidance_scale": 1.0, **STEPS}
    results = [
        side(TARGET, torch.ones(16, 16), latents, generator=seeded(), **arguments).images
        for side in vars(pair).values()
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)
    assert (
        results[0] - pair.ours(TARGET, torch.ones(16, 16), latents, **arguments | {"eta": 0.0}).images
    ).abs().max() > 1e-2


def test_layers_of_clip_that_are_skipped(pair: Pair, latents: Tensor) -> None:
    arguments = {"clip_skip": 1, "output_type": "latent", "guidance_scale": 1.0, **STEPS}
    results = [side(TARGET, torch.ones(16, 16), latents, **arguments).images for side in vars(pair).values()]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)


def test_the_regularised_inversion_of_a_network_that_predicts_noise(pair: Pair) -> None:
    """With v theirs reads the network's output at one level for the losses and at another for the step."""
    ours, theirs = (
        side.invert(
            SOURCE, photograph(), guidance_scale=1.0, num_reg_steps=1, num_auto_corr_rolls=2, lambda_kl=10.0,
            generator=seeded(), **STEPS,
        ).latents
        for side in vars(pair).values()
    )  # fmt: skip
    difference = float((ours - theirs).abs().max())
    assert difference < 1e-4 if pair.ours.scheduler.config.prediction_type == "epsilon" else difference > 1e-4


def test_decoded_latents(pair: Pair) -> None:
    """All of the pictures of all levels, as PIL images and as an array."""
    for output_type in ("pil", "np"):
        ours, theirs = (
            side.invert(
                SOURCE, photograph(), guidance_scale=1.0, decode_latents=True, output_type=output_type, **STEPS
            ).images
            for side in vars(pair).values()
        )
        assert len(ours) == len(theirs) == 4
        assert type(ours) is type(theirs)
        assert np.abs(np.stack([*ours]).astype(float) - np.stack([*theirs])).max() <= (
            1 if output_type == "pil" else 1e-4
        )


@pytest.mark.parametrize("form", ["array", "rows", "channels", "PIL", "list of PIL", "list of tensors"])
def test_forms_of_masks(pair: Pair, latents: Tensor, form: str) -> None:
    """With a mask that repaints in every form the same cells as theirs; inside it no defect shows after one step."""
    cells = np.zeros((16, 16), dtype=np.float32)
    cells[4:12, 4:12] = 1
    image = photograph().convert("L").resize((16, 16)).point(lambda _: 0)
    image.paste(255, (4, 4, 12, 12))
    mask = {
        "array": cells, "rows": cells[None], "channels": torch.from_numpy(cells)[None, None], "PIL": image,
        "list of PIL": [image], "list of tensors": [torch.from_numpy(cells)],
    }[form]  # fmt: skip
    steps = {"inpaint_strength": 0.2, **STEPS}  # one level
    start = latents[:, -1:]
    ours, theirs = (side(TARGET, mask, start, output_type="latent", **steps).images for side in vars(pair).values())
    assert (theirs != start[:, 0]).any(dim=1)[0].tolist() == (cells > 0).tolist()
    inside = torch.from_numpy(cells > 0).expand(4, -1, -1)
    torch.testing.assert_close(ours[0][inside], theirs[0][inside], rtol=0, atol=1e-4)
