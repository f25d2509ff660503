"""LoRAs by every name that tools give layers: each layer gets exactly alpha / r * B A, or the file is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import ldm
import ldm_sd3
import pytest
import real_depth
import torch
from diffusers import (
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from fused import LAYOUTS, Parts, Products, added, check
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffedit_cli.engine.networks import lora

Names = tuple[str, str, str]
"""Of a layer's A, B and alpha in a file."""
UNDERSCORED = ("lora_down.weight", "lora_up.weight", "alpha")
OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


@pytest.fixture(scope="module", params=["tiny_epsilon", "tiny_sdxl"])
def model(request: pytest.FixtureRequest) -> tuple[Parts, dict[str, str]]:
    """The networks of a model by part, and the names of its UNet's layers in the original layout."""
    folder: Path = request.getfixturevalue(request.param)
    parts: Parts = {"unet": UNet2DConditionModel.from_pretrained(folder / "unet")}
    parts["text_encoder"] = CLIPTextModel.from_pretrained(folder / "text_encoder")
    if request.param == "tiny_sdxl":
        parts["text_encoder_2"] = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
    return parts, originals(folder / "unet")


def originals(unet: Path) -> dict[str, str]:
    own = ldm.read(unet)[0]
    names = zip(own, ldm.unet(unet), strict=True)
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for ours, theirs in names}


def layers(parts: Parts) -> Iterator[tuple[str, str, Tensor]]:
    for part, network in parts.items():
        for name, module in network.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                yield part, name, module.weight


def old(part: str, layer: str) -> str:
    """With the name that transformers gave the layers of text encoders until its fifth version."""
    bare = layer.removeprefix("text_model.")
    return f"text_model.{bare}" if part != "unet" and bare != "text_projection" else bare


def keys(stem: str, *endings: str) -> Names:
    first, second, third = (stem + ending for ending in endings)
    return first, second, third


def kohya(part: str, layer: str, original: dict[str, str], several: bool) -> Names:
    """Names of diffusers' layers; of XL those of the original layout."""
    start = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if several else "lora_te_"}.get(part, "lora_te2_")
    name = original[layer] if part == "unet" and several else old(part, layer)
    return keys(start + name.replace(".", "_") + ".", *UNDERSCORED)


def kohya_otherwise(part: str, layer: str, original: dict[str, str], several: bool) -> Names:
    return kohya(part, layer, {name: name for name in original} if several else original, several)


def original_layers(part: str, layer: str, original: dict[str, str], _: bool) -> Names:
    """As ComfyUI takes them."""
    encoders = {"text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "clip_g.transformer."}
    name = f"diffusion_model.{original[layer]}" if part == "unet" else encoders[part] + old(part, layer)
    return keys(f"{name}.", "lora_A.weight", "lora_B.weight", "alpha")


def peft(part: str, layer: str, *_: object) -> Names:
    return keys(f"{part}.{old(part, layer)}.", "lora_A.weight", "lora_B.weight", "alpha")


def peft_with_adapter(part: str, layer: str, *_: object) -> Names:
    return keys(f"{part}.{layer}.", "lora_A.default.weight", "lora_B.default.weight", "alpha")


def dotted_down(part: str, layer: str, *_: object) -> Names:
    return keys(f"{part}.{old(part, layer)}.", *UNDERSCORED)


def diffusers(part: str, layer: str, *_: object) -> Names:
    """Of the processors that diffusers' attention had at first, and of its linear layers."""
    if part == "unet" and ".to_" in layer:
        block, _, name = layer.removesuffix(".0").rpartition(".")
        return keys(f"{part}.{block}.processor.{name}_lora.", "down.weight", "up.weight", "alpha")
    last = layer.rpartition(".")[2]
    if last in OLD_ATTENTION:
        return keys(old(part, layer).replace(last, "").join((f"{part}.", f"{OLD_ATTENTION[last]}_lora.")),
                    "down.weight", "up.weight", "alpha")  # fmt: skip
    return keys(f"{part}.{old(part, layer)}.", "lora.down.weight", "lora.up.weight", "alpha")


def diffusers_layers(part: str, layer: str, *_: object) -> Names:
    return keys(f"{part}.{old(part, layer)}.lora_linear_layer.", "down.weight", "up.weight", "alpha")


NAMINGS: tuple[Callable[..., Names], ...] = (
    kohya, kohya_otherwise, original_layers, peft, peft_with_adapter, dotted_down, diffusers, diffusers_layers,
)  # fmt: skip
SUBSETS = [
    ("to_q", "q_proj"),
    ("to_k", "to_v", "k_proj", "v_proj", "out_proj"),
    ("to_out.0", "q_proj", "fc1"),
    ("ff.net.0.proj", "ff.net.2", "fc1", "fc2"),
    ("proj_in", "conv1", "conv_shortcut", "time_emb_proj", "text_projection"),
    ("",),
]
ALPHAS = [(None, 4), (1.0, 4), (4.0, 4), (8.0, 4), (3.0, 1), (0.5, 2), (0.0, 3)]
"""And ranks; they differ from layer to layer."""


def written(
    parts: Parts, wanted: Callable[[str, str], bool], named: Callable[[str, str], Names]
) -> tuple[dict[str, Tensor], Products]:
    """The tensors of a LoRA for the wanted layers, and what it adds to each."""
    random, tensors, products = torch.Generator().manual_seed(0), {}, {}
    for i, (part, layer, weight) in enumerate(one for one in layers(parts) if wanted(*one[:2])):
        alpha, rank = ALPHAS[i % len(ALPHAS)]
        A = torch.randn((rank, *weight.shape[1:]), generator=random)
        B = torch.randn((len(weight), rank, *[1] * (weight.ndim - 2)), generator=random)
        names = named(part, layer)
        tensors |= {names[0]: A, names[1]: B} | ({} if alpha is None else {names[2]: torch.tensor(alpha)})
        share = 1.0 if alpha is None else alpha / rank
        products[part, layer] = share * (B.flatten(1) @ A.flatten(1)).reshape(weight.shape)
    return tensors, products


@pytest.mark.thorough
@pytest.mark.parametrize("ends", SUBSETS, ids=" ".join)
@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.__name__)
def test_each_layer_gets_its_share(
    model: tuple[Parts, dict[str, str]], tmp_path: Path, naming: Callable[..., Names], ends: tuple[str, ...]
) -> None:
    parts, original = model

    def named(part: str, layer: str) -> Names:
        return naming(part, layer, original, len(parts) > 2)

    tensors, products = written(parts, lambda _, layer: layer.endswith(ends), named)
    save_file(tensors, tmp_path / "style.safetensors")
    check(added(parts, tmp_path / "style.safetensors", -0.5), products, -0.5)


@pytest.mark.parametrize("alpha", [torch.tensor([2.0]), torch.tensor(2), torch.tensor(2.0, dtype=torch.float16)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_alphas_and_factors_may_be_of_any_format(
    model: tuple[Parts, dict[str, str]], tmp_path: Path, alpha: Tensor, dtype: torch.dtype
) -> None:
    parts, _ = model
    weight = parts["unet"].get_submodule("conv_in").weight
    A, B = torch.ones(4, *weight.shape[1:]).to(dtype), torch.ones(len(weight), 4, 1, 1).to(dtype)
    save_file(
        dict(zip(keys("lora_unet_conv_in.", *UNDERSCORED), (A, B, alpha), strict=True)), tmp_path / "a.safetensors"
    )
    check(added(parts, tmp_path / "a.safetensors"), {("unet", "conv_in"): torch.full_like(weight, 2.0)})


@pytest.mark.parametrize(("family", "counts"), [
    ("sd15", {"unet": 192, "text_encoder": 72}), ("sdxl", {"unet": 722, "text_encoder": 72, "text_encoder_2": 192}),
])  # fmt: skip
def test_all_layers_that_kohya_trains_are_found(tmp_path: Path, family: str, counts: dict[str, int]) -> None:
    """Of networks as deep as the real ones; the counts are those that its scripts print."""
    configuration = real_depth.write_configuration(tmp_path / family, family)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configuration / "unet"))
    parts: Parts = {"unet": unet}
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    parts |= {
        part: kinds[part](CLIPTextConfig.from_pretrained(configuration / part)) for part in counts if part in kinds
    }
    unet.save_pretrained(tmp_path / "unet")
    original = originals(tmp_path / "unet")

    def trained(part: str, layer: str) -> bool:
        return ".attentions." in layer if part == "unet" else ".layers." in f".{layer}"

    tensors, products = written(parts, trained, lambda part, layer: kohya(part, layer, original, family == "sdxl"))
    assert {part: sum(one[0] == part for one in products) for part in counts} == counts
    save_file(tensors, tmp_path / "style.safetensors")
    check(added(parts, tmp_path / "style.safetensors"), products)


# Stable Diffusion 3


def flow(folder: Path) -> Parts:
    """A transformer that attends twice in its first block."""
    settings = json.loads((folder / "transformer" / "config.json").read_text())
    settings |= {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}
    return {"transformer": SD3Transformer2DModel.from_config(settings)}


FUSED = {**ldm_sd3.QKV, "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v")}
SINGLE = {theirs: ours for ours, theirs in ldm_sd3.BLOCK.items()}


@pytest.mark.parametrize("start", ["lora_unet_", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("layer", [*FUSED, *SINGLE, "final_layer.adaLN_modulation.1", "final_layer.linear"])
def test_layers_that_stand_in_one_get_their_rows(tiny_sd3: Path, tmp_path: Path, start: str, layer: str) -> None:
    """Of the last block, shifts and scales stand the other way round."""
    parts, ends = flow(tiny_sd3), layer.startswith("final_layer")
    ours = {"final_layer.adaLN_modulation.1": ["norm_out.linear"], "final_layer.linear": ["proj_out"]}.get(layer)
    tensors, products = {}, {}
    for block in range(1 if ends else 2):
        names = ours or [f"transformer_blocks.{block}.{one}" for one in FUSED.get(layer, (SINGLE.get(layer, ""),))]
        modules = dict(parts["transformer"].named_modules())
        if not isinstance(modules.get(names[0]), nn.Linear):
            continue  # the last block does nothing more with the prompt, and attends once
        weights = [modules[name].weight for name in names]
        A, B = torch.randn(4, weights[0].shape[1]), torch.randn(sum(map(len, weights)), 4)
        name = layer if ends else f"joint_blocks.{block}.{layer}"
        stem = start + (name.replace(".", "_") if start.endswith("_") else name)
        tensors |= dict(zip(keys(f"{stem}.", *UNDERSCORED), (A, B, torch.tensor(2.0)), strict=True))
        product = 0.5 * B @ A
        if layer == "final_layer.adaLN_modulation.1" or (block == 1 and layer == "context_block.adaLN_modulation.1"):
            product = torch.cat(product.chunk(2)[::-1])
        products |= {("transformer", name): one for name, one in zip(names, product.chunk(len(names)), strict=True)}
    save_file(tensors, tmp_path / "style.safetensors")
    check(added(parts, tmp_path / "style.safetensors"), products)


@pytest.mark.parametrize("start", ["transformer.", "lora_transformer_", "lora_unet_", ""])
def test_a_transformer_is_found_by_our_names(tiny_sd3: Path, tmp_path: Path, start: str) -> None:
    def named(_: str, layer: str) -> Names:
        return keys(start + (layer.replace(".", "_") if start.endswith("_") else layer) + ".", *UNDERSCORED)

    parts = flow(tiny_sd3)
    tensors, products = written(parts, lambda _, layer: layer.endswith(("to_q", "add_k_proj", "ff.net.2")), named)
    save_file(tensors, tmp_path / "style.safetensors")
    check(added(parts, tmp_path / "style.safetensors"), products)


# What is refused


A, B = torch.ones(4, 4, 3, 3), torch.ones(16, 4, 1, 1)
WHOLE = {"lora_unet_conv_in.lora_down.weight": A, "lora_unet_conv_in.lora_up.weight": B}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_conv_out.alpha": torch.ones(())}, "its lora_unet_conv_out lacks one of the two LoRA factors"),
        ({"lora_unet_conv_out.lora_up.weight": B}, "its lora_unet_conv_out lacks one of the two LoRA factors"),
        ({"unet.conv_in.lora_A.weight": A}, "it changes lora_unet_conv_in twice"),
        ({"lora_unet_conv_in.lora_mid.weight": A}, "its lora_unet_conv_in.lora_mid.weight is not a LoRA key"),
        ({"lora_unet_conv_in.hada_w1_a": A}, "its lora_unet_conv_in.hada_w1_a is not a LoRA key"),
        ({"lora_unet_conv_in.lokr_w1": A}, "its lora_unet_conv_in.lokr_w1 is not a LoRA key"),
        ({"lora_unet_conv_in.diff": A}, "its lora_unet_conv_in.diff is not a LoRA key"),
        ({"lora_unet_conv_in.diff_b": A}, "its lora_unet_conv_in.diff_b is not a LoRA key"),
        ({"unet.conv_in.lora_B.bias": A}, "its unet.conv_in.lora_B.bias is not a LoRA key"),
        ({"bundle_emb.toy.string_to_param.*": A}, "its bundle_emb.toy.string_to_param.* is not a LoRA key"),
        ({"lora_unet_conv_in.dora_scale": A}, "it is a DoRA"),
        ({"unet.conv_in.lora_magnitude_vector": A}, "it is a DoRA"),
        ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": A}, "that model does not have"),
        (
            {"lora_unet_conv_norm_out.lora_up.weight": A},
            "conv_norm_out, which that model does not have",
        ),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(16, 5, 1, 1)}, "of rank 4 and 5"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(17, 4, 1, 1)}, "has width 17, and that model's 16"),
        ({"lora_unet_conv_in.alpha": torch.ones(2)}, "its lora_unet_conv_in.alpha is not a number"),
        ({"lora_unet_conv_in.alpha": torch.tensor(math.inf)}, "lora_unet_conv_in holds values that are not finite"),
        ({"lora_unet_conv_in.lora_up.weight": B * math.nan}, "lora_unet_conv_in holds values that are not finite"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_cannot_be_applied_is_refused_whole(
    model: tuple[Parts, dict[str, str]], tmp_path: Path, tensors: dict[str, Tensor], says: str
) -> None:
    parts, _ = model
    before = parts["unet"].conv_in.weight.clone()
    file = tmp_path / "style.safetensors"
    save_file({key: tensor.clone() for key, tensor in (WHOLE | tensors).items()}, file)
    with pytest.raises(ValueError, match=re.escape(says)):
        lora.fuse(parts, file, 1.0, LAYOUTS)
    assert torch.equal(parts["unet"].conv_in.weight, before)


# The oracle


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["tiny_epsilon", "tiny_sdxl"])
@pytest.mark.parametrize("naming", [kohya, kohya_otherwise, peft], ids=lambda naming: naming.__name__)
def test_what_diffusers_adds_is_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, naming: Callable[..., Names]
) -> None:
    """Without alphas: it mixes up those that differ, and passes over those of PEFT's names."""
    folder: Path = request.getfixturevalue(family)
    kind = StableDiffusionPipeline if family == "tiny_epsilon" else StableDiffusionXLPipeline
    pipe = kind.from_pretrained(folder, local_files_only=True)
    parts: Parts = {part: network for part, network in pipe.components.items() if isinstance(network, nn.Module)}
    del parts["vae"]
    original = originals(folder / "unet")
    ends = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "out_proj", "k_proj", "v_proj", "fc1", "fc2")

    def named(part: str, layer: str) -> Names:
        return naming(part, layer, original, len(parts) > 2)

    tensors, _ = written(parts, lambda _, layer: layer.endswith(ends), named)
    file = tmp_path / "style.safetensors"
    save_file({key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}, file)
    ours = added(parts, file, 0.5)
    before = {(part, layer): weight.detach().clone() for part, layer, weight in layers(parts)}
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=list(parts), lora_scale=0.5)
    pipe.unload_lora_weights()
    for part, layer, weight in layers(parts):
        torch.testing.assert_close(ours[part, layer], weight - before[part, layer], rtol=0, atol=2e-5)
