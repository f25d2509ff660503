"""Z-Image and Z-Image-Turbo (arXiv:2511.22699): flow matching with one stream of picture and Qwen3 tokens."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import components, flow, original_layout, single_files
from diffedit_cli.engine.networks.cross_attention import of_blocks
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.joint_attention import watch_outputs
from diffedit_cli.engine.networks.language_models import LanguageModel, chat
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.source_values import ValueLayer

TOKENS = 512  # longest prompt
MULTIPLE = 32  # both parts of the stream are padded to a multiple of this length
LAYER = -2  # hidden state that is the embedding
ATTENTION = {
    "attention.qkv": ["attention.to_q", "attention.to_k", "attention.to_v"], "attention.out": ["attention.to_out.0"]
}  # fmt: skip
ENDS = {
    "x_embedder": ["all_x_embedder.2-1"],
    "final_layer.linear": ["all_final_layer.2-1.linear"],
    "final_layer.adaLN_modulation.1": ["all_final_layer.2-1.adaLN_modulation.1"],
}
LAYOUT = original_layout.by_rows(
    ENDS
    | original_layout.in_blocks("layers", "layers", ATTENTION)
    | original_layout.in_blocks("noise_refiner", "noise_refiner", ATTENTION)
    | original_layout.in_blocks("context_refiner", "context_refiner", ATTENTION)
)


class ZImage(FlowDiffusion):
    """Z-Image: the network's time runs from noise to picture, and so does the velocity that it predicts."""

    FORMAT = FAMILIES["z-image"]
    LAYOUTS = {"transformer": LAYOUT}  # noqa: RUF012
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "transformer": components.DiffusersReader(
            ZImageTransformer2DModel, convert=single_files.renamed(convert_z_image_transformer_checkpoint_to_diffusers)
        ),
        "text_encoder": components.TransformersReader(Qwen3Model),
        "tokenizer": components.tokenizer(Qwen2Tokenizer),
        "scheduler": components.SchedulerReader(FlowMatchEulerDiscreteScheduler),
    }
    WATCHED = (9, 12, 15)  # of 30 blocks

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        transformer: ZImageTransformer2DModel,
        text_encoder: Qwen3Model,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str = "model",
    ) -> None:
        self.qwen = LanguageModel(tokenizer, text_encoder, name, TOKENS, chat)
        super().__init__(vae=vae, transformer=transformer, encoders=[self.qwen], scheduler=scheduler, name=name)

    def _output(self, rows: ModelInput) -> Tensor:
        tokens = rows.text.tokens
        with self._watched(rows):
            velocity: list[Tensor] = self.transformer(
                list(rows.x_t.to(tokens.dtype)[:, :, None]),  # a picture is a film of one frame
                1 - rows.timesteps / flow.TIMESTEPS,
                [prompt[:length] for prompt, length in zip(tokens, rows.text.lengths, strict=True)],
            ).sample
        return -torch.stack(velocity)[:, :, 0]

    def _value_layers(self, rows: ModelInput) -> list[ValueLayer]:
        first = slice(self._cells(rows))  # the picture's tokens come first
        return [ValueLayer(block.attention.to_v, first) for block in self.transformer.layers]

    def _watched(self, rows: ModelInput) -> AbstractContextManager[None]:
        cells = self._cells(rows)  # the picture's tokens come first
        return watch_outputs(self._attention_layers, rows, (cells, math.ceil(cells / MULTIPLE) * MULTIPLE))

    def _attention_layers(self) -> list[Any]:
        return of_blocks(self.transformer.layers, self.WATCHED, "attention")

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        tokens = self.qwen.hidden_states(prompt)[LAYER]
        return Embedding(tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool))

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer")
        self._check_width(
            "transformer expects text embeddings", self.transformer.config["cap_feat_dim"], self.qwen.width
        )
