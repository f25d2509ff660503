"""Qwen-Image (arXiv:2508.02324): flow matching with a transformer that reads Qwen2.5-VL's hidden states."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from diffedit_cli.engine.interfaces import Embedding, ModelInput, Text
from diffedit_cli.engine.networks import components, flow
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.language_models import LanguageModel
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.single_files import Tensors
from diffedit_cli.engine.process import Level, Prediction

TOKENS = 1024  # longest prompt
SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)  # the instruction that the model was trained with
LEADING = 34  # tokens of SYSTEM, which are not part of the embedding


def diffusers_names(tensors: Tensors, _: Any) -> Tensors:
    """Returns the tensors of a VAE in its authors' layout, which is that of Wan, by diffusers' names."""
    converted: Tensors = convert_wan_vae_to_diffusers(tensors)
    tensors.clear()  # what has no other name is in the result as it is
    return converted


class QwenImage(FlowDiffusion):
    """Qwen-Image, whose guided velocity gets back the length that it has without guidance."""

    FORMAT = FAMILIES["qwen-image"]
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKLQwenImage, convert=diffusers_names),
        "transformer": components.DiffusersReader(QwenImageTransformer2DModel),
        "text_encoder": components.TransformersReader(Qwen2_5_VLForConditionalGeneration),
        "tokenizer": components.tokenizer(Qwen2Tokenizer),
        "scheduler": components.SchedulerReader(FlowMatchEulerDiscreteScheduler),
    }
    WATCHED = (18, 24, 30)  # of 60 blocks

    def __init__(
        self,
        *,
        vae: AutoencoderKLQwenImage,
        transformer: QwenImageTransformer2DModel,
        text_encoder: Qwen2_5_VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str = "model",
    ) -> None:
        self.qwen = LanguageModel(tokenizer, text_encoder, name, TOKENS + LEADING, _template, LEADING)
        super().__init__(vae=vae, transformer=transformer, encoders=[self.qwen], scheduler=scheduler, name=name)

    @property
    def channels(self) -> int:
        return int(self.vae.config["z_dim"])

    def text(self, prompt: Embedding, negative: Embedding, guidance: float) -> Text:
        return Text(prompt, negative, guidance, rescale)

    def _output(self, rows: ModelInput) -> Tensor:
        text, grid = rows.text, (rows.x_t.shape[-2], rows.x_t.shape[-1])
        with self._watched(rows):
            output: Tensor = self.transformer(
                hidden_states=flow.pack(rows.x_t).to(text.tokens.dtype),
                encoder_hidden_states=text.tokens,
                encoder_hidden_states_mask=text.padding_mask,
                timestep=rows.timesteps / flow.TIMESTEPS,
                img_shapes=[[(1, grid[0] // self.patch, grid[1] // self.patch)]] * len(rows),
            ).sample
        return flow.unpack(output, grid)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        tokens = self.qwen.hidden_states(prompt)[-1][:, LEADING:].clone()
        return Embedding(tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool))

    def _posterior_mean(self, picture: Tensor) -> Tensor:
        return super()._posterior_mean(picture[:, :, None])[:, :, 0]  # the VAE is one of films

    def _picture(self, z: Tensor) -> Tensor:
        return super()._picture(z[:, :, None])[:, :, 0]

    def _scaled(self, z: Tensor) -> Tensor:
        return (z - self._of_channels("latents_mean")) / self._of_channels("latents_std")

    def _unscaled(self, x_0: Tensor) -> Tensor:
        return x_0 * self._of_channels("latents_std") + self._of_channels("latents_mean")

    def _of_channels(self, name: str) -> Tensor:
        """Returns a list of the VAE's settings as (C, 1, 1)."""
        return torch.tensor(self.vae.config[name], device=self.device)[:, None, None]

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer", self.channels * self.patch**2, outputs=self.channels)
        self._check_width(
            "transformer expects text embeddings", self.transformer.config["joint_attention_dim"], self.qwen.width
        )


def rescale(guided: Prediction, like: Prediction, at: Level) -> Prediction:
    """Returns the guided prediction with the length that the velocity of each token has without guidance.

    Args:
        guided: Guided prediction, (B, C, h, w) clean latents and noise.
        like: Prediction for the prompt alone, of the same shape.
        at: Noise level of both.

    Returns:
        Prediction for the same x_t.
    """
    velocity, unguided = (flow.pack(one.eps - one.x_0) for one in (guided, like))
    scale = unguided.norm(dim=-1, keepdim=True) / velocity.norm(dim=-1, keepdim=True)
    grid = like.x_0.shape[-2], like.x_0.shape[-1]
    change = flow.unpack(velocity * scale - velocity, grid)
    return Prediction(guided.x_0 - at.b * change, guided.eps + at.a * change)


def _template(prompt: str) -> str:
    return f"{SYSTEM}{prompt}<|im_end|>\n<|im_start|>assistant\n"
