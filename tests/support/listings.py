"""The tensors of real checkpoints, by the modules of their authors: names, shapes and number formats.

Names and formats are those of the published files. Widths may be made small; how deep a network is stays real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Listing = dict[str, tuple[tuple[int, ...], str]]
"""Shapes and safetensors' names of number formats."""

SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


@dataclass(frozen=True)
class Widths:
    """Of all networks; `tiny` files differ from real ones in these alone."""

    unet: int = 320
    vae: int = 128
    clip: int = 768
    open_clip: int = 1024
    t5: int = 4096
    mmdit: int = 1536
    words: int = 49408
    t5_words: int = 32128
    head: int = 64
    levels: int = 1000


TINY = Widths(
    unet=8, vae=4, clip=16, open_clip=16, t5=16, mmdit=32, words=600, t5_words=40, head=8, levels=10
)  # fmt: skip


def layer(name: str, *shape: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def under(prefix: str, shapes: dict[str, tuple[int, ...]], dtype: str) -> Listing:
    return {prefix + name: (shape, dtype) for name, shape in shapes.items()}


def res_block(name: str, before: int, after: int, emb: int) -> dict[str, tuple[int, ...]]:
    found = layer(f"{name}.in_layers.0", before) | layer(f"{name}.in_layers.2", after, before, 3, 3)
    found |= layer(f"{name}.emb_layers.1", after, emb) | layer(f"{name}.out_layers.0", after)
    found |= layer(f"{name}.out_layers.3", after, after, 3, 3)
    return found | (layer(f"{name}.skip_connection", after, before, 1, 1) if before != after else {})


def spatial_transformer(name: str, width: int, depth: int, context: int, linear: bool) -> dict[str, tuple[int, ...]]:
    square = (width, width) if linear else (width, width, 1, 1)
    found = layer(f"{name}.norm", width) | layer(f"{name}.proj_in", *square) | layer(f"{name}.proj_out", *square)
    for i in range(depth):
        at = f"{name}.transformer_blocks.{i}"
        for attention, told in (("attn1", width), ("attn2", context)):
            found |= layer(f"{at}.{attention}.to_q", width, width, bias=False)
            found |= layer(f"{at}.{attention}.to_k", width, told, bias=False)
            found |= layer(f"{at}.{attention}.to_v", width, told, bias=False)
            found |= layer(f"{at}.{attention}.to_out.0", width, width)
        found |= layer(f"{at}.ff.net.0.proj", 8 * width, width) | layer(f"{at}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            found |= layer(f"{at}.{norm}", width)
    return found


def unet(
    width: int, mult: Sequence[int], depths: Sequence[int], context: int, *,
    adm: int = 0, linear: bool = False, channels: int = 4,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """openaimodel.UNetModel, two blocks a level; `depths` of its transformers by level, the most in the middle."""
    emb, now, kept, number = 4 * width, width, [width], 1
    found = layer("time_embed.0", emb, width) | layer("time_embed.2", emb, emb)
    found |= (layer("label_emb.0.0", emb, adm) | layer("label_emb.0.2", emb, emb)) if adm else {}
    found |= layer("input_blocks.0.0", width, channels, 3, 3)

    def block(at: str, before: int, level: int) -> dict[str, tuple[int, ...]]:
        after = mult[level] * width
        attention = spatial_transformer(f"{at}.1", after, depths[level], context, linear) if depths[level] else {}
        return res_block(f"{at}.0", before, after, emb) | attention

    for level in range(len(mult)):
        for _ in range(2):
            found |= block(f"input_blocks.{number}", now, level)
            now, number = mult[level] * width, number + 1
            kept.append(now)
        if level + 1 < len(mult):
            found |= layer(f"input_blocks.{number}.0.op", now, now, 3, 3)
            number += 1
            kept.append(now)
    deepest = max(depths)
    found |= res_block("middle_block.0", now, now, emb) | res_block("middle_block.2", now, now, emb)
    found |= spatial_transformer("middle_block.1", now, deepest, context, linear)
    number = 0
    for level in reversed(range(len(mult))):
        for i in range(3):
            found |= block(f"output_blocks.{number}", now + kept.pop(), level)
            now = mult[level] * width
            if level and i == 2:
                found |= layer(f"output_blocks.{number}.{2 if depths[level] else 1}.conv", now, now, 3, 3)
            number += 1
    return found | layer("out.0", now) | layer("out.2", 4, now, 3, 3)


def autoencoder(width: int, z: int = 4, quant: bool = True) -> dict[str, tuple[int, ...]]:
    """AutoencoderKL of four levels."""
    mult, found = (1, 2, 4, 4), {}

    def block(at: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
        made = layer(f"{at}.norm1", before) | layer(f"{at}.conv1", after, before, 3, 3)
        made |= layer(f"{at}.norm2", after) | layer(f"{at}.conv2", after, after, 3, 3)
        return made | (layer(f"{at}.nin_shortcut", after, before, 1, 1) if before != after else {})

    def ends(side: str, first: tuple[int, int], last: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        deep = mult[-1] * width
        made = layer(f"{side}.conv_in", *first, 3, 3) | layer(f"{side}.conv_out", *last, 3, 3)
        made |= layer(f"{side}.norm_out", last[1]) | layer(f"{side}.mid.attn_1.norm", deep)
        for one in ("q", "k", "v", "proj_out"):
            made |= layer(f"{side}.mid.attn_1.{one}", deep, deep, 1, 1)
        return made | block(f"{side}.mid.block_1", deep, deep) | block(f"{side}.mid.block_2", deep, deep)

    found |= ends("encoder", (width, 3), (2 * z, 4 * width)) | ends("decoder", (4 * width, z), (3, width))
    down, up = width, 4 * width
    for i in range(4):
        for j in range(2):
            found |= block(f"encoder.down.{i}.block.{j}", down, mult[i] * width)
            down = mult[i] * width
        found |= layer(f"encoder.down.{i}.downsample.conv", down, down, 3, 3) if i < 3 else {}
    for i in reversed(range(4)):
        for j in range(3):
            found |= block(f"decoder.up.{i}.block.{j}", up, mult[i] * width)
            up = mult[i] * width
        found |= layer(f"decoder.up.{i}.upsample.conv", up, up, 3, 3) if i else {}
    if quant:
        found |= layer("quant_conv", 2 * z, 2 * z, 1, 1) | layer("post_quant_conv", z, z, 1, 1)
    return found


def clip(width: int, words: int, layers: int = 12) -> dict[str, tuple[int, ...]]:
    """CLIPTextModel of transformers before its fifth version."""
    found = {"text_model.embeddings.token_embedding.weight": (words, width)}
    found |= {"text_model.embeddings.position_embedding.weight": (77, width)}
    for i in range(layers):
        at = f"text_model.encoder.layers.{i}"
        for one in ("q", "k", "v", "out"):
            found |= layer(f"{at}.self_attn.{one}_proj", width, width)
        found |= layer(f"{at}.mlp.fc1", 4 * width, width) | layer(f"{at}.mlp.fc2", width, 4 * width)
        found |= layer(f"{at}.layer_norm1", width) | layer(f"{at}.layer_norm2", width)
    return found | layer("text_model.final_layer_norm", width)


def open_clip(width: int, words: int, layers: int) -> dict[str, tuple[int, ...]]:
    """The text half of open_clip's CLIP."""
    found: dict[str, tuple[int, ...]] = {"positional_embedding": (77, width), "token_embedding.weight": (words, width)}
    found |= {"text_projection": (width, width), "logit_scale": ()}
    for i in range(layers):
        at = f"transformer.resblocks.{i}"
        found |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
        found |= layer(f"{at}.attn.out_proj", width, width) | layer(f"{at}.ln_1", width) | layer(f"{at}.ln_2", width)
        found |= layer(f"{at}.mlp.c_fc", 4 * width, width) | layer(f"{at}.mlp.c_proj", width, 4 * width)
    return found | layer("ln_final", width)


def t5(width: int, words: int, layers: int = 24) -> dict[str, tuple[int, ...]]:
    """T5EncoderModel of version 1.1."""
    found: dict[str, tuple[int, ...]] = {"shared.weight": (words, width)}
    found |= {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, width // 8)}
    for i in range(layers):
        at = f"encoder.block.{i}.layer"
        found |= {f"{at}.0.SelfAttention.{one}.weight": (width, width) for one in "qkvo"}
        found |= {f"{at}.1.DenseReluDense.{one}.weight": (2 * width, width) for one in ("wi_0", "wi_1")}
        found |= {f"{at}.1.DenseReluDense.wo.weight": (width, 2 * width)}
        found |= {f"{at}.{j}.layer_norm.weight": (width,) for j in range(2)}
    return found | {"encoder.final_layer_norm.weight": (width,)}


def mmdit(
    width: int, depth: int, told: int, pooled: int, *, head: int, norms: bool, dual: int = 0, cells: int = 384
) -> dict[str, tuple[int, ...]]:
    """MMDiT, or MMDiT-X whose first `dual` blocks attend twice."""
    found: dict[str, tuple[int, ...]] = {"pos_embed": (1, cells * cells, width)}
    found |= layer("x_embedder.proj", width, 16, 2, 2) | layer("context_embedder", width, told)
    found |= layer("t_embedder.mlp.0", width, 256) | layer("t_embedder.mlp.2", width, width)
    found |= layer("y_embedder.mlp.0", width, pooled) | layer("y_embedder.mlp.2", width, width)
    found |= layer("final_layer.linear", 64, width) | layer("final_layer.adaLN_modulation.1", 2 * width, width)
    for i in range(depth):
        last = i == depth - 1
        for side in ("x_block", "context_block"):
            at, ends = f"joint_blocks.{i}.{side}", last and side == "context_block"
            twice = side == "x_block" and i < dual
            for attention in ("attn", "attn2") if twice else ("attn",):
                found |= layer(f"{at}.{attention}.qkv", 3 * width, width)
                found |= layer(f"{at}.{attention}.proj", width, width) if not ends else {}
                found |= {f"{at}.{attention}.ln_{one}.weight": (head,) for one in "qk"} if norms else {}
            found |= layer(f"{at}.adaLN_modulation.1", (2 if ends else 9 if twice else 6) * width, width)
            if not ends:
                found |= layer(f"{at}.mlp.fc1", 4 * width, width) | layer(f"{at}.mlp.fc2", width, 4 * width)
    return found


def positions(prefix: str) -> Listing:
    return {f"{prefix}text_model.embeddings.position_ids": ((1, 77), "I64")}


def schedule(widths: Widths) -> Listing:
    trained: Listing = {"model_ema.decay": ((), "F32"), "model_ema.num_updates": ((), "I32")}
    return dict.fromkeys(SCHEDULE, ((widths.levels,), "F32")) | trained


def sd15(w: Widths = Widths(), channels: int = 4) -> Listing:
    """v1-5-pruned-emaonly.safetensors, or with nine channels sd-v1-5-inpainting."""
    network = unet(w.unet, (1, 2, 4, 4), (1, 1, 1, 0), w.clip, channels=channels)
    encoder = "cond_stage_model.transformer."
    found = under("model.diffusion_model.", network, "F32") | under("first_stage_model.", autoencoder(w.vae), "F32")
    return found | under(encoder, clip(w.clip, w.words), "F32") | positions(encoder) | schedule(w)


def sd15_with_ema(w: Widths = Widths()) -> Listing:
    """v1-5-pruned.safetensors: a second network, its names without dots."""
    found = sd15(w)
    start = "model.diffusion_model."
    ema = {f"model_ema.diffusion_model{name.removeprefix(start).replace('.', '')}": one
           for name, one in found.items() if name.startswith(start)}  # fmt: skip
    return found | ema | {"logvar": ((w.levels,), "F32")}


def sd21(w: Widths = Widths()) -> Listing:
    """v2-1_768-ema-pruned.safetensors, whose text encoder has one layer more than is used."""
    network = unet(w.unet, (1, 2, 4, 4), (1, 1, 1, 0), w.open_clip, linear=True)
    found = under("model.diffusion_model.", network, "F32") | under("first_stage_model.", autoencoder(w.vae), "F32")
    return found | under("cond_stage_model.model.", open_clip(w.open_clip, w.words, 24), "F32") | schedule(w)


def sdxl(w: Widths = Widths()) -> Listing:
    """sd_xl_base_1.0.safetensors."""
    wide = w.open_clip * 5 // 4
    network = unet(w.unet, (1, 2, 4), (0, 2, 10), w.clip + wide, adm=wide + 1536, linear=True)
    encoder = "conditioner.embedders.0.transformer."
    found = under("model.diffusion_model.", network, "F16") | under("first_stage_model.", autoencoder(w.vae), "F16")
    found |= under(encoder, clip(w.clip, w.words), "F16") | positions(encoder)
    return found | under("conditioner.embedders.1.model.", open_clip(wide, w.words, 32), "F16")


def sdxl_v(w: Widths = Widths()) -> Listing:
    """NoobAI-XL-Vpred-v1.0.safetensors: marks, and what training with generative-models leaves."""
    return sdxl(w) | {"v_pred": ((0,), "F32"), "ztsnr": ((0,), "F32"), "denoiser.sigmas": ((w.levels,), "F32")}


def sd35(w: Widths = Widths()) -> Listing:
    """sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors, as ComfyUI writes them."""
    wide = w.open_clip * 5 // 4
    network = mmdit(w.mmdit, 24, w.t5, w.clip + wide, head=w.head, norms=True, dual=13, cells=384 if w.t5 > 99 else 24)
    found = under("model.diffusion_model.", network, "F16")
    found |= under("first_stage_model.", autoencoder(w.vae, z=16, quant=False), "F16")
    for name, width, layers in (("clip_l", w.clip, 12), ("clip_g", wide, 32)):
        start = f"text_encoders.{name}."
        found |= under(f"{start}transformer.", clip(width, w.words, layers), "F16")
        found |= {f"{start}transformer.text_projection.weight": ((width, width), "F16")}
        found |= {f"{start}logit_scale": ((), "F32")}
    start = "text_encoders.t5xxl.transformer."
    for name, (shape, _) in under(start, t5(w.t5, w.t5_words), "").items():
        scaled = len(shape) == 2 and "relative" not in name and "shared" not in name
        found[name] = shape, "F8_E4M3" if scaled else "F16"
        found |= {name.replace(".weight", ".scale_weight"): ((), "F32")} if scaled else {}
    return found | {f"{start}scaled_fp8": ((2,), "F8_E4M3"), "text_encoders.t5xxl.logit_scale": ((), "F32")}


def inpainting(w: Widths = Widths()) -> Listing:
    """sd-v1-5-inpainting.safetensors."""
    return sd15(w, channels=9)


FILES = {one.__name__: one for one in (sd15, sd15_with_ema, sd21, sdxl, sdxl_v, sd35, inpainting)}
