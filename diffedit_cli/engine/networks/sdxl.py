"""Stable Diffusion XL (arXiv:2307.01952): two CLIP text encoders, and a UNet conditioned on the picture's size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import components
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.sd import StableDiffusion, UNetDiffusion
from diffedit_cli.engine.networks.text_encoders import Clip
from diffedit_cli.errors import ModelError

SIZES = 6  # values of the size condition: original height and width, top and left of the crop, target height and width


class StableDiffusionXL(UNetDiffusion):
    """SDXL base model: tokens of both text encoders side by side, the second one's projection as pooled embedding."""

    FORMAT = FAMILIES["sdxl"]
    READERS = {  # noqa: RUF012
        **StableDiffusion.READERS,
        "text_encoder_2": components.TransformersReader(CLIPTextModelWithProjection),
        "tokenizer_2": components.tokenizer(CLIPTokenizer),
    }

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        scheduler: DDIMScheduler,
        force_zeros_for_empty_prompt: bool = True,
        name: str = "model",
    ) -> None:
        """Initialises the model from its parts.

        With `force_zeros_for_empty_prompt` the embedding of the empty prompt is zero, as for dropped captions in
        training.
        """
        self.clip, self.clip_2 = Clip(tokenizer, text_encoder, name), Clip(tokenizer_2, text_encoder_2, name)
        self.force_zeros = force_zeros_for_empty_prompt
        if vae.config["force_upcast"] and vae.dtype == torch.float16:
            vae.to(torch.float32)  # the original VAE overflows in float16; force_upcast says so
        super().__init__(vae=vae, unet=unet, encoders=[self.clip, self.clip_2], scheduler=scheduler, name=name)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:
        first, second = (clip.penultimate(prompt, clip_skip) for clip in (self.clip, self.clip_2))
        embedding = Embedding(torch.cat([first.tokens, second.tokens], dim=-1), second.pooled)
        return embedding.zeros() if prompt == "" and self.force_zeros else embedding

    def _conditions(self, x_t: Tensor, text: Embedding) -> dict[str, Any]:
        """Returns pooled embeddings and sizes (section 2.2) of an uncropped picture that was not resized."""
        height, width = (side * self.factor for side in x_t.shape[-2:])
        values = (height, width, 0, 0, height, width)  # filled in there: a list would be copied to the device
        sizes = torch.cat([torch.full((1,), float(value), device=x_t.device) for value in values])
        return {"text_embeds": text.pooled, "time_ids": sizes.expand(len(x_t), SIZES)}

    def _check_fit(self) -> None:
        super()._check_fit()
        config = self.unet.config
        if config["addition_embed_type"] != "text_time":
            raise ModelError(f"The model {self.name} does not fit: its UNet takes neither pooled text nor sizes.")
        sizes = SIZES * config["addition_time_embed_dim"]
        self._check_width(
            "UNet expects pooled text embeddings",
            config["projection_class_embeddings_input_dim"] - sizes,
            self.clip_2.network.config.projection_dim,
        )
