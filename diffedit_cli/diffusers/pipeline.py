"""The pipeline: the edit, on diffedit's engine, with the methods and parameters of diffusers' deprecated pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from diffedit_cli.diffusers import arguments
from diffedit_cli.diffusers.arguments import LOGGER, EmbedsLike, GeneratorLike, InvalidArgument, PromptLike
from diffedit_cli.diffusers.edits import Edits
from diffedit_cli.diffusers.outputs import FORMS, Images, StableDiffusionPipelineOutput, convert
from diffedit_cli.diffusers.schedules import solver
from diffedit_cli.diffusers.stages import Stages, guided
from diffedit_cli.diffusers.walks import Callback
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks.safety_checker import SafetyChecker


class StableDiffusionDiffEditPipeline(Stages):
    """DiffEdit (arXiv:2210.11427) for notebooks written for diffusers' pipeline of this name; see docs/python.md."""

    def __call__(
        self, prompt: PromptLike = None, mask_image: Any = None, image_latents: Any = None,
        inpaint_strength: float = 0.8, num_inference_steps: int = 50, guidance_scale: float = 7.5,
        negative_prompt: PromptLike = None, num_images_per_prompt: int = 1, eta: float = 0.0,
        generator: GeneratorLike = None, latents: Tensor | None = None,  # noqa: ARG002
        prompt_embeds: EmbedsLike = None, negative_prompt_embeds: EmbedsLike = None, output_type: str = "pil",
        return_dict: bool = True, callback: Callback | None = None, callback_steps: int = 1,
        cross_attention_kwargs: Mapping[str, Any] | None = None, clip_skip: int | None = None,
    ) -> StableDiffusionPipelineOutput | tuple[Images, list[bool] | None]:  # fmt: skip
        """Repaints the mask towards the prompt (step 3 of the paper); pixels outside of it stay as they are.

        Args:
            prompt: What the picture should show; a list for several pictures.
            mask_image: What `generate_mask` returns, or a PIL image, array or tensor of the latents' size in [0, 1],
                (h, w), (B, h, w) or (B, 1, h, w), or a list of them; cells of at least 0.5 are repainted.
            image_latents: What `invert` returns for the same strength and steps, or several of these in a list.
            inpaint_strength: Share of the noise levels that the edit walks, 0 to 1, as for `invert`. Default 0.8.
            num_inference_steps: Number of noise levels, as for `invert`. Default 50.
            guidance_scale: Guidance scale; at most 1 switches guidance off. Default 7.5.
            negative_prompt: What it should not show. Default: the empty prompt.
            num_images_per_prompt: Results for each prompt; they are equal unless `eta` is above 0. Default 1.
            eta: Fresh noise in each step, 0 to 1. Default 0: none.
            generator: Generator of that noise, or one for each result. Default: torch's own.
            latents: Accepted, and without effect.
            prompt_embeds: Embeddings in place of the prompt, from `encode_prompt`.
            negative_prompt_embeds: Embeddings in place of the negative prompt.
            output_type: "pil", "np" (B, H, W, 3), "pt" (B, 3, H, W) or "latent" (B, C, h, w). Default "pil".
            return_dict: Whether to return an object, else a tuple. Default true.
            callback: Called after each step with its number, its timestep and the latents (B, C, h, w).
            callback_steps: Steps from one call of `callback` to the next. Default 1.
            cross_attention_kwargs: `{"scale": ...}`, the strength of the LoRAs. Default: 1.
            clip_skip: Layers of CLIP that are skipped, for both prompts. Default: 0.
        """
        model, every = self._model(), arguments.whole("callback_steps", callback_steps)
        form = arguments.output_type(output_type, (*FORMS, "latent"))
        several = arguments.whole("num_images_per_prompt", num_images_per_prompt)
        steps = arguments.whole("num_inference_steps", num_inference_steps)
        count = arguments.level_count("inpaint_strength", inpaint_strength, steps)
        guidance, fresh = arguments.number("guidance_scale", guidance_scale), arguments.share("eta", eta)
        with self._lora_scale(cross_attention_kwargs), torch.no_grad():
            said = (prompt, prompt_embeds), (negative_prompt, negative_prompt_embeds)
            number = arguments.prompt_count(model, "prompt", *said[0])
            drawn = arguments.generators(generator, number * several)
            texts = partial(guided, model, guidance, "{}prompt", *said, clip_skip or 0)
            M = arguments.masks(mask_image, number)
            edits = Edits.of(model, steps, count, texts, M, image_latents)
            begin = partial(edits.begin, several, solver(self.scheduler), fresh, drawn)
            y_0 = self._walked(model, begin, edits.levels[:0:-1], drawn, callback, every)[-1]
            images, flagged = (y_0, None) if form == "latent" else self._checked(edits.finish(y_0), form)
        return StableDiffusionPipelineOutput(images, flagged) if return_dict else (images, flagged)

    def encode_prompt(
        self, prompt: PromptLike, device: torch.device | str | None = None, num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True, negative_prompt: PromptLike = None,
        prompt_embeds: EmbedsLike = None, negative_prompt_embeds: EmbedsLike = None, lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor | Embedding, Tensor | Embedding | None]:  # fmt: skip
        """Returns the embeddings of prompts and of their negative prompts, as the `*_embeds` arguments take them.

        These are tensors (B, L, D) if the model reads no more, as Stable Diffusion 1.x and 2.x, and else objects that
        also have the pooled embeddings, and the mask of the tokens that count.

        Args:
            prompt: Prompt or prompts.
            device: Device of the result. Default: that of the model.
            num_images_per_prompt: How often each row is repeated. Default 1.
            do_classifier_free_guidance: Whether the negative prompts are encoded. Default true.
            negative_prompt: Negative prompt or prompts. Default: the empty one.
            prompt_embeds: Embeddings in place of the prompt.
            negative_prompt_embeds: Embeddings in place of the negative prompt.
            lora_scale: Strength of the LoRAs. Default: 1.
            clip_skip: Layers of CLIP that are skipped, for both prompts. Default: 0.
        """
        model, several = self._model(), arguments.whole("num_images_per_prompt", num_images_per_prompt)
        with self._lora_scale({"scale": lora_scale}), torch.no_grad():
            said = (prompt, prompt_embeds), (negative_prompt, negative_prompt_embeds)
            arguments.prompt_count(model, "prompt", *said[0])
            pairs = arguments.pairs(model, "{}prompt", *said, clip_skip or 0)
        like, unlike = (
            _joined([row for row in rows for _ in range(several)], device) for rows in zip(*pairs, strict=True)
        )
        return like, unlike if do_classifier_free_guidance else None

    def _checked(self, images: Tensor, form: str) -> tuple[Images, list[bool] | None]:
        """Returns pictures (B, 3, H, W) in the form asked for; those that the safety checker flags are black."""
        if self.safety_checker is None:
            return convert(images, form), None
        if self.feature_extractor is None:
            raise InvalidArgument("The safety checker needs the feature_extractor; assign one, or no safety_checker.")
        checker = SafetyChecker(
            safety_checker=self.safety_checker, feature_extractor=self.feature_extractor, name=self._name
        )
        flagged = [checker.flags(picture) for picture in convert(images, "pil")]
        if any(flagged):
            LOGGER.warning("The safety checker flags %d of %d pictures; they are black.", sum(flagged), len(flagged))
        return convert(images * (~torch.tensor(flagged))[:, None, None, None], form), flagged


def _joined(rows: Sequence[Embedding], device: torch.device | str | None) -> Tensor | Embedding:
    """Returns embeddings of one row each as one; the tokens alone if that is all there is."""
    joined = reduce(Embedding.followed_by, rows)
    if device is not None:
        pooled = None if joined.pooled is None else joined.pooled.to(device)
        joined = replace(joined, tokens=joined.tokens.to(device), pooled=pooled)
    alone = joined.pooled is None and joined.mask is None and joined.guidance is None
    return joined.tokens if alone else joined
