"""LoRAs and textual inversions: what they change, by numbers, in which files, and what does not fit."""

from __future__ import annotations

import math
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from command import FAST, WORDS, diffedit, settled
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from diffedit_cli.cli import config_file
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import families
from diffedit_cli.errors import ModelError
from diffedit_cli.images import codecs
from diffedit_cli.models import registry

FORMATS = ("tiny_epsilon", "tiny_sdxl", "tiny_sd3")
UNET_LAYERS = ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj", "proj_in", "resnets.0.conv1")
TRANSFORMER_LAYERS = ("attn.to_q", "attn.add_k_proj", "ff.net.0.proj")
TEXT_LAYERS = ("q_proj", "out_proj", "fc1")
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def load(folder: Path, dtype: torch.dtype = torch.float32, **additions: Any) -> Any:
    return families.load(folder, "cpu", dtype, name="tiny", **additions)


def networks(model: Any) -> dict[str, Any]:
    """What a LoRA may change, by part."""
    clips = [encoder.network for encoder in model.encoders][:2]
    denoiser = "transformer" if hasattr(model, "transformer") else "unet"
    return {denoiser: model.network} | dict(zip(("text_encoder", "text_encoder_2"), clips, strict=False))


def write_lora(model: Any, path: Path, *, kohya: bool, seed: int = 0) -> dict[tuple[str, str], Tensor]:
    """A LoRA whose ranks and alphas differ from layer to layer; returns alpha / r * B A by part and layer."""
    random, tensors, products = torch.Generator().manual_seed(seed), {}, {}
    for part, network in networks(model).items():
        endings = {"unet": UNET_LAYERS, "transformer": TRANSFORMER_LAYERS}.get(part, TEXT_LAYERS)
        for i, layer in enumerate(name for name, _ in network.named_modules() if name.endswith(endings)):
            weight, rank, alpha = network.get_submodule(layer).weight, 2 + i % 3, 1.0 + i % 4
            A = 0.3 * torch.randn((rank, *weight.shape[1:]), generator=random)
            B = 0.3 * torch.randn((len(weight), rank, *[1] * (weight.ndim - 2)), generator=random)
            if kohya:
                old = f"text_model.{layer.removeprefix('text_model.')}" if part.startswith("text") else layer
                one = KOHYA[part] if "text_encoder_2" in networks(model) else KOHYA[part].replace("te1", "te")
                key = one + old.replace(".", "_")
                names = (f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha")
                tensors |= dict(zip(names, (A, B, torch.tensor(alpha)), strict=True))
            else:
                tensors |= {f"{part}.{layer}.lora_A.weight": A, f"{part}.{layer}.lora_B.weight": B}
            share = alpha / rank if kohya else 1.0
            products[part, layer] = share * (B.flatten(1) @ A.flatten(1)).reshape(weight.shape)
    save_file(tensors, path)
    return products


@pytest.fixture(params=[("tiny_epsilon", True), ("tiny_epsilon", False), ("tiny_sdxl", True), ("tiny_sdxl", False),
                        ("tiny_sd3", False)], ids=lambda one: f"{one[0]}-{'kohya' if one[1] else 'peft'}")  # fmt: skip
def lora(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Any, dict[tuple[str, str], Tensor]]:
    """A model's folder, a LoRA for it, the model as it is, and the LoRA's products."""
    folder = request.getfixturevalue(request.param[0])
    model, path = load(folder), tmp_path / "style.safetensors"
    return folder, path, model, write_lora(model, path, kohya=request.param[1])


# LoRA


@pytest.mark.thorough
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_fused_weights_are_the_sum(lora: Any, scale: float) -> None:
    folder, path, model, products = lora
    fused = networks(load(folder, loras=[(path, scale)]))
    for part, network in networks(model).items():
        for name, weight in network.state_dict().items():
            product = products.get((part, name.removesuffix(".weight")), torch.zeros(1))
            given = fused[part].state_dict()[name]
            torch.testing.assert_close(given, weight + scale * product, rtol=0, atol=1e-5)
    assert len(products) > 8
    assert min(product.abs().max() for product in products.values()) > 0.1


def test_loras_add_up_and_a_scale_of_0_is_none(tiny_epsilon: Path, tmp_path: Path) -> None:
    model = load(tiny_epsilon)
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    first, second = (write_lora(model, path, kohya=True, seed=seed) for seed, path in enumerate(files))
    fused = networks(load(tiny_epsilon, loras=[(files[0], 0.5), (files[1], 2.0)]))
    for part, layer in first:
        expected = (
            networks(model)[part].get_submodule(layer).weight + 0.5 * first[part, layer] + 2 * second[part, layer]
        )
        torch.testing.assert_close(fused[part].get_submodule(layer).weight, expected, rtol=0, atol=1e-5)
    nothing = load(tiny_epsilon, loras=[(files[0], 0.0)])
    assert torch.equal(nothing.embed("a cat").tokens, model.embed("a cat").tokens)


def test_prompts_and_predictions_are_those_of_diffusers(tiny_epsilon: Path, tmp_path: Path) -> None:
    """Diffusers leaves the LoRA beside the weights, and mixes up alphas that differ; these are all the rank."""
    model, path = load(tiny_epsilon), tmp_path / "style.safetensors"
    write_lora(model, path, kohya=False)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_epsilon, local_files_only=True)
    pipe.load_lora_weights(str(path), adapter_name="style")
    pipe.set_adapters(["style"], adapter_weights=[0.7])
    model = load(tiny_epsilon, loras=[(path, 0.7)])
    tokens, _ = pipe.encode_prompt("a cat", "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(model.embed("a cat").tokens, tokens, rtol=0, atol=1e-4)
    x_t = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    at = model.levels(10)[5]
    theirs = pipe.unet(x_t, at.timestep, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(model.predict(x_t, at, Embedding(tokens)).eps, theirs, rtol=0, atol=1e-4)
    assert (theirs - load(tiny_epsilon).predict(x_t, at, Embedding(tokens)).eps).abs().max() > 1e-2


def test_half_precision_with_a_lora_can_be_left(tiny_epsilon: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    write_lora(load(tiny_epsilon), path, kohya=True)
    half, full = load(tiny_epsilon, torch.float16, loras=[(path, 1.0)]), load(tiny_epsilon, loras=[(path, 1.0)])
    before = half.embed("a cat").tokens
    assert (half.dtype_name, before.dtype) == ("float16", torch.float16)
    with half.in_float32():
        torch.testing.assert_close(half.embed("a cat").tokens, full.embed("a cat").tokens, rtol=0.05, atol=0.05)
    assert torch.equal(half.embed("a cat").tokens, before)


# Textual inversion


def vectors(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["diffusers", "emb_params"])
def test_embeddings_are_those_of_diffusers(tiny_epsilon: Path, tmp_path: Path, form: str, count: int) -> None:
    path, tensor = tmp_path / "toy.safetensors", vectors(count, tiny.TEXT_WIDTH)
    save_file({"<toy>" if form == "diffusers" else form: tensor}, path)
    model = load(tiny_epsilon, embeddings=[(path, None if form == "diffusers" else "<toy>")])
    pipe = StableDiffusionPipeline.from_pretrained(tiny_epsilon, local_files_only=True)
    pipe.load_textual_inversion({"<toy>": tensor})
    for prompt in ("a <toy> on grass", "a <TOY>", "a cat", "<toy> " * 40):
        expected, _ = pipe.encode_prompt(prompt.lower(), "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(model.embed(prompt).tokens, expected, rtol=0, atol=1e-5)
    assert torch.equal(model.embed("a cat").tokens, load(tiny_epsilon).embed("a cat").tokens)
    assert not torch.equal(model.embed("a <toy>").tokens, load(tiny_epsilon).embed("a <toy>").tokens)
    assert "longer than the 75 tokens" in model.prompt_warning("<toy> " * (75 // count + 1))
    assert model.prompt_warning("<toy> " * (75 // count)) is None


def test_xl_reads_vectors_for_both_encoders(tiny_sdxl: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    tensors = {"clip_l": vectors(2, tiny.TEXT_WIDTH), "clip_g": vectors(2, tiny.TEXT_WIDTH_2, seed=1)}
    save_file(tensors, path)
    model = load(tiny_sdxl, embeddings=[(path, None)])  # the file's name is the token
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, local_files_only=True)
    for tensor, which in zip(tensors.values(), ("", "_2"), strict=True):
        parts = {part: getattr(pipe, part + which) for part in ("tokenizer", "text_encoder")}
        pipe.load_textual_inversion({"toy": tensor}, token="toy", **parts)
    tokens, _, pooled, _ = pipe.encode_prompt("a toy on grass", prompt_2=None, device="cpu")
    ours = model.embed("a toy on grass")
    torch.testing.assert_close(ours.tokens, tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-5)


def test_the_end_of_a_prompt_stays_its_end(tiny_sdxl: Path, tmp_path: Path) -> None:
    """The text encoders of Stable Diffusion ship with an id for it that makes CLIP look for the highest id instead."""
    copy, path = Path(shutil.copytree(tiny_sdxl, tmp_path / "model")), tmp_path / "toy.safetensors"
    save_file({"clip_l": vectors(1, tiny.TEXT_WIDTH), "clip_g": vectors(1, tiny.TEXT_WIDTH_2)}, path)
    expected = load(copy, embeddings=[(path, None)]).embed("a toy on grass").pooled
    for part in ("text_encoder", "text_encoder_2"):
        config = copy / part / "config.json"
        config.write_text(
            config.read_text().replace(f'"eos_token_id": {len(tiny.vocabulary()[0]) - 1}', '"eos_token_id": 2')
        )
        assert '"eos_token_id": 2,' in config.read_text()
    assert torch.equal(load(copy, embeddings=[(path, None)]).embed("a toy on grass").pooled, expected)


def test_a_closed_vocabulary_learns_the_word_and_no_other(tmp_path: Path) -> None:
    width = load(tiny.BUILTIN).clip.width
    save_file({"emb_params": vectors(2, width)}, tmp_path / "toy.safetensors")
    model = load(tiny.BUILTIN, embeddings=[(tmp_path / "toy.safetensors", None)])
    assert not torch.equal(model.embed("a toy").tokens, model.embed("a cat").tokens)
    with pytest.raises(registry.ModelError, match=r'does not know "zebra".* toy'):
        model.embed("a toy and a zebra")


# By the command line


@pytest.mark.thorough
def test_every_stage_is_another_with_them(tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is computed anew, says what was added, and is repeated by what `info` says; stages of both do not mix."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    write_lora(load(tiny_epsilon), tmp_path / "style.safetensors", kohya=True)
    save_file({"<toy>": vectors(2, tiny.TEXT_WIDTH)}, tmp_path / "toy.safetensors")
    prompts, added = (
        ("--from", "cat", "--to", "<toy>"),
        ("--lora", "style.safetensors:0.5", "--embedding", "toy.safetensors"),
    )
    assert diffedit("edit", "cat.png", *prompts).code == 0
    plain = (tmp_path / "cat.edited.png").read_bytes()
    ran = diffedit("edit", "cat.png", *prompts, *added, "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["cache"].values()) == {"miss"}
    assert (tmp_path / "cat.edited.png").read_bytes() != plain
    assert " ".join(added) in diffedit("info", "cat.edited.png").out.decode().splitlines()[-1]
    again = diffedit("edit", "cat.png", *prompts, *added, "--json", "--force")
    assert set(again.json["cache"].values()) == {"hit"}
    shutil.copy("style.safetensors", "renamed.safetensors")
    renamed = ("--lora", "renamed.safetensors:0.5", *added[2:])
    assert diffedit("edit", "cat.png", *prompts, *renamed, "--json", "--force").json["cache"]["mask"] == "hit"
    for other in (("--lora", "style.safetensors", *added[2:]), added[:2], (*added, "--lora", "style.safetensors:0.1")):
        assert diffedit("edit", "cat.png", *prompts, *other, "--json").json["cache"]["mask"] == "miss"

    assert diffedit("invert", "cat.png", *added[:2]).code == 0
    ran = diffedit("edit", "cat.png", *WORDS, "--latents", "cat.latents.safetensors", "-o", "x.png")
    assert ran.code == 3
    assert f"was made for model {tiny_epsilon} + style.safetensors:0.5, not {tiny_epsilon};" in ran.err


def test_settings_and_environment_take_one_or_several(
    tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    write_lora(load(tiny_epsilon), tmp_path / "a.safetensors", kohya=True)
    shutil.copy("a.safetensors", "b.safetensors")
    said = {"lora = 'a.safetensors:2'": ["a.safetensors:2"],
            "lora = ['a.safetensors', 'b.safetensors']": ["a.safetensors", "b.safetensors"]}  # fmt: skip
    own = tmp_path / "config" / "diffedit.toml"
    own.parent.mkdir()
    monkeypatch.setattr(config_file, "users_file", lambda: own)
    for text, expected in said.items():
        own.write_text(text)
        assert diffedit("invert", "cat.png").code == 0
        assert diffedit("info", "cat.latents.safetensors", "--json").json["lora"] == expected
    monkeypatch.setenv("DIFFEDIT_LORA", "b.safetensors:0.5 a.safetensors")
    assert diffedit("invert", "cat.png").code == 0
    assert diffedit("info", "cat.latents.safetensors", "--json").json["lora"] == ["b.safetensors:0.5", "a.safetensors"]
    Path("diffedit.toml").write_text("steps = ['3']")
    ran = diffedit("invert", "cat.png")
    assert ran.code == 2
    assert "setting steps in diffedit.toml must be a single value" in ran.err


@pytest.mark.thorough
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_model_saved_with_them_is_the_same_as_with_them(
    request: pytest.FixtureRequest, format: str, variant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(format), tmp_path / "model"))
    if variant:
        for path in folder.rglob("*model.safetensors"):
            half = {name: tensor.half() for name, tensor in models_tensors(path).items()}
            path.unlink()
            save_file(half, path.with_suffix(f".{variant}.safetensors"), {"format": "pt"})
    settled(tmp_path, folder, monkeypatch)
    write_lora(load(request.getfixturevalue(format)), tmp_path / "style.safetensors", kohya=format != "tiny_sd3")
    widths = {"clip_l": tiny.TEXT_WIDTH, "clip_g": tiny.TEXT_WIDTH_2}
    many = {key: vectors(2, width) for key, width in widths.items()}
    save_file({"<toy>": many["clip_l"]} if format == "tiny_epsilon" else many, tmp_path / "toy.safetensors")
    added = ("--lora", "style.safetensors:0.5", "--embedding", "toy.safetensors:<toy>")
    ran = diffedit("models", "save", "saved", *added)
    assert ran.code == 0, ran.err
    assert registry.find("saved").variant == variant
    prompts = ("--from", "cat", "--to", "a <toy>")
    for name, words in {"one.png": added, "two.png": ("--model", "saved")}.items():
        ran = diffedit("edit", "cat.png", *prompts, *words, "-o", name, *FAST)
        assert ran.code == 0, ran.err
    first, second = (np.asarray(Image.open(name)) for name in ("one.png", "two.png"))
    assert (first == second).all()
    assert (first != np.asarray(codecs.load(Path("cat.png")).image)).any()


def test_a_disk_that_does_not_take_them(tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors has an error of its own for that."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    write_lora(load(tiny_epsilon), tmp_path / "style.safetensors", kohya=True)
    write_changed, before = families.write_changed, resource.getrlimit(resource.RLIMIT_FSIZE)

    def without_room(*args: Any, **options: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        try:
            write_changed(*args, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(families, "write_changed", without_room)
    ran = diffedit("models", "save", "saved", "--lora", "style.safetensors")
    assert (ran.code, Path("saved").exists()) == (6, False)
    assert "The folder saved cannot be written: File too large;" in ran.err


def models_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))


# What does not fit


def test_what_does_not_fit_is_named(
    tiny_epsilon: Path, tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    own, other = load(tiny_epsilon), load(tiny_sdxl)
    write_lora(own, Path("own.safetensors"), kohya=True)
    write_lora(other, Path("xl.safetensors"), kohya=True)
    for name, key in (("away", "unet.elsewhere.lora_A.weight"), ("bare", "transformer_blocks.lora_A.weight"),
                      ("dora", "lora_unet_conv_in.dora_scale"), ("alpha", "lora_unet_conv_in.alpha")):  # fmt: skip
        save_file({key: torch.ones(2, 2)}, f"{name}.safetensors")
    wide = {key: torch.cat([tensor] * 2, dim=1) if key.endswith("A.weight") else tensor
            for key, tensor in peft(own).items()}  # fmt: skip
    save_file(wide, "wide.safetensors")
    save_file({"unet.weight": torch.ones(2)}, "none.safetensors")
    save_file({"<toy>": vectors(1, 7)}, "narrow.safetensors")
    save_file({"clip_l": vectors(1, 32), "clip_g": vectors(1, 48)}, "two.safetensors")
    save_file({"cat": vectors(1, 32)}, "cat.safetensors")
    torch.save({"lora": torch.ones(2)}, "pickled.safetensors")
    Path("text.safetensors").write_text("words")
    cases = {
        "--lora xl.safetensors": (4, "The LoRA xl.safetensors does not fit the model", "fc1", "does not have"),
        "--lora away.safetensors": (4, "unet.elsewhere, which that model does not have"),
        "--lora bare.safetensors": (4, "transformer_blocks", "which that model does not have"),
        "--lora dora.safetensors": (4, "it is a DoRA"),
        "--lora alpha.safetensors": (4, "it contains no weights"),
        "--lora wide.safetensors": (4, "has width", "and that model's"),
        "--lora none.safetensors": (4, "none.safetensors is not a LoRA"),
        "--lora pickled.safetensors": (4, "pickled.safetensors is a pickled file"),
        "--lora text.safetensors": (4, "text.safetensors is not a .safetensors LoRA"),
        "--lora missing.safetensors:0.5": (4, "There is no LoRA file missing.safetensors;"),
        "--lora own.safetensors:nan": (2, "has no scale"),
        "--embedding narrow.safetensors": (4, "width 7, and that model's 32"),
        "--embedding two.safetensors": (4, "holds clip_g, clip_l, and that model needs one tensor"),
        "--embedding cat.safetensors:cat</w>": (4, 'The token "cat</w>"', "give it another"),
        "--embedding pickled.safetensors": (4, "pickled.safetensors is a pickled file"),
        "--embedding missing.safetensors": (4, "There is no embedding file missing.safetensors;"),
        "--embedding narrow.safetensors:": (2, "has no token"),
    }
    for words, (code, *says) in cases.items():
        ran = diffedit("mask", "cat.png", *WORDS, *words.split())
        assert ran.code == code, (words, ran.err)
        assert all(said in ran.lines[-1] for said in says), (words, ran.err)
        assert ran.lines[-1].endswith("."), ran.err
        assert "Traceback" not in ran.err
    assert not Path("cat.mask.png").exists()
    ran = diffedit("models", "save", "saved", "--lora", "wide.safetensors")
    assert (ran.code, Path("saved").exists()) == (4, False)
    ran = diffedit("mask", "cat.png", *WORDS, "--model", tiny_sdxl, "--embedding", "narrow.safetensors")
    assert "that model needs clip_l and clip_g" in ran.err


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (torch.zeros(()), "does not hold vectors"),
        (torch.zeros(0, 32), "holds 0 vectors"),
        (torch.zeros(20_000, 32), "holds 20000 vectors, and a prompt takes 1 to 75"),
        (torch.full((1, 32), math.nan), "values that are not finite"),
        (torch.zeros(1, 32, dtype=torch.complex64), "does not hold vectors"),
        (torch.zeros(2, 2, 32), "does not hold vectors"),
    ],
    ids=str,
)
def test_what_are_no_vectors_is_refused(tiny_epsilon: Path, tmp_path: Path, vectors: Tensor, says: str) -> None:
    save_file({"<toy>": vectors}, tmp_path / "toy.safetensors")
    with pytest.raises(ModelError, match=says):
        load(tiny_epsilon, embeddings=[(tmp_path / "toy.safetensors", None)])


def peft(model: Any) -> dict[str, Tensor]:
    path = Path("peft.safetensors")
    write_lora(model, path, kohya=False)
    return models_tensors(path)
