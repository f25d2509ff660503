"""LoRAs for the families with transformers: what they add is what diffusers adds, by every name that trainers use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders import single_file_utils
from family_loras import (
    DOTTED,
    KINDS,
    NAMINGS,
    UNDERSCORED,
    Folders,
    layout_of,
    linear,
    load,
    networks,
    written,
)
from fused import added, check
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.conversion import settings_of
from diffedit_cli.engine.networks.original_layout import Place


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("families"))


# The layouts of the original checkpoints


class Rest(dict[str, Tensor]):
    """A checkpoint that has every tensor which a layout leaves out, such as the scale of a norm."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, *default, torch.zeros(6, 1)) if not key.endswith("weight") else super().pop(key)


CONVERTED = {
    "flux": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
    "flux2": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "chroma": single_file_utils.convert_chroma_transformer_checkpoint_to_diffusers,
    "z-image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
}
FULL_WIDTH = 3072  # which diffusers takes for granted of FLUX.1 and Chroma


@pytest.mark.parametrize("family", CONVERTED)
def test_every_layer_has_the_place_that_diffusers_finds(folders: Folders, family: str) -> None:
    """The weights are of the real height, and one number wide."""
    layout, network = layout_of(family), load(folders(family)).transformer
    random = torch.Generator().manual_seed(0)
    assert layout
    expected, blocks = {}, {}
    for layer, weight in linear(network):
        for kind in ("weight", "bias"):
            key, rows = f"{layer}.{kind}", len(weight) * FULL_WIDTH // 32
            place = next(iter(layout(key, settings_of(network))), Place(key))
            expected[key] = torch.randn((rows, 1), generator=random)
            stored = torch.cat(expected[key].chunk(2)[::-1]) if place.swapped else expected[key]
            blocks.setdefault(place.name, [None] * place.of)[place.part : place.part + place.span] = stored.chunk(
                place.span
            )
    assert all(part is not None for parts in blocks.values() for part in parts)
    converted = CONVERTED[family](Rest({name: torch.cat(parts) for name, parts in blocks.items()}))
    for key, tensor in expected.items():
        if key.endswith("weight") or family in ("flux", "chroma"):
            torch.testing.assert_close(converted[key], tensor, rtol=0, atol=0)


# Whole LoRAs


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for name, naming in NAMINGS.items() for family in KINDS
     if not (naming.which or (naming.original and layout_of(family) is None))],
)  # fmt: skip
def test_every_layer_by_every_name(folders: Folders, tmp_path: Path, family: str, name: str) -> None:
    """Also the layers whose names diffusers does not convert."""
    parts, file = networks(load(folders(family)), family), tmp_path / "style.safetensors"
    products = written(family, parts["transformer"], NAMINGS[name], file)
    assert {layer for _, layer in products} == {layer for layer, _ in linear(parts["transformer"])}
    check(added(parts, file, -0.5, families.implementation(family).LAYOUTS), products, -0.5)


# Families, namings, and the layers that diffusers does not read by these names, or for networks of full size only.
READ = [
    *((family, "peft", "$^") for family in KINDS if family != "pixart"),
    ("flux", "kohya-original", r"linear1|_in|final|time|vector"),
    ("flux", "dotted-original", r"linear1|_in|final|time|vector"),
    ("flux", "xlabs", r"^(?!double_blocks.*lora|single_blocks.*(qkv|proj)$)"),
    ("flux2", "comfyui-original", r"adaLN"),  # the halves of its rows stay as they are there
    ("flux2", "comfyui", r"^(?!transformer_blocks|single_transformer_blocks)"),
    ("flux2", "sformer", r"^(?!sformer)"),
    ("flux2", "kohya-original", r"adaLN|modulation"),
    ("flux2", "base_model-original", r"adaLN"),
    ("chroma", "kohya-original", r"linear1|_in|final|distilled"),
    ("qwen-image", "kohya", r"img_mod|txt_mod|mlp"),
    ("qwen-image", "comfyui", "$^"),
    ("qwen-image", "default", "$^"),
    ("z-image", "kohya-original", r"final|x_embedder|embedder|adaLN"),
    ("z-image", "comfyui", "$^"),
    ("z-image", "default", "$^"),
]


@pytest.mark.parametrize(("family", "name", "unread"), READ)
def test_what_diffusers_adds_is_the_same(folders: Folders, tmp_path: Path, family: str, name: str, unread: str) -> None:
    """By its own reading of the same file: the weights, and a prediction with them."""
    folder, file = folders(family), tmp_path / "style.safetensors"
    plain = load(folder)
    written(family, plain.transformer, NAMINGS[name], file, lambda layer: not re.search(unread, layer))
    ours = load(folder, loras=[(file, 0.5)])
    pipe = KINDS[family].pipeline.from_pretrained(folder, local_files_only=True)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=["transformer"], lora_scale=0.5)
    pipe.unload_lora_weights()
    changed = 0
    for (layer, weight), (_, theirs), (_, before) in zip(
        linear(ours.transformer), linear(pipe.transformer), linear(plain.transformer), strict=True
    ):
        torch.testing.assert_close(
            weight, theirs, rtol=1e-5, atol=1e-5, msg=lambda said, layer=layer: f"{layer}: {said}"
        )
        changed += not torch.equal(weight, before)
    assert changed >= 4
    x_t = torch.randn((1, ours.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    at, text = ours.levels(10, 256)[6], ours.embed("a cat on grass")
    with torch.inference_mode():
        found, before = ours.predict(x_t, at, text).eps, plain.predict(x_t, at, text).eps
        plain.transformer = plain.network = pipe.transformer
        expected = plain.predict(x_t, at, text).eps
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["kohya", "peft", "comfyui"])
def test_the_text_encoder_of_flux_is_that_of_diffusers(folders: Folders, tmp_path: Path, name: str) -> None:
    """CLIP, whose embedding of the whole prompt the network reads."""
    start = {"kohya": "lora_te1_", "peft": "text_encoder.", "comfyui": "text_encoders.clip_l.transformer."}[name]
    folder, file = folders("flux"), tmp_path / "style.safetensors"
    clip, random, tensors = load(folder).clip.network, torch.Generator().manual_seed(0), {}
    for i, (layer, weight) in enumerate(linear(clip)):
        old = start + f"text_model.{layer.removeprefix('text_model.')}"
        stem = old.replace(".", "_") if name == "kohya" else old
        down, up, alpha = DOTTED if name == "peft" else UNDERSCORED
        tensors[f"{stem}.{down}"] = torch.randn((2, weight.shape[1]), generator=random)
        tensors[f"{stem}.{up}"] = torch.randn((len(weight), 2), generator=random)
        tensors |= {f"{stem}.{alpha}": torch.tensor(1.0 + i)} if alpha else {}
    if name == "comfyui":  # a file with no layer of the transformer is none for diffusers
        tensors |= {"diffusion_model.double_blocks.0.img_mlp.2.lora_down.weight": torch.ones(1, 128),
                    "diffusion_model.double_blocks.0.img_mlp.2.lora_up.weight": torch.ones(32, 1)}  # fmt: skip
    save_file(tensors, file)
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True)
    before = {layer: weight.detach().clone() for layer, weight in linear(pipe.text_encoder)}
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=["text_encoder"], lora_scale=0.5)
    pipe.unload_lora_weights()
    ours = load(folder, loras=[(file, 0.5)])
    for (layer, weight), (_, theirs) in zip(linear(ours.clip.network), linear(pipe.text_encoder), strict=True):
        torch.testing.assert_close(weight, theirs, rtol=1e-5, atol=1e-5)
        assert not torch.equal(weight, before[layer])
    with torch.inference_mode():
        expected = pipe.encode_prompt("a cat on grass", prompt_2=None, device="cpu")[1]
        torch.testing.assert_close(ours.embed("a cat on grass").pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", ["lora_te3_", "text_encoders.t5xxl.transformer.", "text_encoder_2."])
def test_the_other_text_encoder_of_flux_is_changed_too(folders: Folders, tmp_path: Path, start: str) -> None:
    """T5: kohya's scripts train it, and diffusers leaves it out."""
    parts, file = networks(load(folders("flux")), "flux"), tmp_path / "style.safetensors"
    random, tensors, products = torch.Generator().manual_seed(0), {}, {}
    for layer, weight in linear(parts["text_encoder_2"]):
        stem = start + (layer.replace(".", "_") if start.endswith("_") else layer)
        A, B = (torch.randn(shape, generator=random) for shape in ((2, weight.shape[1]), (len(weight), 2)))
        tensors |= {f"{stem}.lora_down.weight": A, f"{stem}.lora_up.weight": B, f"{stem}.alpha": torch.tensor(1.0)}
        products["text_encoder_2", layer] = 0.5 * B @ A
    save_file(tensors, file)
    check(added(parts, file, 1.0, families.implementation("flux").LAYOUTS), products)


def test_pixart_takes_what_peft_writes(folders: Folders, tmp_path: Path) -> None:
    """Its pipeline loads no LoRAs: those of its training script are applied by PEFT."""
    model = load(folders("pixart"))
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "linear_1", "linear", "net.2"]
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    adapted = get_peft_model(load(folders("pixart")).transformer, settings)
    adapted.save_pretrained(tmp_path)
    expected = dict(linear(adapted.merge_and_unload()))
    before = dict(linear(model.transformer))
    ours = load(folders("pixart"), loras=[(tmp_path / "adapter_model.safetensors", 1.0)])
    for layer, weight in linear(ours.transformer):
        torch.testing.assert_close(weight, expected[layer], rtol=1e-5, atol=1e-5)
        assert torch.equal(weight, before[layer]) != layer.endswith(tuple(targets))


def test_bfloat16_weights_stay_in_that_format(folders: Folders, tmp_path: Path) -> None:
    plain, file = load(folders("z-image")), tmp_path / "style.safetensors"
    products = written("z-image", plain.transformer, NAMINGS["kohya-original"], file)
    half = families.load(folders("z-image"), "cpu", torch.bfloat16, loras=[(file, 1.0)]).transformer
    for layer, weight in linear(plain.transformer):
        expected = (weight + products["transformer", layer]).bfloat16()
        torch.testing.assert_close(half.get_submodule(layer).weight, expected, rtol=0, atol=0.02)
        assert half.get_submodule(layer).weight.dtype is torch.bfloat16


def test_a_lora_leaves_the_number_formats_as_they_are(folders: Folders, tmp_path: Path) -> None:
    """Some layers of T5 stay in float32 in a model in float16, as they overflow."""
    folder, file = folders("flux"), tmp_path / "style.safetensors"
    written("flux", load(folder).transformer, NAMINGS["peft"], file)
    models = [families.load(folder, "cpu", torch.float16, loras=loras) for loras in ([], [(file, 1.0)])]
    plain, adapted = (
        [weight.dtype for network in networks(model, "flux").values() for weight in network.parameters()]
        for model in models
    )
    assert plain == adapted
    assert set(plain) == {torch.float16, torch.float32}
