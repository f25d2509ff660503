"""Loading, saving, sharing and moving the parts of a drop-in, and what it has of every family of models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from family_loras import KINDS, Folders
from ldm import write_checkpoint
from photographs import photograph
from PIL import Image
from tiny import write_json, write_sdxl

from diffedit_cli.diffusers import StableDiffusionDiffEditPipeline
from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.engine.networks import offload
from diffedit_cli.errors import DeviceError, ModelError, OutputError

STEPS: dict[str, Any] = {"num_inference_steps": 4}


def load(folder: Path | str, **options: Any) -> StableDiffusionDiffEditPipeline:
    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edited(pipeline: StableDiffusionDiffEditPipeline) -> Any:
    """The latents of an edit of the whole picture."""
    latents = pipeline.invert("a cat", photograph(), **STEPS).latents
    cells = np.ones(latents.shape[-2:])
    return pipeline("a dog", cells, latents, output_type="latent", **STEPS).images


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("families"))


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sdxl", *KINDS])
def test_every_family(family: str, folders: Folders, tiny_sdxl: Path) -> None:
    """The lines of a notebook for Stable Diffusion, with words and with embeddings, of a picture of its own size."""
    pipeline = load(tiny_sdxl if family == "sdxl" else folders(family))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    image, told = photograph("coffee", (96, 72)), []
    drawn = torch.Generator().manual_seed(3)
    mask = pipeline.generate_mask(
        image,
        "a dog",
        source_prompt="a cat",
        num_maps_per_mask=2,
        generator=drawn,
        mask_thresholding_ratio=2.0,
        **STEPS,
    )
    latents = pipeline.invert("a cat", image, callback=lambda *call: told.append(call), **STEPS).latents
    by_words = pipeline("a dog", mask, latents, guidance_scale=3.0, negative_prompt="a cat", **STEPS).images[0]
    like, unlike = pipeline.encode_prompt("a dog", negative_prompt="a cat")
    assert isinstance(like, torch.Tensor) is (family == "flux2")  # all others read more than tokens
    by_embeddings = pipeline(
        mask_image=mask, image_latents=latents, guidance_scale=3.0, prompt_embeds=like, negative_prompt_embeds=unlike,
        **STEPS,
    ).images[0]  # fmt: skip
    pixels, original = (np.asarray(one) for one in (by_words, image))
    cells = np.asarray(Image.fromarray(mask[0].astype(np.uint8)).resize(image.size, 0)) > 0
    assert 0 < mask.mean() < 1
    assert (latents.shape[1], len(told)) == (3, 3)
    assert by_words.size == image.size
    assert np.array_equal(pixels, np.asarray(by_embeddings))
    assert np.array_equal(pixels[~cells], original[~cells])
    assert (pixels != original)[cells].any()


def test_embeddings_without_what_the_family_reads(tiny_sdxl: Path) -> None:
    pipeline = load(tiny_sdxl)
    tokens = pipeline.encode_prompt("a cat")[0].tokens
    with pytest.raises(InvalidArgument, match="lacks the pooled embedding"):
        pipeline.invert(prompt_embeds=tokens, image=photograph())


def test_a_saved_folder_is_a_model_of_both(tiny_epsilon: Path, tmp_path: Path) -> None:
    pipeline = load(tiny_epsilon)
    pipeline.save_pretrained(tmp_path / "saved", variant="fp16")
    assert (tmp_path / "saved" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    again = load(tmp_path / "saved", variant="fp16")
    assert torch.equal(edited(again), edited(pipeline))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "saved", variant="fp16")
    assert torch.equal(theirs.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    with pytest.raises(OutputError, match="exists; name a new folder"):
        pipeline.save_pretrained(tmp_path / "saved")


def test_a_saved_folder_of_another_family(tmp_path: Path) -> None:
    folder = write_sdxl(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "force_zeros_for_empty_prompt": False})
    StableDiffusionDiffEditPipeline.from_pipe(load(folder)).save_pretrained(tmp_path / "saved")
    assert torch.equal(edited(load(tmp_path / "saved")), edited(load(folder)))


def test_a_checkpoint(tiny_epsilon: Path, tmp_path: Path) -> None:
    file = write_checkpoint(tiny_epsilon, tmp_path / "file.safetensors", "sd15")
    pipeline = StableDiffusionDiffEditPipeline.from_single_file(file, config=tiny_epsilon)
    pipeline.set_progress_bar_config(disable=True)
    assert torch.equal(edited(pipeline), edited(load(tiny_epsilon)))


def test_parts_are_shared_and_replaced(tiny_epsilon: Path, tiny_v: Path) -> None:
    """By the constructor, from another pipeline, by arguments of the loader, and by assignment."""
    pipeline, other = load(tiny_epsilon), load(tiny_v)
    expected = edited(pipeline)
    built = StableDiffusionDiffEditPipeline(**pipeline.components)
    assert built.unet is pipeline.unet
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tiny_epsilon)
    for shared in (
        built,
        StableDiffusionDiffEditPipeline.from_pipe(theirs),
        StableDiffusionDiffEditPipeline.from_pipe(built),
    ):
        shared.set_progress_bar_config(disable=True)
        torch.testing.assert_close(edited(shared), expected, rtol=0, atol=1e-4)
    replaced = load(tiny_epsilon, vae=other.vae)
    assert replaced.vae is other.vae
    pipeline.vae = other.vae
    assert torch.equal(edited(replaced), edited(pipeline))
    assert not torch.equal(edited(replaced), expected)
    pipeline.text_encoder = None
    with pytest.raises(ModelError, match="no text_encoder; assign one"):
        edited(pipeline)


def test_another_pipeline_of_any_family(tiny_sdxl: Path) -> None:
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny_sdxl)
    pipeline = StableDiffusionDiffEditPipeline.from_pipe(theirs)
    pipeline.set_progress_bar_config(disable=True)
    torch.testing.assert_close(edited(pipeline), edited(load(tiny_sdxl)), rtol=0, atol=1e-4)


def test_number_formats_and_devices(tiny_epsilon: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = load(tiny_epsilon, torch_dtype=torch.bfloat16)
    assert pipeline.dtype == torch.bfloat16
    assert pipeline.to(torch.float32) is pipeline
    assert pipeline.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.to("cpu", dtype=torch.float16).device == torch.device("cpu")
    assert pipeline.dtype == torch.float16
    pipeline.enable_model_cpu_offload()
    assert ("Offloading saves no memory on the CPU" in caplog.text) is not torch.cuda.is_available()
    with pytest.raises(DeviceError):
        pipeline.to("cuda:99")
    with pytest.raises(InvalidArgument, match="no argument silence"):
        pipeline.to("cpu", silence=True)


@pytest.mark.parametrize("by", [offload.by_model, offload.by_layer])
def test_offloading(tiny_epsilon: Path, by: Any) -> None:
    """Networks wait until they are used; the hooks are real, and the device is the processor here."""
    pipeline = load(tiny_epsilon)
    expected = edited(pipeline)
    pipeline._offload(by, "cpu")
    assert hasattr(pipeline.unet, "_hf_hook") or hasattr(pipeline.unet.conv_in, "_hf_hook")
    assert torch.equal(edited(pipeline), expected)
    pipeline.remove_all_hooks()
    assert torch.equal(edited(pipeline), expected)
    assert not hasattr(pipeline.unet, "_hf_hook")


@pytest.mark.parametrize("by", [offload.by_model, offload.by_layer])
def test_offloaded_parts_are_shared(tiny_epsilon: Path, by: Any) -> None:
    """Among these pipelines; of one of diffusers, only its own hooks know how they are offloaded."""
    pipeline = load(tiny_epsilon)
    expected = pipeline.encode_prompt("a cat")[0]
    pipeline._offload(by, "cpu")
    shared = StableDiffusionDiffEditPipeline.from_pipe(pipeline)
    assert torch.equal(shared.encode_prompt("a cat")[0], expected)
    with pytest.raises(InvalidArgument, match="unet of an offloaded pipeline cannot be replaced"):
        StableDiffusionDiffEditPipeline.from_pipe(pipeline, unet=pipeline.unet)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tiny_epsilon)
    by([theirs.unet], "cpu")
    with pytest.raises(InvalidArgument, match="StableDiffusionPipeline are offloaded; call its remove_all_hooks"):
        StableDiffusionDiffEditPipeline.from_pipe(theirs)
    theirs.remove_all_hooks()
    assert StableDiffusionDiffEditPipeline.from_pipe(theirs).unet is theirs.unet


def test_a_pipeline_needs_a_scheduler(tiny_epsilon: Path) -> None:
    pipeline = load(tiny_epsilon)
    with pytest.raises(InvalidArgument, match="scheduler cannot be a NoneType"):
        StableDiffusionDiffEditPipeline(**{**pipeline.components, "scheduler": None})
    pipeline.scheduler = None
    with pytest.raises(InvalidArgument, match="scheduler cannot be a NoneType"):
        pipeline.encode_prompt("a cat")


def test_switches(tiny_epsilon: Path) -> None:
    """Those of the VAE take effect; torch's attention needs none."""
    pipeline = load(tiny_epsilon)
    for name, flag in (("slicing", "use_slicing"), ("tiling", "use_tiling")):
        getattr(pipeline, f"enable_vae_{name}")()
        assert getattr(pipeline.vae, flag)
        getattr(pipeline, f"disable_vae_{name}")()
        assert not getattr(pipeline.vae, flag)
    for switch in ("enable", "disable"):
        getattr(pipeline, f"{switch}_attention_slicing")()
        getattr(pipeline, f"{switch}_xformers_memory_efficient_attention")()
    assert pipeline.vae_scale_factor == 4


def test_what_cannot_be_loaded(tiny_epsilon: Path) -> None:
    for name, options, words in (
        ("nobody/nothing", {}, "There is no model nobody/nothing on this machine"),
        (tiny_epsilon, {"use_safetensors": False}, "pickled weights"),
        (tiny_epsilon, {"transformer": None}, "no argument transformer"),
        (tiny_epsilon, {"variant": "fp16"}, "is unreadable"),
    ):
        with pytest.raises((ModelError, InvalidArgument), match=words):
            load(name, **options)


def test_the_module_is_light_until_it_is_used() -> None:
    code = "import sys, diffedit_cli.diffusers; print(sys.modules.keys() & {'torch', 'diffusers', 'numpy'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
