"""Stable Diffusion 3 (arXiv:2403.03206): flow matching with a transformer, two CLIP text encoders, optionally T5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, original_layout
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.text_encoders import Clip, TextEncoder
from diffedit_cli.errors import ModelError

T5_TOKENS = 256  # length of the T5 prompt, as in diffusers' pipeline


class StableDiffusion3(FlowDiffusion):
    """Stable Diffusion 3 and 3.5, with or without T5."""

    FORMAT = FAMILIES["sd3"]
    LAYOUTS = {"transformer": original_layout.mmdit}  # noqa: RUF012
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "transformer": components.DiffusersReader(SD3Transformer2DModel, original_layout.mmdit),
        "text_encoder": components.TransformersReader(CLIPTextModelWithProjection, identity="text_projection.weight"),
        "tokenizer": components.tokenizer(CLIPTokenizer),
        "text_encoder_2": components.TransformersReader(CLIPTextModelWithProjection),
        "tokenizer_2": components.tokenizer(CLIPTokenizer),
        "text_encoder_3": components.TransformersReader(T5EncoderModel, original_layout.t5),
        "tokenizer_3": components.tokenizer(T5Tokenizer),
        "scheduler": components.SchedulerReader(FlowMatchEulerDiscreteScheduler),
    }
    OPTIONAL = ("text_encoder_3", "tokenizer_3")
    WATCHED = (7, 9, 13)  # of the 24 blocks of 3.5 medium

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        transformer: SD3Transformer2DModel,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: T5Tokenizer | None = None,
        name: str = "model",
    ) -> None:
        self.patch = int(transformer.config["patch_size"])
        self.clips = [Clip(tokenizer, text_encoder, name), Clip(tokenizer_2, text_encoder_2, name)]
        self.t5 = None if text_encoder_3 is None else TextEncoder(tokenizer_3, text_encoder_3, name, T5_TOKENS)
        encoders = [*self.clips, *([self.t5] if self.t5 else [])]
        super().__init__(vae=vae, transformer=transformer, encoders=encoders, scheduler=scheduler, name=name)

    def _sigmas(self, steps: int) -> None:
        """Returns None: the scheduler's own times."""

    def _output(self, rows: ModelInput) -> Tensor:
        with self._watched(rows):
            output: Tensor = self.transformer(
                rows.x_t.to(rows.text.tokens.dtype),
                encoder_hidden_states=rows.text.tokens,
                pooled_projections=rows.text.pooled,
                timestep=rows.timesteps,
            ).sample
        return output

    def _places(self, prompt: str, words: Sequence[str]) -> list[int]:
        """Returns the positions in CLIP's tokens, which are the same in both encoders, and then in T5's."""
        clip = self.clips[0]
        theirs = self.t5.places(prompt, words) if self.t5 else []
        return [*clip.places(prompt, words), *(clip.limit + place for place in theirs)]

    def encode(self, picture: Tensor) -> Tensor:
        longest = self.multiple * int(self.transformer.config["pos_embed_max_size"])
        if max(picture.shape[-2:]) > longest:
            raise ModelError(
                f"The model {self.name} paints at most {longest} pixels a side, and a picture of this aspect ratio "
                "needs more; crop it, or use another model."
            )
        return super().encode(picture)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:
        """Returns CLIP's tokens side by side, padded with zeros to T5's width, then T5's tokens, zeros without T5."""
        first, second = (clip.penultimate(prompt, clip_skip) for clip in self.clips)
        tokens = torch.cat([first.tokens, second.tokens], dim=-1)
        width = int(self.transformer.config["joint_attention_dim"])
        tokens = F.pad(tokens, (0, width - tokens.shape[-1]))
        theirs = self.t5.last(prompt).tokens if self.t5 else tokens.new_zeros(1, T5_TOKENS, width)
        pooled = [text.pooled for text in (first, second) if text.pooled is not None]
        return Embedding(torch.cat([tokens, theirs.to(tokens)], dim=1), torch.cat(pooled, dim=-1))

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer")
        config = self.transformer.config
        pooled = sum(int(clip.network.config.projection_dim) for clip in self.clips)
        self._check_width("transformer expects pooled text embeddings", config["pooled_projection_dim"], pooled)
        width = self.t5.width if self.t5 else max(config["joint_attention_dim"], sum(clip.width for clip in self.clips))
        self._check_width("transformer expects text embeddings", config["joint_attention_dim"], width)
