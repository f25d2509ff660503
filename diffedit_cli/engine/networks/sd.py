"""Stable Diffusion 1.x and 2.x: diffusers' AutoencoderKL and UNet2DConditionModel, one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, cross_attention, original_layout
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.noise_schedule import ScheduledDiffusion
from diffedit_cli.engine.networks.source_values import ValueLayer
from diffedit_cli.engine.networks.text_encoders import Clip


class UNetDiffusion(ScheduledDiffusion):
    """Base class of the families with a UNet that attends to CLIP's tokens, and with DDIM's noise levels."""

    WEIGHS_WORDS = True
    LAYOUTS = {"unet": original_layout.unet}  # noqa: RUF012

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        encoders: Sequence[Clip],
        scheduler: DDIMScheduler,
        name: str,
    ) -> None:
        self.unet = unet
        super().__init__(vae=vae, network=unet, encoders=encoders, scheduler=scheduler, name=name)

    def _output(self, rows: ModelInput) -> Tensor:
        with cross_attention.watch_attention(self.watched_layers, rows):
            output: Tensor = self.unet(
                rows.x_t.to(rows.text.tokens.dtype),  # unet.dtype would search all of its modules
                rows.timesteps,
                encoder_hidden_states=rows.text.tokens,
                added_cond_kwargs=self._conditions(rows.x_t, rows.text),
            ).sample
        return output

    def watched_layers(self) -> list[nn.Module]:
        return cross_attention.layers(self.unet)

    def _value_layers(self, rows: ModelInput) -> list[ValueLayer]:  # noqa: ARG002
        """Returns the self-attention of the decoder, which MasaCtrl (section 3.2) exchanges."""
        named = self.unet.up_blocks.named_modules()
        return [ValueLayer(layer.to_v) for name, layer in named if name.endswith("attn1")]

    def _conditions(self, x_t: Tensor, text: Embedding) -> dict[str, Tensor] | None:  # noqa: ARG002
        """Returns the conditions of the UNet beside timestep and tokens, None if there are none."""
        return None

    def _check_fit(self) -> None:
        super()._check_fit()
        self._check_channels(self.network, "UNet")
        width = sum(encoder.width for encoder in self.encoders)
        self._check_width("UNet expects text embeddings", self.unet.config["cross_attention_dim"], width)


class StableDiffusion(UNetDiffusion):
    """Stable Diffusion 1.x and 2.x, with any of PREDICTION_TYPES."""

    FORMAT = FAMILIES["sd"]
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "unet": components.DiffusersReader(UNet2DConditionModel, original_layout.unet),
        "text_encoder": components.TransformersReader(CLIPTextModel),
        "tokenizer": components.tokenizer(CLIPTokenizer),
        "scheduler": components.SchedulerReader(DDIMScheduler),
    }

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        name: str = "model",
    ) -> None:
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.clip = Clip(tokenizer, text_encoder, name)
        super().__init__(vae=vae, unet=unet, encoders=[self.clip], scheduler=scheduler, name=name)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:
        return self.clip.last(prompt, clip_skip)
