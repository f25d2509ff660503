"""Mask and inversion as methods of the pipeline, on diffedit's engine, one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.diffusers import arguments
from diffedit_cli.diffusers.arguments import EmbedsLike, GeneratorLike, ImageLike, PromptLike
from diffedit_cli.diffusers.outputs import FORMS, DiffEditInversionPipelineOutput, Images, convert, convert_masks
from diffedit_cli.diffusers.schedules import inverse_solver
from diffedit_cli.diffusers.walks import Callback, Walks
from diffedit_cli.engine import diffedit
from diffedit_cli.engine.interfaces import Embedding, Text
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.process import Level
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import DDIM

Pair = tuple[Embedding, Embedding]
"""A prompt and the negative prompt beside it."""


class Stages(Walks):
    """Steps 1 and 2 of the paper."""

    def generate_mask(
        self, image: ImageLike = None, target_prompt: PromptLike = None, target_negative_prompt: PromptLike = None,
        target_prompt_embeds: EmbedsLike = None, target_negative_prompt_embeds: EmbedsLike = None,
        source_prompt: PromptLike = None, source_negative_prompt: PromptLike = None,
        source_prompt_embeds: EmbedsLike = None, source_negative_prompt_embeds: EmbedsLike = None,
        num_maps_per_mask: int = 10, mask_encode_strength: float = 0.5, mask_thresholding_ratio: float = 3.0,
        num_inference_steps: int = 50, guidance_scale: float = 7.5, generator: GeneratorLike = None,
        output_type: str = "np", cross_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> NDArray[np.int64] | list[Image.Image] | Tensor:  # fmt: skip
        """Finds what has to change for the source prompt to become the target prompt (step 1 of the paper).

        Args:
            image: PIL image, array (H, W, 3) or tensor (3, H, W) in [0, 1], or several; or latents (B, C, h, w).
            target_prompt: What the picture should show; a list for several pictures.
            target_negative_prompt: Negative prompt beside it. Default: the empty one.
            target_prompt_embeds: Embeddings in place of the words, from `encode_prompt`.
            target_negative_prompt_embeds: Embeddings in place of the negative prompt.
            source_prompt: What the picture shows.
            source_negative_prompt: Negative prompt beside it. Default: the empty one.
            source_prompt_embeds: Embeddings in place of the words.
            source_negative_prompt_embeds: Embeddings in place of the negative prompt.
            num_maps_per_mask: Noise draws that are averaged. Default 10.
            mask_encode_strength: Noise level of the comparison, 0 to 1. Default 0.5.
            mask_thresholding_ratio: The contrast is cut at this multiple of its mean. Default 3.
            num_inference_steps: Number of noise levels. Default 50.
            guidance_scale: Guidance scale; without effect unless the negative prompts differ. Default 7.5.
            generator: Generator of the noise, or one for each picture. Default: torch's own.
            output_type: "np" (B, h, w) of 0 and 1, "pil" or "pt". Default "np".
            cross_attention_kwargs: `{"scale": ...}`, the strength of the LoRAs. Default: 1.
        """
        model, maps = self._model(), arguments.whole("num_maps_per_mask", num_maps_per_mask)
        steps = arguments.whole("num_inference_steps", num_inference_steps)
        level = arguments.level_count("mask_encode_strength", mask_encode_strength, steps)
        clamp = arguments.positive("mask_thresholding_ratio", mask_thresholding_ratio)
        guidance = arguments.number("guidance_scale", guidance_scale)
        target = (target_prompt, target_prompt_embeds), (target_negative_prompt, target_negative_prompt_embeds)
        source = (source_prompt, source_prompt_embeds), (source_negative_prompt, source_negative_prompt_embeds)
        form = arguments.output_type(output_type)
        with self._lora_scale(cross_attention_kwargs), torch.no_grad():
            count = arguments.same_count(model, target_prompt=target[0], source_prompt=source[0])
            x_0 = arguments.encode(model, image, count).x_0
            at = model.levels(steps, x_0.shape[-2:].numel())[level]
            drawn = arguments.generators(generator, count, maps)
            pairs = [
                partial(arguments.pairs, model, name, *said)
                for name, said in (("source_{}prompt", source), ("target_{}prompt", target))
            ]
            compute = partial(_contrasts, model, x_0, at, pairs, guidance, maps, drawn)
            found = self._computed(model, compute, drawn).cpu()
        return convert_masks(torch.stack([diffedit.binarise(one, clamp) for one in found]), form)

    def invert(
        self, prompt: PromptLike = None, image: ImageLike = None, num_inference_steps: int = 50,
        inpaint_strength: float = 0.8, guidance_scale: float = 1.0, negative_prompt: PromptLike = None,
        generator: GeneratorLike = None, prompt_embeds: EmbedsLike = None, negative_prompt_embeds: EmbedsLike = None,
        decode_latents: bool = False, output_type: str = "pil", return_dict: bool = True,
        callback: Callback | None = None, callback_steps: int = 1,
        cross_attention_kwargs: Mapping[str, Any] | None = None, lambda_auto_corr: float = 20.0,
        lambda_kl: float = 20.0, num_reg_steps: int = 0, num_auto_corr_rolls: int = 5,
    ) -> DiffEditInversionPipelineOutput | tuple[Tensor, Images | None]:  # fmt: skip
        """Inverts pictures into noise (step 2 of the paper); the latents carry their pictures to the edit.

        Args:
            prompt: Caption of the picture; a list for several.
            image: As for `generate_mask`.
            num_inference_steps: Number of noise levels. Default 50.
            inpaint_strength: Share of them that the inversion walks, 0 to 1. Default 0.8.
            guidance_scale: Guidance scale; above 1 the picture is not reconstructed exactly. Default 1.
            negative_prompt: Negative prompt of the guidance. Default: the empty one.
            generator: Generator of the regularisation, or one for each picture. Default: torch's own.
            prompt_embeds: Embeddings in place of the caption, from `encode_prompt`.
            negative_prompt_embeds: Embeddings in place of the negative prompt.
            decode_latents: Whether to decode the latents of all levels. Default false.
            output_type: Form of these pictures: "pil", "np" or "pt". Default "pil".
            return_dict: Whether to return an object, else a tuple. Default true.
            callback: Called after each step with its number, its timestep and the latents (B, C, h, w).
            callback_steps: Steps from one call of `callback` to the next. Default 1.
            cross_attention_kwargs: `{"scale": ...}`, the strength of the LoRAs. Default: 1.
            lambda_auto_corr: Weight of the regularisation's autocorrelation. Default 20.
            lambda_kl: Weight of its divergence. Default 20.
            num_reg_steps: Steps of the regularisation towards white noise. Default 0: none.
            num_auto_corr_rolls: Random shifts in each of them. Default 5.
        """
        model, solver = self._model(), inverse_solver(self.inverse_scheduler, self.scheduler)
        steps = arguments.whole("num_inference_steps", num_inference_steps)
        count = arguments.level_count("inpaint_strength", inpaint_strength, steps)
        every = arguments.whole("callback_steps", callback_steps)
        form = arguments.output_type(output_type, FORMS if decode_latents else (*FORMS, "latent"))
        weights = num_reg_steps, lambda_auto_corr, num_auto_corr_rolls, lambda_kl
        with self._lora_scale(cross_attention_kwargs), torch.no_grad():
            said = (prompt, prompt_embeds), (negative_prompt, negative_prompt_embeds)
            number = arguments.prompt_count(model, "prompt", *said[0])
            source, drawn = arguments.encode(model, image, number), arguments.generators(generator, number)
            levels = model.levels(steps, source.x_0.shape[-2:].numel())[: count + 1]
            texts = partial(guided, model, guidance_scale, "{}prompt", *said)
            begin = partial(_inversions, model, source.x_0, levels, texts, solver, weights, drawn)
            walked = self._walked(model, begin, levels[1:], drawn, callback, every)
            latents = walked.flip(0).transpose(0, 1).contiguous()
            images = _decoded(model, latents, form) if decode_latents else None
        source.attach(latents)
        return DiffEditInversionPipelineOutput(latents, images) if return_dict else (latents, images)


def guided(model: LatentDiffusion, guidance: float, *told: Any) -> list[Text]:
    """Returns prompts as the model is guided by them; a guidance scale of at most 1 switches guidance off.

    Args:
        model: The model.
        guidance: Guidance scale.
        told: The prompts and their negatives, as `arguments.pairs` takes them.
    """
    scale = max(arguments.number("guidance_scale", guidance), 1.0)
    return [model.text(*pair, scale) for pair in arguments.pairs(model, *told)]


def _contrasts(
    model: LatentDiffusion, x_0: Tensor, at: Level, pairs: Sequence[Callable[[], Sequence[Pair]]], guidance: float,
    maps: int, generators: Sequence[torch.Generator],
) -> Tensor:  # fmt: skip
    """Returns the contrast map of each picture, (B, h, w), for the `pairs` of sources and of targets."""
    found = []
    for row, source, target, drawn in zip(torch.split(x_0, 1), *(one() for one in pairs), generators, strict=True):
        noise = torch.randn((maps, *row.shape[1:]), generator=drawn).to(row.device)
        R, Q = _compared(model, source, target, guidance)
        at_once = diffedit.MAPS_AT_ONCE // (1 if R.negative is None else 2)
        contrasts = diffedit.contrast_maps(model, row, at, R, Q, noise, at_once)
        found.append(torch.stack(list(contrasts)).mean(dim=0))
    return torch.stack(found)


def _compared(model: LatentDiffusion, source: Pair, target: Pair, guidance: float) -> tuple[Text, Text]:
    """Returns the texts R and Q, unguided if their negatives are the same, as guidance cancels in the mask then."""
    one, other = (negative.tokens for _, negative in (source, target))
    if one.shape == other.shape and torch.equal(one, other):
        return Text(source[0]), Text(target[0])
    return model.text(*source, max(guidance, 1.0)), model.text(*target, max(guidance, 1.0))


def _inversions(
    model: LatentDiffusion, x_0: Tensor, levels: Sequence[Level], texts: Callable[[], Sequence[Text]],
    solver: type[DDIM], weights: tuple[int, float, int, float], generators: Sequence[torch.Generator],
) -> list[Iterator[Tensor]]:  # fmt: skip
    """Begins the inversion of each picture; `weights` are those of the regularisation, which 0 steps switch off."""
    steps, auto_corr, rolls, kl = weights
    return [
        diffedit.invert(
            model, one, levels, text, solver(), Regularisation(steps, auto_corr, rolls, kl, drawn) if steps else None
        )
        for one, text, drawn in zip(torch.split(x_0, 1), texts(), generators, strict=True)
    ]


def _decoded(model: LatentDiffusion, latents: Tensor, output_type: str) -> Images:
    """Returns the pictures of latents (B, T, C, h, w), B * T of them."""
    frames = [model.decode(one).cpu() for one in torch.split(latents.flatten(0, 1), 1)]
    return convert(torch.cat(frames) / 2 + 0.5, output_type)
