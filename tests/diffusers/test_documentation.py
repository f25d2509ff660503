"""What diffusers' documentation of its pipeline shows, with tiny models under the hub's names, on the processor.

The examples in its docstrings run as they are installed; only the import of the pipeline is changed. They forget to
import the schedulers. The calls of its guide (docs/source/en/using-diffusers/diffedit.md) follow in the same order.
"""

from __future__ import annotations

import doctest
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import requests
import torch
from documented_models import fill_hub_cache, without_gpu
from photographs import photograph
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor, T5ForConditionalGeneration

from diffedit_cli.diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

pytestmark = pytest.mark.thorough
URL = "https://github.com/Xiang-cd/DiffEdit-stable-diffusion/raw/main/assets/origin.png"
IMPORT = "from {} import StableDiffusionDiffEditPipeline\n"
SD21 = "stabilityai/stable-diffusion-2-1"
SOURCE, TARGET = "a bowl of fruits", "a basket of pears"


@pytest.fixture(autouse=True, scope="module")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fill_hub_cache(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(autouse=True)
def _notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No GPU, no network (any picture is a photograph), and files beside the notebook."""
    stored = io.BytesIO()
    photograph("coffee", (300, 200)).save(stored, "PNG")
    monkeypatch.setattr(requests, "get", lambda _: SimpleNamespace(content=stored.getvalue()))
    monkeypatch.setattr(diffusers.utils, "load_image", lambda _: photograph("coffee", (300, 200)))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with without_gpu(monkeypatch):
        yield


@pytest.fixture
def raw_image() -> Image.Image:
    from diffusers.utils import load_image

    return load_image(URL).convert("RGB").resize((768, 768))


def load(**options: Any) -> StableDiffusionDiffEditPipeline:
    """The pipeline as the guide sets it up."""
    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
        SD21, torch_dtype=torch.float16, use_safetensors=True, **options
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    pipeline.enable_model_cpu_offload()
    pipeline.enable_vae_slicing()
    return pipeline


def check(edited: Image.Image, original: Image.Image, mask: Any) -> None:
    """The masked cells have changed, and no pixel outside of them."""
    changed = (np.asarray(edited) != np.asarray(original)).any(axis=2)
    cells = np.kron(mask[0], np.ones((32, 32), dtype=int))
    assert edited.size == original.size == (768, 768)
    assert 0 < cells.mean() < 1
    assert not changed[cells == 0].any()
    assert changed[cells == 1].mean() > 0.9


def example(method: str) -> str:
    """The code of the example in a method's docstring."""
    documented = getattr(diffusers.StableDiffusionDiffEditPipeline, method).__doc__
    return "".join(example.source for example in doctest.DocTestParser().get_examples(documented))


@pytest.mark.parametrize("method", ["invert", "__call__"])
def test_the_example_of_a_method(method: str) -> None:
    text = example(method)
    assert example("generate_mask") == example("__call__")
    assert text.count(IMPORT.format("diffusers")) == 1
    names: dict[str, Any] = {"DDIMScheduler": DDIMScheduler, "DDIMInverseScheduler": DDIMInverseScheduler}
    exec(text.replace(IMPORT.format("diffusers"), IMPORT.format("diffedit_cli.diffusers")), names)
    latents = names["inverted_latents" if method == "invert" else "image_latents"]
    assert latents.shape == (1, 40, 4, 24, 24)
    if method != "invert":
        check(names["image"], names["init_image"], names["mask_image"])


def test_the_guide(raw_image: Image.Image) -> None:
    pipeline = load(safety_checker=None)
    mask_image = pipeline.generate_mask(image=raw_image, source_prompt=SOURCE, target_prompt=TARGET)
    inv_latents = pipeline.invert(prompt=SOURCE, image=raw_image).latents
    image = pipeline(prompt=TARGET, mask_image=mask_image, image_latents=inv_latents, negative_prompt=SOURCE).images[0]
    image.save("edited_image.png")
    check(Image.open("edited_image.png"), raw_image, mask_image)


def test_the_guide_with_embeddings_of_many_sentences(raw_image: Image.Image) -> None:
    """Flan-T5 writes captions of both concepts, and the mean of their embeddings stands for the concept."""
    tokenizer = AutoTokenizer.from_pretrained("google/flan-t5-xl")
    model = T5ForConditionalGeneration.from_pretrained(
        "google/flan-t5-xl", device_map="auto", torch_dtype=torch.float16
    )

    @torch.no_grad
    def written(concept: str) -> list[str]:
        asked = tokenizer(f"Provide a caption for images containing a {concept}. ", return_tensors="pt")
        sentences = model.generate(
            asked.input_ids.to("cuda"), temperature=0.8, num_return_sequences=16, do_sample=True, max_new_tokens=128,
            top_k=10,
        )  # fmt: skip
        return tokenizer.batch_decode(sentences, skip_special_tokens=True)

    pipeline = load().to("cuda")

    @torch.no_grad()
    def embedded(sentences: list[str]) -> torch.Tensor:
        clip = pipeline.tokenizer
        options = {"padding": "max_length", "max_length": clip.model_max_length, "truncation": True}
        ids = [clip(sentence, return_tensors="pt", **options).input_ids.to("cuda") for sentence in sentences]
        found = [pipeline.text_encoder(one, attention_mask=None)[0] for one in ids]
        return torch.concatenate(found, dim=0).mean(dim=0).unsqueeze(0)

    source_embeds, target_embeds = embedded(written("bowl")), embedded(written("basket"))
    mask_image = pipeline.generate_mask(
        image=raw_image, source_prompt_embeds=source_embeds, target_prompt_embeds=target_embeds
    )
    inv_latents = pipeline.invert(prompt_embeds=source_embeds, image=raw_image).latents
    images = pipeline(
        mask_image=mask_image, image_latents=inv_latents, prompt_embeds=target_embeds,
        negative_prompt_embeds=source_embeds,
    ).images  # fmt: skip
    check(images[0], raw_image, mask_image)


def test_the_guide_with_a_caption_of_blip(raw_image: Image.Image) -> None:
    name = "Salesforce/blip-image-captioning-base"
    processor = BlipProcessor.from_pretrained(name)
    model = BlipForConditionalGeneration.from_pretrained(name, torch_dtype=torch.float16, low_cpu_mem_usage=True)
    with torch.no_grad():
        inputs = processor(raw_image, "a photograph of", return_tensors="pt").to(device="cuda", dtype=model.dtype)
        model.to("cuda")
        outputs = model.generate(**inputs, max_new_tokens=128)
        model.to("cpu")
    caption = processor.batch_decode(outputs, skip_special_tokens=True)[0]
    latents = load().invert(prompt=caption, image=raw_image).latents
    assert latents.shape == (1, 40, 4, 24, 24)
    assert latents.isfinite().all()
