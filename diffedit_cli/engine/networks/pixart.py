"""PixArt-Sigma (arXiv:2403.04692): a transformer that predicts noise and its variance, and reads T5's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, cross_attention, original_layout
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.noise_schedule import ScheduledDiffusion
from diffedit_cli.engine.networks.source_values import ValueLayer
from diffedit_cli.engine.networks.text_encoders import TextEncoder

TOKENS = 300  # longest prompt


class PixArtSigma(ScheduledDiffusion):
    """PixArt-Sigma; the predicted variance is not used, as DDIM's steps are deterministic."""

    FORMAT = FAMILIES["pixart"]
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "transformer": components.DiffusersReader(PixArtTransformer2DModel),
        "text_encoder": components.TransformersReader(T5EncoderModel, original_layout.t5),
        "tokenizer": components.tokenizer(T5Tokenizer),
        "scheduler": components.SchedulerReader(DPMSolverMultistepScheduler),
    }
    WATCHED = (10, 14, 18)  # of 28 blocks

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        transformer: PixArtTransformer2DModel,
        text_encoder: T5EncoderModel,
        tokenizer: T5Tokenizer,
        scheduler: DPMSolverMultistepScheduler,
        name: str = "model",
    ) -> None:
        self.transformer, self.t5 = transformer, TextEncoder(tokenizer, text_encoder, name, TOKENS)
        super().__init__(vae=vae, network=transformer, encoders=[self.t5], scheduler=scheduler, name=name)

    def _output(self, rows: ModelInput) -> Tensor:
        with cross_attention.watch_attention(self._attention_layers, rows):
            output: Tensor = self.transformer(
                rows.x_t.to(rows.text.tokens.dtype),
                encoder_hidden_states=rows.text.tokens,
                encoder_attention_mask=rows.text.padding_mask,
                timestep=rows.timesteps,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        return output[:, : self.channels]

    def _attention_layers(self) -> list[Any]:
        return cross_attention.of_blocks(self.transformer.transformer_blocks, self.WATCHED, "attn2")

    def _value_layers(self, rows: ModelInput) -> list[ValueLayer]:  # noqa: ARG002
        return [ValueLayer(block.attn1.to_v) for block in self.transformer.transformer_blocks]

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        return self.t5.masked(_read(prompt))

    def _places(self, prompt: str, words: Sequence[str]) -> list[int]:
        return super()._places(_read(prompt), words)

    def _check_fit(self) -> None:
        super()._check_fit()
        self._check_channels(self.network, "transformer", outputs=2 * self.channels)
        self._check_width(
            "transformer expects text embeddings", self.transformer.config["caption_channels"], self.t5.width
        )


def _read(prompt: str) -> str:
    """Returns a prompt as the model was trained to read it."""
    return prompt.lower().strip()
