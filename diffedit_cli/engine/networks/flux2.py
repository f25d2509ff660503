"""FLUX.2-klein (Black Forest Labs, 2026): flow matching with a transformer that reads Qwen3's hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from diffedit_cli.engine.interfaces import Embedding, ModelInput, Text
from diffedit_cli.engine.networks import components, flow, flux, original_layout, single_files
from diffedit_cli.engine.networks.flow import FlowDiffusion
from diffedit_cli.engine.networks.language_models import LanguageModel, chat_without_thoughts
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.engine.networks.original_layout import Place
from diffedit_cli.engine.networks.source_values import ValueLayer
from diffedit_cli.errors import ModelError

TOKENS = 512  # every prompt is padded to this length, and the padding is read, too
LAYERS = (9, 18, 27)  # hidden states that are the embedding, side by side
AXES = 4  # of the positions: picture, row, column, and number of the text token
# Shift of the times as fitted by the authors: two lines in the number of tokens, for 10 and for 200 steps.
LINE_10, LINE_200, LONG = (8.73809524e-05, 1.89833333), (0.00016927, 0.45666666), 4300
DOUBLE = flux.ATTENTION | {
    "img_mlp.0": ["ff.linear_in"], "img_mlp.2": ["ff.linear_out"],
    "txt_mlp.0": ["ff_context.linear_in"], "txt_mlp.2": ["ff_context.linear_out"],
}  # fmt: skip
MODULATION = {
    "time_in.in_layer": ["time_guidance_embed.timestep_embedder.linear_1"],
    "time_in.out_layer": ["time_guidance_embed.timestep_embedder.linear_2"],
    "guidance_in.in_layer": ["time_guidance_embed.guidance_embedder.linear_1"],
    "guidance_in.out_layer": ["time_guidance_embed.guidance_embedder.linear_2"],
    "double_stream_modulation_img.lin": ["double_stream_modulation_img.linear"],
    "double_stream_modulation_txt.lin": ["double_stream_modulation_txt.linear"],
    "single_stream_modulation.lin": ["single_stream_modulation.linear"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
SHORTENED = {layer: [layer] for layers in DOUBLE.values() for layer in layers}
LAYOUT = original_layout.by_rows(
    flux.ENDS
    | MODULATION
    | flux.rows_of(DOUBLE, {"linear1": ["attn.to_qkv_mlp_proj"], "linear2": ["attn.to_out"]})
    | original_layout.in_blocks("sformer_blocks", "transformer_blocks", SHORTENED),  # as some trainers name them
    swapped=["norm_out.linear"],
)


def vae_layout(name: str, config: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of the VAE: that of AutoencoderKL, with the convolutions between its halves in these halves."""
    (place,) = original_layout.vae(name, config)
    halves = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}
    return place, Place(halves.get(name.partition(".")[0], "") + place.name)


class Flux2Klein(FlowDiffusion):
    """FLUX.2-klein, base or distilled; the distilled models have no guidance."""

    FORMAT = FAMILIES["flux2"]
    LAYOUTS = {"transformer": LAYOUT}  # noqa: RUF012
    READERS = {  # noqa: RUF012
        "vae": components.DiffusersReader(AutoencoderKLFlux2, vae_layout),
        "transformer": components.DiffusersReader(
            Flux2Transformer2DModel, convert=single_files.renamed(convert_flux2_transformer_checkpoint_to_diffusers)
        ),
        "text_encoder": components.TransformersReader(Qwen3Model),
        "tokenizer": components.tokenizer(Qwen2Tokenizer),
        "scheduler": components.SchedulerReader(FlowMatchEulerDiscreteScheduler),
    }
    WATCHED = (3, 4)  # the last blocks with two streams of the 4B model

    def __init__(
        self,
        *,
        vae: AutoencoderKLFlux2,
        transformer: Flux2Transformer2DModel,
        text_encoder: Qwen3Model,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        is_distilled: bool = False,
        name: str = "model",
    ) -> None:
        self.is_distilled = is_distilled
        self.qwen = LanguageModel(tokenizer, text_encoder, name, TOKENS, chat_without_thoughts)
        super().__init__(vae=vae, transformer=transformer, encoders=[self.qwen], scheduler=scheduler, name=name)

    def text(self, prompt: Embedding, negative: Embedding, guidance: float) -> Text:
        return Text(prompt) if self.is_distilled else super().text(prompt, negative, guidance)

    def _mu(self, tokens: int, steps: int) -> float:
        (slope_10, start_10), (slope_200, start_200) = LINE_10, LINE_200
        at_200 = slope_200 * tokens + start_200
        if tokens > LONG:
            return at_200
        at_10 = slope_10 * tokens + start_10
        slope = (at_200 - at_10) / 190
        return slope * steps + (at_200 - 200 * slope)

    def _output(self, rows: ModelInput) -> Tensor:
        grid = rows.x_t.shape[-2], rows.x_t.shape[-1]
        words = torch.zeros(rows.text.tokens.shape[1], AXES, device=rows.x_t.device)
        words[:, -1] = torch.arange(len(words), device=rows.x_t.device)
        with self._watched(rows):
            output: Tensor = self.transformer(
                hidden_states=flow.pack(rows.x_t).to(rows.text.tokens.dtype),
                encoder_hidden_states=rows.text.tokens,
                timestep=rows.timesteps / flow.TIMESTEPS,
                guidance=None,
                img_ids=flow.positions(grid, AXES, rows.x_t.device),
                txt_ids=words,
            ).sample
        return flow.unpack(output, grid)

    def _value_layers(self, rows: ModelInput) -> list[ValueLayer]:
        """Returns the values in the layers that give queries, keys, values and the input of the perceptron at once."""
        layers = [block.attn for block in self.transformer.single_transformer_blocks]
        width, last = layers[0].inner_dim, slice(-self._cells(rows), None)
        return [ValueLayer(layer.to_qkv_mlp_proj, last, slice(2 * width, 3 * width)) for layer in layers]

    def _embedded(self, prompt: str, clip_skip: int) -> Embedding:  # noqa: ARG002
        states = self.qwen.hidden_states(prompt, padded=True)
        return Embedding(torch.cat([states[layer] for layer in LAYERS], dim=-1))

    def _scaled(self, z: Tensor) -> Tensor:
        """Returns latents normalised by the statistics of the VAE, which are those of patches of 2 x 2 cells."""
        mean, deviation = self._statistics()
        grid = z.shape[-2], z.shape[-1]
        return flow.unpack((flow.pack(z) - mean) / deviation, grid)

    def _unscaled(self, x_0: Tensor) -> Tensor:
        mean, deviation = self._statistics()
        grid = x_0.shape[-2], x_0.shape[-1]
        return flow.unpack(flow.pack(x_0) * deviation + mean, grid)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation (4 C,) of the tokens."""
        norm = self.vae.bn
        variance = norm.running_var.float().to(self.device) + self.vae.config["batch_norm_eps"]
        return norm.running_mean.float().to(self.device), variance.sqrt()

    def _check_fit(self) -> None:
        self._check_channels(self.network, "transformer", self.channels * self.patch**2)
        layers = self.qwen.network.config.num_hidden_layers
        if layers < max(LAYERS):
            raise ModelError(
                f"The model {self.name} does not fit: its text encoder has {layers} layers, and the embedding is taken "
                f"after layer {max(LAYERS)}."
            )
        self._check_width(
            "transformer expects text embeddings",
            self.transformer.config["joint_attention_dim"],
            self.qwen.width * len(LAYERS),
        )
