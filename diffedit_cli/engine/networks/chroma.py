"""Chroma (lodestones, 2025): FLUX.1 schnell retrained without CLIP, with guidance and a mask of T5's tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, flow, flux, original_layout
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.flux import diffusers_names
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.text_encoders import TextEncoder

TOKENS = 512  # longest prompt
AXES = 3  # of the positions: always 0, row and column
GUIDANCE = {"in_layer": ["linear_1"], "out_layer": ["linear_2"]}
LAYOUT = original_layout.by_rows(
    flux.ENDS
    | flux.rows_of(flux.DOUBLE, flux.SINGLE)
    | original_layout.in_blocks("distilled_guidance_layer.layers", "distilled_guidance_layer.layers", GUIDANCE)
)


class Chroma(FlowDiffusion):
    """Chroma, which reads the tokens of the prompt and one token of padding."""

    FORMAT = FAMILIES["chroma"]
    LAYOUTS = {"transformer": LAYOUT}  # noqa: RUF012
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "transformer": components.DiffusersReader(
            ChromaTransformer2DModel,
            convert=lambda tensors, _: diffusers_names(tensors, convert_chroma_transformer_checkpoint_to_diffusers),
        ),
        "text_encoder": components.TransformersReader(T5EncoderModel, original_layout.t5),
        "tokenizer": components.tokenizer(T5Tokenizer),
        "scheduler": components.SchedulerReader(FlowMatchEulerDiscreteScheduler),
    }
    WATCHED = (14, 17, 18)  # of the 19 blocks with two streams
    CAPTURABLE = False  # diffusers embeds the guidance on the CPU

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        transformer: ChromaTransformer2DModel,
        text_encoder: T5EncoderModel,
        tokenizer: T5Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str = "model",
    ) -> None:
        self.t5 = TextEncoder(tokenizer, text_encoder, name, TOKENS)
        super().__init__(vae=vae, transformer=transformer, encoders=[self.t5], scheduler=scheduler, name=name)

    def _output(self, rows: ModelInput) -> Tensor:
        text, grid = rows.text, (rows.x_t.shape[-2], rows.x_t.shape[-1])
        cells = flow.pack(rows.x_t).to(text.tokens.dtype)
        mask = text.padding_mask
        with self._watched(rows):
            output: Tensor = self.transformer(
                hidden_states=cells,
                encoder_hidden_states=text.tokens,
                timestep=rows.timesteps / flow.TIMESTEPS,
                img_ids=flow.positions(grid, AXES, rows.x_t.device),
                txt_ids=torch.zeros(text.tokens.shape[1], AXES, device=rows.x_t.device),
                attention_mask=None if mask is None else F.pad(mask, (0, cells.shape[1]), value=True),
            ).sample
        return flow.unpack(output, grid)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        return self.t5.masked(prompt, padding=1)

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer", self.channels * self.patch**2)
        self._check_width(
            "transformer expects text embeddings", self.transformer.config["joint_attention_dim"], self.t5.width
        )


def repair_painting(pipeline: Any) -> None:
    """Makes diffusers' inpainting pipeline run, and leave out the prompt's padding.

    It asks for a setting that no Chroma has, and its mask adds 1 to attention scores instead of masking
    (huggingface/diffusers#12116).
    """
    prepare = pipeline._prepare_attention_mask

    def masked(*given: Any, **named: Any) -> Any:
        mask = prepare(*given, **named)
        return None if mask is None else mask.bool()

    pipeline._prepare_attention_mask = masked
    pipeline.transformer.register_to_config(guidance_embeds=False)
