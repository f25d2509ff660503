"""Defects of diffusers' pipeline that the drop-in does not have; docs/from-diffusers.md tells each difference."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from oracle import load_oracle
from photographs import photograph
from PIL import Image
from tiny import overflowing, write_safety
from torch import Tensor

from diffedit_cli.diffusers import StableDiffusionDiffEditPipeline
from diffedit_cli.diffusers.arguments import InvalidArgument, level_count
from diffedit_cli.errors import DiffEditError

SOURCE, TARGET = "a cat on grass", "a dog on grass"
STEPS: dict[str, Any] = {"num_inference_steps": 5}
MASK: dict[str, Any] = {"source_prompt": SOURCE, "target_prompt": TARGET, "num_maps_per_mask": 2, **STEPS}


def load(folder: Path, **options: Any) -> StableDiffusionDiffEditPipeline:
    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_epsilon: Path) -> StableDiffusionDiffEditPipeline:
    return load(tiny_epsilon)


@pytest.fixture(scope="module")
def latents(pipeline: StableDiffusionDiffEditPipeline) -> Tensor:
    return pipeline.invert(SOURCE, photograph(), **STEPS).latents


@pytest.fixture
def half() -> np.ndarray[Any, Any]:
    """A mask of the right half."""
    cells = np.zeros((16, 16), dtype=np.int64)
    cells[:, 8:] = 1
    return cells


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_unmasked_pixels_are_the_pictures_own(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, half: np.ndarray[Any, Any]
) -> None:
    edited = pipeline(TARGET, half, latents, **STEPS).images[0]
    changed = (np.asarray(edited) != np.asarray(photograph())).any(axis=2)
    assert not changed[:, :32].any()
    assert changed[:, 34:].mean() > 0.9
    assert half.sum() == 128  # theirs writes into the array
    (array,), (tensor,) = (pipeline(TARGET, half, latents, output_type=form, **STEPS).images for form in ("np", "pt"))
    assert np.array_equal(array[:, :32], np.asarray(photograph(), dtype=np.float32)[:, :32] / 255)
    assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())


def test_latents_outside_of_the_mask_are_the_clean_ones(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, half: np.ndarray[Any, Any]
) -> None:
    clean = vars(latents)["x_0"]
    y_0 = pipeline(TARGET, half, latents, output_type="latent", **STEPS).images
    assert torch.equal(y_0[..., :8], clean[..., :8])
    empty = pipeline(TARGET, 0 * half, latents, output_type="latent", **STEPS).images
    assert torch.equal(empty, clean)


@pytest.mark.parametrize("size", [(70, 50), (64, 90)])
def test_a_picture_of_any_size_keeps_it(pipeline: StableDiffusionDiffEditPipeline, size: tuple[int, int]) -> None:
    image = photograph("coffee", size)
    mask = pipeline.generate_mask(image, **MASK)
    latents = pipeline.invert(SOURCE, image, **STEPS).latents
    edited = pipeline(TARGET, mask, latents, **STEPS).images[0]
    cells = Image.fromarray(mask[0].astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    changed = (np.asarray(edited) != np.asarray(image)).any(axis=2)
    assert edited.size == size
    assert changed.any()
    assert not changed[np.asarray(cells) == 0].any()


def test_pictures_with_alpha_and_without_colours(pipeline: StableDiffusionDiffEditPipeline) -> None:
    """Theirs takes an RGBA picture for latents."""
    told = [pipeline.invert(SOURCE, photograph().convert(mode), **STEPS).latents for mode in ("RGBA", "RGB", "L")]
    assert torch.equal(told[0], told[1])
    assert told[2].shape == told[0].shape


def test_latents_keep_their_picture_when_saved(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, half: np.ndarray[Any, Any]
) -> None:
    file = io.BytesIO()
    torch.save(latents, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    images = [pipeline(TARGET, half, one, **STEPS).images[0].tobytes() for one in (latents, stored, [latents])]
    assert images[0] == images[1] == images[2]


def test_latents_without_their_picture_get_a_background_of_the_vae(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, half: np.ndarray[Any, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """As those of diffusers' pipeline; the clean latents are then those that the model sees in the cleanest ones."""
    bare = latents.clone()
    with caplog.at_level(logging.WARNING):
        y_0 = pipeline(TARGET, half, bare, output_type="latent", **STEPS).images
    assert "lack the picture" in caplog.text
    clean = vars(latents)["x_0"]
    assert (y_0 - clean)[..., :8].abs().max() < (latents[:, -1] - clean)[..., :8].abs().max()
    with_picture, without = (
        np.asarray(pipeline(TARGET, half, one, **STEPS).images[0], dtype=int) for one in (latents, bare)
    )
    assert (with_picture != without)[:, :32].any()


def test_prompts_of_the_mask_act_as_prompts(pipeline: StableDiffusionDiffEditPipeline) -> None:
    """With other negatives, and without guidance, where theirs fails."""
    masks = [
        pipeline.generate_mask(photograph(), generator=seeded(), **MASK, **more)
        for more in (
            {"guidance_scale": 1.0}, {"guidance_scale": 7.5}, {"source_negative_prompt": "grass"},
            {"source_negative_prompt": "grass", "target_negative_prompt": "grass"},
        )
    ]  # fmt: skip
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[3])
    assert not np.array_equal(masks[0], masks[2])


def test_a_mask_costs_half_the_evaluations_and_one_encoding(
    pipeline: StableDiffusionDiffEditPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    encoded: list[int] = []
    encode = pipeline.vae.encode
    monkeypatch.setattr(pipeline.vae, "encode", lambda x: (encoded.append(len(x)), encode(x))[1])
    forward = pipeline.unet.forward
    monkeypatch.setattr(pipeline.unet, "forward", lambda x, *a, **k: (rows.append(len(x)), forward(x, *a, **k))[1])
    pipeline.generate_mask(photograph(), **MASK)
    assert sum(rows) == 4  # two maps, two prompts
    assert encoded == [1]


def test_a_result_is_the_same_alone_and_beside_others(
    pipeline: StableDiffusionDiffEditPipeline,
) -> None:
    """With a generator for each picture, as their mean over the batch also changes a mask of theirs."""
    images = [photograph(), photograph("coffee")]
    prompts, arguments = [SOURCE, "a cat"], {**MASK, "target_prompt": [TARGET, "a dog"]}
    both = pipeline.generate_mask(images, generator=[seeded(1), seeded(2)], **{**arguments, "source_prompt": prompts})
    latents = pipeline.invert(prompts, images, **STEPS).latents
    edits = {"eta": 0.5, "output_type": "pt", **STEPS}
    edited = pipeline([TARGET, "a dog"], both, latents, generator=[seeded(1), seeded(2)], **edits).images
    alone = pipeline.generate_mask(images[1], "a dog", source_prompt="a cat", generator=seeded(2), **{
        name: value for name, value in MASK.items() if not name.endswith("prompt")
    })  # fmt: skip
    own = pipeline.invert("a cat", images[1], **STEPS).latents
    assert np.array_equal(both[1:], alone)
    assert torch.equal(latents[1:], own)
    assert torch.equal(edited[1:], pipeline("a dog", alone, own, generator=seeded(2), **edits).images)


def test_a_list_of_generators_is_for_pictures_or_for_their_maps(pipeline: StableDiffusionDiffEditPipeline) -> None:
    """Theirs needs one for each map; each picture takes its first."""
    masks = [
        pipeline.generate_mask(photograph(), generator=generator, **MASK)
        for generator in (seeded(1), [seeded(1)], [seeded(1), seeded(2)])
    ]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_a_strength_loses_no_step_to_rounding() -> None:
    assert (level_count("inpaint_strength", 0.58, 50), int(50 * 0.58)) == (29, 28)


def test_several_results_of_several_pictures_have_the_masks_of_their_own(
    pipeline: StableDiffusionDiffEditPipeline, half: np.ndarray[Any, Any]
) -> None:
    """Theirs repeats masks and latents in different orders."""
    latents = pipeline.invert([SOURCE, SOURCE], [photograph(), photograph("coffee")], **STEPS).latents
    masks = np.stack([half, 1 - half])
    images = pipeline([TARGET, TARGET], masks, latents, num_images_per_prompt=2, output_type="np", **STEPS).images
    assert len(images) == 4
    originals = [np.asarray(photograph(name), dtype=np.float32) / 255 for name in ("chelsea", "coffee")]
    for number, image in enumerate(images):
        kept = slice(0, 32) if number < 2 else slice(32, 64)
        assert np.array_equal(image[:, kept], originals[number // 2][:, kept])


def test_results_differ_by_fresh_noise_only(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, half: np.ndarray[Any, Any]
) -> None:
    for eta, equal in ((0.0, True), (0.8, False)):
        one, other = pipeline(
            TARGET, half, latents, eta=eta, num_images_per_prompt=2, generator=seeded(), output_type="pt", **STEPS
        ).images
        assert torch.equal(one, other) is equal


def test_masks_as_pictures(pipeline: StableDiffusionDiffEditPipeline, tiny_epsilon: Path) -> None:
    """Theirs cannot make them."""
    theirs = load_oracle(tiny_epsilon)
    theirs.x_0 = torch.zeros(1, 4, 16, 16)
    with pytest.raises(TypeError):
        theirs.generate_mask(photograph(), output_type="pil", **MASK)
    array, tensor, (image,) = (
        pipeline.generate_mask(photograph(), generator=seeded(), output_type=form, **MASK)
        for form in ("np", "pt", "pil")
    )
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), 255 * array[0])
    assert np.array_equal(tensor.numpy(), array)


def test_an_inversion_reconstructs_the_picture_without_being_asked(
    pipeline: StableDiffusionDiffEditPipeline,
) -> None:
    """Guidance, 7.5 there, is off; each is painted again in whole under its own prompt."""
    far = []
    for guidance in ({}, {"guidance_scale": 7.5}):
        latents = pipeline.invert(SOURCE, photograph(), num_inference_steps=20, **guidance).latents
        y_0 = pipeline(
            SOURCE, np.ones((16, 16)), latents, num_inference_steps=20, guidance_scale=1.0, output_type="latent"
        ).images
        far.append(float((y_0 - vars(latents)["x_0"]).abs().mean()))
    assert far[0] < far[1] / 2


def test_clip_skip_is_for_both_prompts(pipeline: StableDiffusionDiffEditPipeline) -> None:
    like, unlike = pipeline.encode_prompt("a cat", "cpu", 1, True, "a cat", clip_skip=1)
    assert torch.equal(like, unlike)
    assert not torch.equal(like, pipeline.encode_prompt("a cat", "cpu", 1, False)[0])


def test_overflow_is_repeated_in_float32(tiny_epsilon: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = overflowing(tiny_epsilon, tmp_path / "hot", by=1e5)
    fast, exact = load(folder, torch_dtype=torch.float16), load(folder)
    with caplog.at_level(logging.WARNING):
        found = fast.invert(SOURCE, photograph(), **STEPS).latents
    assert "repeated in float32" in caplog.text
    assert found.isfinite().all()
    assert fast.dtype == torch.float16
    torch.testing.assert_close(found, exact.invert(SOURCE, photograph(), **STEPS).latents, rtol=0.1, atol=0.1)


def test_flagged_pictures_are_black(
    tiny_epsilon: Path, tmp_path: Path, latents: Tensor, half: np.ndarray[Any, Any]
) -> None:
    for threshold, flagged in ((-1.0, True), (1.0, False)):
        folder = write_safety(Path(shutil.copytree(tiny_epsilon, tmp_path / str(threshold))), threshold)
        images, told = load(folder)(TARGET, half, latents, output_type="np", return_dict=False, **STEPS)
        assert told == [flagged]
        assert (images.max() == 0) is np.bool_(flagged)
        without = load(folder, safety_checker=None)(TARGET, half, latents, **STEPS)
        assert without.nsfw_content_detected is None


def test_schedulers_choose_the_solver(tiny_epsilon: Path, half: np.ndarray[Any, Any], latents: Tensor) -> None:
    pipeline = load(tiny_epsilon)
    plain = pipeline(TARGET, half, latents, output_type="latent", **STEPS).images
    config = pipeline.scheduler.config
    pipeline.scheduler = DDIMScheduler.from_config(config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(config)
    assert torch.equal(pipeline(TARGET, half, latents, output_type="latent", **STEPS).images, plain)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="leading")
    pipeline.inverse_scheduler = None
    torch.testing.assert_close(
        pipeline(TARGET, half, latents, output_type="latent", **STEPS).images, plain, rtol=0, atol=1e-4
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
    pipeline.inverse_scheduler = None
    inverted = pipeline.invert(SOURCE, photograph(), **STEPS).latents
    edited = pipeline(TARGET, half, inverted, output_type="latent", **STEPS).images
    assert (edited - plain)[..., 8:].abs().max() > 1e-3
    assert torch.equal(edited[..., :8], vars(latents)["x_0"][..., :8])
    pipeline.scheduler = UniPCMultistepScheduler.from_config(config)
    with pytest.raises(InvalidArgument, match="UniPCMultistepScheduler cannot be run backwards"):
        pipeline.invert(SOURCE, photograph(), **STEPS)
    pipeline.scheduler = DDIMScheduler.from_config(config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(config, beta_end=0.02)
    with pytest.raises(InvalidArgument, match="other values of beta_end"):
        pipeline.invert(SOURCE, photograph(), **STEPS)


def test_numbers_of_numpy_are_numbers(pipeline: StableDiffusionDiffEditPipeline) -> None:
    numbers = {"num_inference_steps": np.int64(5), "mask_thresholding_ratio": np.float32(3)}
    masks = [pipeline.generate_mask(photograph(), generator=seeded(), **{**MASK, **more}) for more in ({}, numbers)]
    assert np.array_equal(*masks)


def test_methods_know_their_forms_and_numbers(pipeline: StableDiffusionDiffEditPipeline) -> None:
    with pytest.raises(InvalidArgument, match="output_type cannot be latent; use pil, np, pt"):
        pipeline.invert(SOURCE, photograph(), decode_latents=True, output_type="latent", **STEPS)
    with pytest.raises(InvalidArgument, match="guidance_scale cannot be None; give a number"):
        pipeline.invert(SOURCE, photograph(), guidance_scale=None, **STEPS)
    with pytest.raises(InvalidArgument, match="num_images_per_prompt cannot be 0; give a whole number above 0"):
        pipeline.encode_prompt(SOURCE, num_images_per_prompt=0)


CELLS = np.ones((16, 16))
WRONG = {
    "mask": [
        {"source_prompt": None}, {"target_prompt": 3}, {"target_prompt_embeds": torch.zeros(1, 77, 32)},
        {"image": None}, {"image": "cat.png"}, {"num_maps_per_mask": 0}, {"mask_thresholding_ratio": -1},
        {"mask_encode_strength": 1.5}, {"mask_encode_strength": 0.0}, {"num_inference_steps": 0},
        {"target_prompt": ["a", "b", "c"]}, {"target_negative_prompt": ["a", "b"]}, {"output_type": "jpeg"},
        {"generator": [torch.Generator()] * 3}, {"cross_attention_kwargs": {"gligen": 1}},
        {"source_prompt": None, "source_prompt_embeds": torch.zeros(1, 9, 5)}, {"generator": 3}, {"generator": [3]},
        {"guidance_scale": None}, {"output_type": "latent"}, {"mask_encode_strength": "half"},
    ],
    "edit": [
        {"mask_image": None}, {"image_latents": None}, {"mask_image": CELLS[:8]}, {"mask_image": np.stack([CELLS] * 3)},
        {"mask_image": 2 * CELLS}, {"mask_image": np.stack([CELLS] * 3)[None]}, {"image_latents": "x"},
        {"inpaint_strength": 0.4}, {"callback_steps": 0}, {"prompt": None}, {"num_images_per_prompt": 0},
        {"image_latents": [torch.zeros(1, 4, 4, 16, 16), torch.zeros(1, 4, 4, 8, 8)]}, {"eta": 1.5},
        {"guidance_scale": None}, {"eta": None}, {"num_inference_steps": 2.5},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [(stage, one) for stage, several in WRONG.items() for one in several],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_arguments_are_told_in_a_sentence(
    pipeline: StableDiffusionDiffEditPipeline, latents: Tensor, stage: str, wrong: dict[str, Any]
) -> None:
    """As a ValueError, as in diffusers, and as an error of diffedit."""
    call = pipeline.generate_mask if stage == "mask" else pipeline
    right = {"image": photograph(), **MASK} if stage == "mask" else {
        "prompt": TARGET, "mask_image": np.ones((16, 16)), "image_latents": latents, **STEPS
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as told:
        call(**{**right, **wrong})
    assert isinstance(told.value, DiffEditError)
