"""FLUX.1 dev and schnell (Black Forest Labs, 2024): flow matching with a transformer that reads T5's tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from diffedit_cli.engine.interfaces import Embedding, ModelInput, Text
from diffedit_cli.engine.networks import components, flow, original_layout
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.single_files import Tensors
from diffedit_cli.engine.networks.text_encoders import Clip, TextEncoder

TOKENS = 512  # every prompt is padded to this length, and the padding is read, too
AXES = 3  # of the positions: always 0, row and column
UNGUIDED = 1.0  # embedded guidance of predictions without guidance
FUSED = re.compile(r"single_blocks\.(\d+)\.linear1\.(weight|bias)")
ROWS = 7 * 3072  # of a fused layer in diffusers' function


def diffusers_names(tensors: Tensors, convert: Callable[[Tensors], Tensors]) -> Tensors:
    """Returns the tensors of FLUX.1's authors by diffusers' names.

    `convert` is diffusers' function, which splits the fused layers of single blocks in the rows of one width only. Here
    they are split for any width, and `convert` gets tensors of these rows without columns in place of them.
    """
    width = len(tensors["img_in.weight"])
    fused = {(found[1], found[2]): tensors[name] for name in tensors if (found := FUSED.fullmatch(name))}
    for block, kind in fused:
        tensors[f"single_blocks.{block}.linear1.{kind}"] = torch.empty(ROWS, 0)
    converted = convert(tensors)
    for (block, kind), tensor in fused.items():
        rows = torch.split(tensor, [width, width, width, len(tensor) - 3 * width])
        for layer, some in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), rows, strict=True):
            converted[f"single_transformer_blocks.{block}.{layer}.{kind}"] = some
    return converted


# Original layers, and the layers of diffusers that are their rows.
ENDS = {"img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"]}
ATTENTION = {
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], "txt_attn.proj": ["attn.to_add_out"],
}  # fmt: skip
DOUBLE = ATTENTION | {
    "img_mlp.0": ["ff.net.0.proj"], "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"], "txt_mlp.2": ["ff_context.net.2"],
}  # fmt: skip
SINGLE = {
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", *["proj_mlp"] * 4],  # the perceptron is 4 times as wide
    "linear2": ["proj_out"],
}
MODULATION = {
    "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
    "time_in.out_layer": ["time_text_embed.timestep_embedder.linear_2"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "guidance_in.out_layer": ["time_text_embed.guidance_embedder.linear_2"],
    "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
    "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
XLABS_DOUBLE = {
    "qkv_lora1": ATTENTION["img_attn.qkv"], "proj_lora1": ATTENTION["img_attn.proj"],
    "qkv_lora2": ATTENTION["txt_attn.qkv"], "proj_lora2": ATTENTION["txt_attn.proj"],
}  # fmt: skip  # as the LoRAs of XLabs' x-flux name the layers
XLABS_SINGLE = {"qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "proj": ["proj_out"]}


def rows_of(double: original_layout.Rows, single: original_layout.Rows) -> dict[str, Sequence[str]]:
    """Returns the rows of the layers of both kinds of blocks."""
    return original_layout.in_blocks("double_blocks", "transformer_blocks", double) | original_layout.in_blocks(
        "single_blocks", "single_transformer_blocks", single
    )


LAYOUT = original_layout.by_rows(
    ENDS
    | MODULATION
    | rows_of(
        DOUBLE | {"img_mod.lin": ["norm1.linear"], "txt_mod.lin": ["norm1_context.linear"]} | XLABS_DOUBLE,
        SINGLE | {"modulation.lin": ["norm.linear"]} | XLABS_SINGLE,
    ),
    swapped=["norm_out.linear"],
)


class Flux(FlowDiffusion):
    """FLUX.1: dev reads the guidance scale as an input, schnell has no guidance."""

    FORMAT = FAMILIES["flux"]
    LAYOUTS = {"transformer": LAYOUT}  # noqa: RUF012
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKL, original_layout.vae),
        "transformer": components.DiffusersReader(
            FluxTransformer2DModel,
            convert=lambda tensors, _: diffusers_names(tensors, convert_flux_transformer_checkpoint_to_diffusers),
        ),
        "text_encoder": components.TransformersReader(CLIPTextModel),
        "tokenizer": components.tokenizer(CLIPTokenizer),
        "text_encoder_2": components.TransformersReader(T5EncoderModel, original_layout.t5),
        "tokenizer_2": components.tokenizer(T5Tokenizer),
        "scheduler": components.scheduler(FlowMatchEulerDiscreteScheduler),
    }
    WATCHED = (14, 17, 18)  # of the 19 blocks with two streams

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        transformer: FluxTransformer2DModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: T5Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str = "model",
    ) -> None:
        self.clip = Clip(tokenizer, text_encoder, name)
        self.t5 = TextEncoder(tokenizer_2, text_encoder_2, name, TOKENS)
        super().__init__(
            vae=vae, transformer=transformer, encoders=[self.t5, self.clip], scheduler=scheduler, name=name
        )

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network reads the guidance scale."""
        return bool(self.transformer.config["guidance_embeds"])

    def text(self, prompt: Embedding, negative: Embedding, guidance: float) -> Text:  # noqa: ARG002
        scale = torch.full((1,), guidance, device=prompt.tokens.device)
        return Text(replace(prompt, guidance=scale) if self.embeds_guidance else prompt)

    def _output(self, rows: ModelInput) -> Tensor:
        text, grid = rows.text, (rows.x_t.shape[-2], rows.x_t.shape[-1])
        with self._watched(rows):
            output: Tensor = self.transformer(
                hidden_states=flow.pack(rows.x_t).to(text.tokens.dtype),
                encoder_hidden_states=text.tokens,
                pooled_projections=text.pooled,
                timestep=rows.timesteps / flow.TIMESTEPS,
                guidance=text.guidance,
                img_ids=flow.positions(grid, AXES, rows.x_t.device),
                txt_ids=torch.zeros(text.tokens.shape[1], AXES, device=rows.x_t.device),
            ).sample
        return flow.unpack(output, grid)

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        guidance = torch.full((1,), UNGUIDED, device=self.device) if self.embeds_guidance else None
        return Embedding(self.t5.last(prompt).tokens, self.clip.pooled(prompt), guidance=guidance)

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer", self.channels * self.patch**2)
        config = self.transformer.config
        self._check_width("transformer expects text embeddings", config["joint_attention_dim"], self.t5.width)
        self._check_width(
            "transformer expects pooled text embeddings", config["pooled_projection_dim"], self.clip.width
        )
