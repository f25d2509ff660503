"""Maps tensor names of diffusers' networks to the layout of the original checkpoints. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Place:
    """Place of a diffusers tensor in the original layout.

    Attributes:
        name: Name of the tensor in the original layout.
        part: Index of the block of rows that is the diffusers tensor, or of the first one.
        of: Number of equal blocks of rows.
        turned: Whether rows and columns are swapped.
        swapped: Whether the two halves of the rows are swapped.
        span: Number of blocks that are the diffusers tensor.
    """

    name: str
    part: int = 0
    of: int = 1
    turned: bool = False
    swapped: bool = False
    span: int = 1


Layout = Callable[[str, Mapping[str, Any]], tuple[Place, ...]]
"""Returns the possible places of a tensor, by its name in diffusers and the network's settings; none if unknown."""

MARKS = r"(.*\.)?(scaled_fp8|scale_input|input_scale|comfy_quant)|v_pred|ztsnr"
"""Pattern of the tensors in any file that mark how the others are stored, or what the network predicts."""

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE = {
    "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out", "resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2",
}  # fmt: skip
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_CLIP_ENDS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
MMDIT = {
    "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
}  # fmt: skip
MMDIT_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
}  # fmt: skip
MMDIT_QKV = {
    "attn.to_": "x_block.attn.qkv", "attn2.to_": "x_block.attn2.qkv", "attn.add_": "context_block.attn.qkv"
}  # fmt: skip


Rows = Mapping[str, Sequence[str]]
"""By the name of an original layer the diffusers layer of each of its equal blocks of rows; `#` is a block's number."""


def by_rows(rows: Rows, swapped: Container[str] = ()) -> Layout:
    """Returns the layout of a network from a table of its layers.

    Args:
        rows: Original layers that have another name in diffusers, or are several layers there.
        swapped: Diffusers layers whose halves of rows are swapped. Default: none.

    Returns:
        Layout of the weights and biases of these layers.
    """
    places: dict[str, tuple[Place, ...]] = {}
    for original, layers in rows.items():
        for layer in dict.fromkeys(layers):
            place = Place(
                original, layers.index(layer), len(layers), swapped=layer in swapped, span=layers.count(layer)
            )
            places[layer] = (*places.get(layer, ()), place)

    def layout(name: str, config: Mapping[str, Any]) -> tuple[Place, ...]:  # noqa: ARG001
        layer, _, kind = name.rpartition(".")
        found = re.search(r"\.(\d+)\.", layer)
        number, known = (found[1], layer.replace(found[0], ".#.", 1)) if found else ("", layer)
        return tuple(
            replace(place, name=f"{place.name.replace('#', number)}.{kind}") for place in places.get(known, ())
        )

    return layout


def in_blocks(original: str, ours: str, rows: Rows) -> dict[str, Sequence[str]]:
    """Returns the rows of the layers of numbered blocks, whose lists have the names `original` and `ours`."""
    return {f"{original}.#.{name}": [f"{ours}.#.{layer}" for layer in layers] for name, layers in rows.items()}


def unet(name: str, config: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of UNet2DConditionModel: blocks, a resnet and its attention each, are numbered across all resolutions."""
    each = int(config["layers_per_block"]) + 1
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.*)", name):
        side, i, what, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        rest = _renamed(rest, RESNET) if what == "resnets" else rest
        if side == "down":
            number = (i + 1) * each if what == "downsamplers" else i * each + j + 1
            rest = rest.replace("conv.", "op.", 1) if what == "downsamplers" else rest
            return (Place(f"input_blocks.{number}.{1 if what == 'attentions' else 0}.{rest}"),)
        number = i * each + (each - 1 if what == "upsamplers" else j)
        last = 2 if "Attn" in config["up_block_types"][i] else 1
        return (Place(f"output_blocks.{number}.{ {'resnets': 0, 'attentions': 1}.get(what, last) }.{rest}"),)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        of_resnet = found[1] == "resnets"
        rest = _renamed(found[3], RESNET) if of_resnet else found[3]
        return (Place(f"middle_block.{2 * int(found[2]) if of_resnet else 1}.{rest}"),)
    layer, _, kind = name.rpartition(".")
    return (Place(f"{UNET[layer]}.{kind}"),) if layer in UNET else ()


def vae(name: str, config: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of AutoencoderKL: the decoder's blocks are numbered from the other end."""
    last = len(config["block_out_channels"]) - 1
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
    return (Place(_renamed(name.replace("mid_block.", "mid."), VAE)),)


def clip(name: str, _: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of OpenAI's CLIP text encoder, with the older or the present layer names of transformers."""
    bare = name.removeprefix("text_model.")
    return Place(bare if bare.startswith("text_projection") else f"text_model.{bare}"), Place(bare)


def open_clip(name: str, _: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of OpenCLIP's text encoder: queries, keys and values are one tensor."""
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
        return Place("text_projection", turned=True), Place(name)
    if name in OPEN_CLIP_ENDS:
        return (Place(OPEN_CLIP_ENDS[name]),)
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
    if found is None:
        return ()
    block, layer, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
    if one := re.fullmatch(r"self_attn\.([qkv])_proj", layer):
        return (Place(f"{block}.attn.in_proj_{kind}", "qkv".index(one[1]), 3),)
    return (Place(f"{block}.{OPEN_CLIP.get(layer, layer)}.{kind}"),)


def mmdit(name: str, config: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of SD3Transformer2DModel: queries, keys and values are one tensor; last shifts and scales swapped."""
    if name == "pos_embed.pos_embed":
        return (Place("pos_embed"),)
    layer, _, kind = name.rpartition(".")
    if layer == "norm_out.linear":
        return (Place(f"final_layer.adaLN_modulation.1.{kind}", swapped=True),)
    if layer in MMDIT:
        return (Place(f"{MMDIT[layer]}.{kind}"),)
    found = re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)", layer)
    if found is None:
        return ()
    block, inner = f"joint_blocks.{found[1]}", found[2]
    if one := re.fullmatch(r"(attn\.to_|attn2\.to_|attn\.add_)([qkv])(?:_proj)?", inner):
        return (Place(f"{block}.{MMDIT_QKV[one[1]]}.{kind}", "qkv".index(one[2]), 3),)
    if inner not in MMDIT_BLOCK:
        return ()
    is_last = int(found[1]) == int(config["num_layers"]) - 1
    return (Place(f"{block}.{MMDIT_BLOCK[inner]}.{kind}", swapped=is_last and inner == "norm1_context.linear"),)


def t5(name: str, _: Mapping[str, Any]) -> tuple[Place, ...]:
    """Layout of T5's encoder: the names are the same, but the word embeddings may have either of two names."""
    other = {"shared.weight": "encoder.embed_tokens.weight", "encoder.embed_tokens.weight": "shared.weight"}
    return (Place(name), Place(other[name])) if name in other else (Place(name),)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, name)
    return name
