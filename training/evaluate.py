"""Evaluates an exported folder: reconstruction, masks, words, samples. Run ``python -m training.evaluate FOLDER``."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data import to_pixels, to_tensor
from training.scenes import HELD_OUT, OBJECTS, PRESENT, Scene, World, scene
from training.vae import psnr

PROMPTS = (
    "a cat on the grass", "a dog on the grass", "a rabbit in the snow", "a horse in the desert", "a pig on the beach",
    "a penguin in the snow", "an elephant at night", "a car on the beach", "a bus in the desert",
    "a house in the snow", "an apple on a table", "a strawberry on a table", "a teapot on a table",
    "a sunflower on the grass", "a balloon at night", "a cake on a table", "a bowl of apples on a table",
    "a bowl of pears on the grass", "a bowl of fruits on a table", "a cat and a dog on the grass",
    "an orange and a ball on the beach", "a photo of a tiger in the snow", "duck", "on the beach",
)  # fmt: skip

WIDER_PROMPTS = (
    "a fox in the forest", "a panda in the snow", "a whale under the sea", "a rocket on the moon",
    "a robot in a room", "a blue car on a road", "a red umbrella in the city", "a yellow balloon on the beach",
    "a green hat on a table", "a purple tulip on the grass", "a boat at night", "a pineapple in the desert",
    "a blue guitar and a red book in a room", "a lion and a yellow bird in the forest", "a pink teapot", "on the moon",
)  # fmt: skip
LEVELS = (500, 700, 800, 900, 950)


def knows_wider(folder: Path) -> bool:
    """Returns whether an exported model was trained on the wider world."""
    return "wider_pictures" in json.loads((folder / "world.json").read_text())


def load(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def grid(pictures: Sequence[NDArray[np.uint8]], columns: int) -> Image.Image:
    """Returns a contact sheet of square pictures of equal size."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (index % columns * size, index // columns * size))
    return sheet


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, drawn: Scene) -> Tensor:
    mean: Tensor = pipeline.vae.encode(to_tensor(np.asarray(drawn.picture)[None])).latent_dist.mode()
    scale: float = pipeline.vae.config.scaling_factor
    return mean * scale


@torch.no_grad()
def decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> NDArray[np.uint8]:
    return to_pixels(pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample)


@torch.no_grad()
def embed(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    tokens = pipeline.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    text: Tensor = pipeline.text_encoder(tokens).last_hidden_state
    return text


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int = 0, steps: int = 25, guidance: float = 4.0
) -> list[NDArray[np.uint8]]:
    """Returns samples (256, 256, 3) by DDIM with classifier-free guidance."""
    generator = torch.Generator().manual_seed(seed)
    made = pipeline(
        list(prompts), num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="np",
        height=256, width=256,
    )  # fmt: skip
    return [(picture * 255).round().astype(np.uint8) for picture in made.images]


@torch.no_grad()
def contrast_mask(
    pipeline: StableDiffusionPipeline, x_0: Tensor, source: str, target: str, seed: int, maps: int = 10
) -> NDArray[np.bool_]:
    """Returns DiffEdit's mask in its basic form (arXiv:2210.11427, 3.2 step 1), at the picture's size (256, 256)."""
    t = torch.full((maps,), 500)
    signal = pipeline.scheduler.alphas_cumprod[500]
    noise = torch.randn((maps, *x_0.shape[1:]), generator=torch.Generator().manual_seed(seed))
    x_t = signal.sqrt() * x_0 + (1 - signal).sqrt() * noise
    before, after = embed(pipeline, [source, target]).unsqueeze(1).expand(-1, maps, -1, -1)
    contrast = (pipeline.unet(x_t, t, after).sample - pipeline.unet(x_t, t, before).sample).abs().mean((0, 1))
    mask = contrast.clamp(max=3 * float(contrast.mean()))
    mask = (mask / mask.max() > 0.5).float()[None, None]
    return torch.nn.functional.interpolate(mask, size=256)[0, 0].bool().numpy()


def swap_case(index: int) -> tuple[Scene, Scene, str, str]:
    """Returns a held-out scene, the same scene with one object swapped, and the two objects."""
    rng = random.Random(index)
    kind = "two" if rng.random() < 0.3 else "one"
    before = scene(HELD_OUT + index, kind=kind)
    source = before.objects[0]
    target = rng.choice([name for name in OBJECTS if name not in before.objects])
    after = scene(HELD_OUT + index, kind=kind, swap={source: target})
    return before, after, source, target


def mask_iou(pipeline: StableDiffusionPipeline, cases: int) -> float:
    """Returns the mean IoU of the contrast mask with the union of the two objects' true masks."""
    total = 0.0
    for index in range(cases):
        before, after, source, target = swap_case(index)
        true = (np.asarray(before.masks[source]) > 0) | (np.asarray(after.masks[target]) > 0)
        source_text = " and ".join(before.objects)
        target_text = " and ".join(after.objects)
        found = contrast_mask(pipeline, encode(pipeline, before), source_text, target_text, index)
        total += float((found & true).sum() / (found | true).sum())
    return total / cases


@torch.no_grad()
def worth_of_words(pipeline: StableDiffusionPipeline, cases: int) -> dict[int, float]:
    """Returns, by timestep, by how much the right words lower the squared error of an object's predicted clean latents.

    The comparison is with the words of another object. An edit is decided at the noisiest timesteps: a model on which
    the words have little effect there paints nothing new.
    """
    worth = dict.fromkeys(LEVELS, 0.0)
    for index in range(cases):
        before, after, source, _ = swap_case(index)
        x_0 = encode(pipeline, before)
        where = torch.nn.functional.adaptive_max_pool2d(
            torch.from_numpy(np.asarray(before.masks[source]) > 127).float()[None], x_0.shape[-2:]
        )
        text = embed(pipeline, [" and ".join(drawn.objects) for drawn in (before, after)])
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(index))
        for t in LEVELS:
            signal = pipeline.scheduler.alphas_cumprod[t]
            x_t = (signal.sqrt() * x_0 + (1 - signal).sqrt() * noise).expand(2, -1, -1, -1)
            velocity = pipeline.unet(x_t, t, text).sample
            error = (signal.sqrt() * x_t - (1 - signal).sqrt() * velocity - x_0).square().mean(1)
            right, wrong = (error * where).sum((1, 2)) / where.sum()
            worth[t] += float(wrong - right) / cases
    return worth


def reconstruction_psnr(pipeline: StableDiffusionPipeline, count: int, world: World = PRESENT) -> float:
    """Returns the mean of the PSNR in dB of each of `count` whole held-out scenes."""
    total = 0.0
    for index in range(count):
        drawn = scene(world.held_out + 1000 + index, world=world)
        true = np.asarray(drawn.picture)
        made = decode(pipeline, encode(pipeline, drawn))[0]
        total += psnr(float(np.square((made.astype(float) - true) / 127.5).mean()))
    return total / count


def evaluate(folder: Path, cases: int) -> dict[str, float]:
    """Returns the figures of the model card, and writes contact sheets beside the folder."""
    pipeline = load(folder)
    prompts = PROMPTS + WIDER_PROMPTS if knows_wider(folder) else PROMPTS
    samples = [picture for at in range(0, len(prompts), 8) for picture in draw(pipeline, prompts[at : at + 8])]
    grid(samples, 8).save(folder.with_name(f"{folder.name}-samples.png"))
    scenes = [scene(HELD_OUT + index) for index in range(8)]
    true = [np.asarray(drawn.picture) for drawn in scenes]
    made = [decode(pipeline, encode(pipeline, drawn))[0] for drawn in scenes]
    grid([*true, *made], 8).save(folder.with_name(f"{folder.name}-reconstructions.png"))
    words = {f"words_at_{t}": value for t, value in worth_of_words(pipeline, cases).items()}
    return {"psnr": reconstruction_psnr(pipeline, cases), "iou": mask_iou(pipeline, cases), **words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=50)
    options = parser.parse_args()
    for name, value in evaluate(options.folder, options.cases).items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    main()
