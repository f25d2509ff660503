"""Arguments of the pipeline's methods: prompts, pictures, masks, latents and generators, checked and converted."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.diffusers.outputs import FORMS, Source
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.errors import UsageError, reason
from diffedit_cli.pipeline.params import levels_up_to

PromptLike = str | Sequence[str] | None
"""One prompt, or one for each picture."""
EmbedsLike = Tensor | Embedding | None
"""Prompt embeddings (B, L, D) as `encode_prompt` returns them."""
ImageLike = Image.Image | NDArray[Any] | Tensor | Sequence[Any] | None
"""A picture or several, as diffusers' VaeImageProcessor takes them; or latents (B, C, h, w)."""
GeneratorLike = torch.Generator | Sequence[torch.Generator] | None
"""A generator, or one for each picture."""

LOGGER = logging.getLogger("diffedit_cli.diffusers")


class InvalidArgument(UsageError, ValueError):
    """An argument of the pipeline is invalid; a ValueError, as in diffusers."""


def prompt_count(model: LatentDiffusion, name: str, prompt: PromptLike, embeds: EmbedsLike) -> int:
    """Returns the number of prompts, and logs those that the model does not read to the end.

    Args:
        model: The model.
        name: Name of the argument, for messages.
        prompt: Prompt or prompts, None if there are `embeds`.
        embeds: Prompt embeddings, None if there are words.

    Raises:
        InvalidArgument: If there are both or neither, or they are no prompts.
    """
    if (prompt is None) == (embeds is None):
        raise InvalidArgument(f"Give {name} or {name}_embeds, one of the two.")
    if embeds is not None:
        return len(embeds.tokens if isinstance(embeds, Embedding) else embeds)
    prompts = _listed(name, prompt)
    for warning in filter(None, map(model.prompt_warning, prompts)):
        LOGGER.warning(warning)
    return len(prompts)


def same_count(model: LatentDiffusion, **prompts: tuple[PromptLike, EmbedsLike]) -> int:
    """Returns the number of prompts of several arguments, which must have as many.

    Args:
        model: The model.
        prompts: By argument the prompts, or their embeddings.

    Raises:
        InvalidArgument: As `prompt_count`, or if the numbers differ.
    """
    counts = {name: prompt_count(model, name, *given) for name, given in prompts.items()}
    if len(set(counts.values())) > 1:
        raise InvalidArgument(f"There are {counts} prompts; give as many of each.")
    return min(counts.values())


def pairs(
    model: LatentDiffusion,
    name: str,
    prompts: tuple[PromptLike, EmbedsLike],
    negatives: tuple[PromptLike, EmbedsLike],
    clip_skip: int = 0,
) -> list[tuple[Embedding, Embedding]]:
    """Returns the embeddings of each prompt and of the negative prompt beside it, one row each.

    Args:
        model: The model.
        name: Name of the prompt's argument, for messages, with {} where that of the negative prompt has "negative_".
        prompts: Prompt or prompts, or their embeddings.
        negatives: Negative prompts or their embeddings: one for all, one for each, or none for the empty prompt.
        clip_skip: Layers of CLIP that are skipped, for both. Default 0.

    Raises:
        InvalidArgument: If there are negative words and embeddings, or another number of them.
    """
    found, told = _embeddings(model, name.format(""), *prompts, clip_skip), name.format("negative_")
    words, embeds = negatives
    if words is not None and embeds is not None:
        raise InvalidArgument(f"Give {told} or {told}_embeds, one of the two.")
    beside = _embeddings(model, told, "" if words is None and embeds is None else words, embeds, clip_skip)
    beside = beside * len(found) if len(beside) == 1 else beside
    if len(beside) != len(found):
        raise InvalidArgument(f"{told} has {len(beside)} prompts, and there are {len(found)} to go with them.")
    return list(zip(found, beside, strict=True))


def _embeddings(
    model: LatentDiffusion, name: str, prompt: PromptLike, embeds: EmbedsLike, clip_skip: int
) -> list[Embedding]:
    """Returns the embedding of each prompt, one row each, from words or from `embeds`."""
    if embeds is None:
        return [model.embed(one, clip_skip) for one in _listed(name, prompt)]
    rows = _fitted(model, f"{name}_embeds", embeds)
    return [rows.part(slice(row, row + 1)) for row in range(len(rows.tokens))]


def _listed(name: str, prompt: PromptLike) -> Sequence[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise InvalidArgument(f"{name} cannot be {str(prompt)[:40]!r}; give a prompt or a list of prompts.")
    return prompts


def _fitted(model: LatentDiffusion, name: str, embeds: Tensor | Embedding) -> Embedding:
    """Returns embeddings with all that the model reads, on its device and in its number format."""
    like, given = model.embed(""), embeds if isinstance(embeds, Embedding) else Embedding(embeds)
    if given.tokens.ndim != 3 or given.tokens.shape[-1] != like.tokens.shape[-1]:
        raise InvalidArgument(
            f"{name} has the shape {tuple(given.tokens.shape)}, and the model {model.name} reads embeddings of width "
            f"{like.tokens.shape[-1]}; make them with encode_prompt."
        )
    if given.pooled is None and like.pooled is not None:
        raise InvalidArgument(
            f"{name} lacks the pooled embedding that the model {model.name} reads; give what encode_prompt returns."
        )
    rows, mask, guidance = given.tokens.shape[:2], given.mask, given.guidance
    if mask is None and like.mask is not None:
        mask = torch.ones(rows, dtype=torch.bool)
    if guidance is None and like.guidance is not None:
        guidance = like.guidance.expand(rows[0])
    pooled = None if like.pooled is None or given.pooled is None else given.pooled.to(like.pooled)
    return replace(given, tokens=given.tokens.to(like.tokens), pooled=pooled, mask=mask, guidance=guidance)


def encode(model: LatentDiffusion, image: ImageLike, count: int) -> Source:
    """Returns pictures with their clean latents, repeated for `count` prompts.

    Each is encoded by itself, once, to the mean of the posterior.

    Args:
        model: The model.
        image: Pictures, scaled to the nearest size that the model can encode, or latents (B, C, h, w).
        count: Number of prompts, a multiple of the number of pictures.

    Raises:
        InvalidArgument: If they are not pictures, or do not fit the prompts.
    """
    if image is None:
        raise InvalidArgument("There is no image; give the picture.")
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == model.channels:
        return Source(_repeated(image.to(model.device, torch.float32), count))
    grid = model.multiple if model.FORMAT.denoiser == "transformer" else model.factor
    options = {"vae_scale_factor": grid, "vae_latent_channels": model.channels}
    try:
        given = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_rgb=True, **options).preprocess(image)
        scaled = VaeImageProcessor(do_convert_rgb=True, **options).preprocess(image)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InvalidArgument(
            f"image cannot be used ({reason(error)}); give PIL images, arrays (B, H, W, 3) or tensors (B, 3, H, W) "
            "of one size."
        ) from error
    if scaled.shape[1] != 3 or min(scaled.shape[-2:]) < grid:
        raise InvalidArgument(f"image has the shape {tuple(given.shape)}; give pictures with 3 channels and a side of "
                              f"at least {grid} pixels.")  # fmt: skip
    x_0 = torch.cat([model.encode(one) for one in torch.split(scaled.float(), 1)])
    pixels = given.float() / 2 + 0.5 if given.min() < 0 else given.float()  # some notebooks give [-1, 1]
    return Source(_repeated(x_0, count), _repeated(pixels.cpu(), count))


def _repeated(rows: Tensor, count: int) -> Tensor:
    if count % len(rows):
        raise InvalidArgument(f"There are {len(rows)} pictures for {count} prompts; give as many of both.")
    return rows.repeat(count // len(rows), *[1] * (rows.ndim - 1))


def masks(mask_image: Any, count: int) -> Tensor:
    """Returns masks of latent cells (B, h, w), each cell 0 or 1, float32.

    Args:
        mask_image: What `generate_mask` returns, or a PIL image, array or tensor (h, w), (B, h, w) or (B, 1, h, w) in
            [0, 1], or a list of them.
        count: Number of prompts; one mask serves all of them.

    Raises:
        InvalidArgument: If it is not a mask, or there is another number of masks.
    """
    if mask_image is None:
        raise InvalidArgument("There is no mask_image; make it with generate_mask().")
    given = list(mask_image) if isinstance(mask_image, list | tuple) else [mask_image]
    try:
        found = torch.cat([_of_cells(one) for one in given])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"mask_image cannot be used ({reason(error)}); give masks of one size.") from error
    if not (found >= 0).logical_and(found <= 1).all():
        raise InvalidArgument("mask_image has values outside of 0 to 1; scale it to that range.")
    if len(found) not in (1, count):
        raise InvalidArgument(f"mask_image has {len(found)} masks for {count} prompts; give one, or one for each.")
    return (found >= 0.5).float().expand(count, -1, -1)


def _of_cells(mask: Image.Image | NDArray[Any] | Tensor) -> Tensor:
    """Returns one mask or a batch of them as (B, h, w)."""
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"), dtype=np.float32) / 255
    cells = (torch.from_numpy(np.asarray(mask)) if not isinstance(mask, Tensor) else mask).detach().cpu().float()
    if cells.ndim == 4:
        if cells.shape[1] != 1:
            raise ValueError(f"it has {cells.shape[1]} channels in place of 1")
        cells = cells[:, 0]
    return cells[None] if cells.ndim == 2 else cells


def inversions(image_latents: Any, shape: tuple[int, ...]) -> tuple[Tensor, Source | None]:
    """Returns inverted latents (B, T, C, h, w) as float32, and what they carry of their pictures.

    Args:
        image_latents: What `invert` returns, several of these, or (B * T, C, h, w).
        shape: (B, T, C, h, w) that they must have, by prompts, steps, strength, model and mask.

    Raises:
        InvalidArgument: If they have another shape.
    """
    if image_latents is None:
        raise InvalidArgument("There are no image_latents; make them with invert().")
    given = list(image_latents) if isinstance(image_latents, list | tuple) else [image_latents]
    if not given or not all(isinstance(one, Tensor) for one in given):
        raise InvalidArgument("image_latents are not tensors; make them with invert().")
    try:
        latents, source = torch.cat(given).detach(), Source.of(given)
    except RuntimeError as error:
        raise InvalidArgument(f"image_latents cannot be joined ({reason(error)}); give those of one size.") from error
    if latents.ndim == 4 and len(latents) == shape[0] * shape[1]:
        latents = latents.reshape(shape[0], shape[1], *latents.shape[1:])
    if tuple(latents.shape) != shape:
        raise InvalidArgument(
            f"image_latents have the shape {tuple(latents.shape)}, and these prompts, steps, strength and mask need "
            f"{shape}; invert with the same, and use that picture's mask."
        )
    return latents.float(), source


def generators(generator: GeneratorLike, count: int, maps: int = 1) -> list[torch.Generator]:
    """Returns a CPU generator for each of `count` pictures: one for all, torch's own if there is none.

    A generator on another device seeds one on the CPU, so that the noise is the same on every device.

    Args:
        generator: One, or as many as pictures; or as many as pictures and maps, where each picture takes its first.
        count: Number of pictures.
        maps: Maps for each picture. Default 1.

    Raises:
        InvalidArgument: If it is a list of another length, or no generator.
    """
    one = torch.default_generator if generator is None else generator
    given: list[Any] = list(one) if isinstance(one, list | tuple) else [one]
    if wrong := [other for other in given if not isinstance(other, torch.Generator)]:
        raise InvalidArgument(f"generator cannot be {wrong[0]!r}; give torch.Generator().manual_seed(...).")
    chosen = given * count if len(given) == 1 else given[::maps] if len(given) == count * maps else given
    if len(chosen) != count:
        raise InvalidArgument(f"There are {len(given)} generators for {count} pictures; give one, or one for each.")
    here = {id(one): one if one.device.type == "cpu" else _seeded(one) for one in chosen}
    return [here[id(one)] for one in chosen]


def _seeded(other: torch.Generator) -> torch.Generator:
    seed = torch.randint(2**63 - 1, (1,), generator=other, device=other.device)
    return torch.Generator().manual_seed(int(seed))


def level_count(name: str, strength: float | None, steps: int) -> int:
    """Returns how many of `steps` levels lie up to a strength, at least 1.

    Args:
        name: Name of the strength, for messages.
        strength: Share of the levels, 0 to 1.
        steps: Number of levels, above 0.

    Raises:
        InvalidArgument: If the strength is out of range, or less than one step.
    """
    strength = share(name, strength)
    if not (found := levels_up_to(strength, steps)):
        raise InvalidArgument(f"{name} {strength:g} of {steps} steps is less than one step; raise one of the two.")
    return found


def number(name: str, given: Any) -> float:
    """Returns a finite number. Raises InvalidArgument for anything else.

    Args:
        name: Name of the argument, for messages.
        given: Its value.
    """
    if not isinstance(given, Real) or isinstance(given, bool) or not math.isfinite(given):
        raise InvalidArgument(f"{name} cannot be {given!r}; give a number.")
    return float(given)


def share(name: str, given: Any) -> float:
    """Returns a number from 0 to 1. Raises InvalidArgument for anything else.

    Args:
        name: Name of the argument, for messages.
        given: Its value.
    """
    if not 0 <= number(name, given) <= 1:
        raise InvalidArgument(f"{name} cannot be {given}; give a number from 0 to 1.")
    return float(given)


def positive(name: str, given: Any) -> float:
    """Returns a number above 0. Raises InvalidArgument for anything else.

    Args:
        name: Name of the argument, for messages.
        given: Its value.
    """
    if not number(name, given) > 0:
        raise InvalidArgument(f"{name} cannot be {given}; give a number above 0.")
    return float(given)


def whole(name: str, given: Any) -> int:
    """Returns a whole number above 0. Raises InvalidArgument for anything else.

    Args:
        name: Name of the argument, for messages.
        given: Its value.
    """
    if not isinstance(given, Integral) or isinstance(given, bool) or not int(given) > 0:
        raise InvalidArgument(f"{name} cannot be {given!r}; give a whole number above 0.")
    return int(given)


def output_type(name: str | None, forms: Sequence[str] = FORMS) -> str:
    """Returns the `name` of an output type. Raises InvalidArgument for one that is not among the `forms`."""
    if name not in forms:
        raise InvalidArgument(f"output_type cannot be {name}; use {', '.join(forms)}.")
    return str(name)
