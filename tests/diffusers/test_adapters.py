"""LoRAs and textual inversions of the drop-in: as at loading, taken out bit for bit, and written as diffusers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import constants
from photographs import photograph
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffedit_cli.diffusers import StableDiffusionDiffEditPipeline
from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.engine.networks import families, offload
from diffedit_cli.errors import ModelError

LAYERS = {"unet": "attn2.to_q", "text_encoder": "self_attn.q_proj"}


@pytest.fixture
def pipeline(tiny_epsilon: Path) -> StableDiffusionDiffEditPipeline:
    found = StableDiffusionDiffEditPipeline.from_pretrained(tiny_epsilon)
    found.set_progress_bar_config(disable=True)
    return found


def layers(network: Any, ending: str, seed: int) -> dict[str, Tensor]:
    """Tensors of a LoRA of rank 2 by PEFT's names."""
    random, found = torch.Generator().manual_seed(seed), {}
    for name, module in network.named_modules():
        if name.endswith(ending):
            outputs, inputs = module.weight.shape
            found[f"{name}.lora_A.weight"] = 0.3 * torch.randn((2, inputs), generator=random)
            found[f"{name}.lora_B.weight"] = 0.3 * torch.randn((outputs, 2), generator=random)
    return found


def write(pipeline: StableDiffusionDiffEditPipeline, folder: Path, seed: int = 0) -> Path:
    unet, text = (layers(getattr(pipeline, part), ending, seed) for part, ending in LAYERS.items())
    StableDiffusionDiffEditPipeline.save_lora_weights(folder, unet_lora_layers=unet, text_encoder_lora_layers=text)
    return folder / "pytorch_lora_weights.safetensors"


def weights(pipeline: StableDiffusionDiffEditPipeline) -> dict[str, Tensor]:
    return {
        f"{part} {name}": weight.clone()
        for part in LAYERS
        for name, weight in getattr(pipeline, part).state_dict().items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def loaded(folder: Path, *loras: tuple[Path, float]) -> dict[str, Tensor]:
    """The weights of a model that diffedit loads with LoRAs."""
    model: Any = families.load(folder, "cpu", torch.float32, loras=loras)
    networks = {"unet": model.unet, "text_encoder": model.text_encoder}
    return {f"{part} {name}": one for part, network in networks.items() for name, one in network.state_dict().items()}


def test_written_files_are_those_of_diffusers(pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path) -> None:
    ours = write(pipeline, tmp_path / "ours")
    unet, text = (layers(getattr(pipeline, part), ending, 0) for part, ending in LAYERS.items())
    StableDiffusionPipeline.save_lora_weights(tmp_path / "theirs", unet, text)
    assert ours.read_bytes() == (tmp_path / "theirs" / ours.name).read_bytes()
    StableDiffusionDiffEditPipeline.save_lora_weights(
        tmp_path / "flow", transformer_lora_layers=unet, weight_name="style.safetensors"
    )
    assert all(name.startswith("transformer.") for name in load_file(tmp_path / "flow" / "style.safetensors"))
    with pytest.raises(InvalidArgument, match="nothing to write"):
        StableDiffusionDiffEditPipeline.save_lora_weights(tmp_path / "none")


def test_loras_are_fused_as_at_loading_and_taken_out_bit_for_bit(
    pipeline: StableDiffusionDiffEditPipeline, tiny_epsilon: Path, tmp_path: Path
) -> None:
    before = weights(pipeline)
    one, other = write(pipeline, tmp_path / "one", 0), write(pipeline, tmp_path / "other", 1)
    pipeline.load_lora_weights(one)
    assert equal(weights(pipeline), loaded(tiny_epsilon, (one, 1.0)))
    pipeline.load_lora_weights(tmp_path / "other", adapter_name="other", weight_name=other.name)
    assert equal(weights(pipeline), loaded(tiny_epsilon, (one, 1.0), (other, 1.0)))
    pipeline.set_adapters(["default_0", "other"], [0.5, 2.0])
    assert equal(weights(pipeline), loaded(tiny_epsilon, (one, 0.5), (other, 2.0)))
    pipeline.set_adapters("other")
    assert equal(weights(pipeline), loaded(tiny_epsilon, (other, 1.0)))
    pipeline.unload_lora_weights()
    assert equal(weights(pipeline), before)


def test_the_scale_of_a_call_is_that_of_its_loras(pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path) -> None:
    """Also in the text encoder, in every method; afterwards the LoRA is what it was."""
    pipeline.load_lora_weights(write(pipeline, tmp_path))
    before, arguments = weights(pipeline), {"prompt": "a cat", "image": photograph(), "num_inference_steps": 4}
    whole, half = (
        pipeline.invert(**arguments, cross_attention_kwargs={"scale": scale}).latents for scale in (1.0, 0.5)
    )
    assert equal(weights(pipeline), before)
    pipeline.set_adapters("default_0", 0.5)
    assert torch.equal(pipeline.invert(**arguments).latents, half)
    assert not torch.equal(whole, half)
    pipeline.set_adapters("default_0")
    like = pipeline.encode_prompt("a cat", lora_scale=0.0)[0]
    pipeline.unload_lora_weights()
    assert torch.equal(pipeline.encode_prompt("a cat")[0], like)


def test_fused_loras_stay(pipeline: StableDiffusionDiffEditPipeline, tiny_epsilon: Path, tmp_path: Path) -> None:
    file = write(pipeline, tmp_path)
    pipeline.load_lora_weights(file)
    pipeline.fuse_lora(lora_scale=0.7)
    pipeline.unload_lora_weights()
    assert equal(weights(pipeline), loaded(tiny_epsilon, (file, 0.7)))


def test_loras_stay_known_while_layers_are_offloaded(pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path) -> None:
    """Weights that wait elsewhere cannot be changed: a sentence says so, and nothing is forgotten."""
    before, file = weights(pipeline), write(pipeline, tmp_path)
    pipeline.load_lora_weights(file)
    pipeline._offload(offload.by_layer, "cpu")
    for change in (
        pipeline.unload_lora_weights,
        lambda: pipeline.set_adapters("default_0", 0.5),
        lambda: pipeline.encode_prompt("a cat", lora_scale=0.5),
        lambda: pipeline.load_lora_weights(file, adapter_name="again"),
    ):
        with pytest.raises(InvalidArgument, match="offloaded by layers; call remove_all_hooks"):
            change()
    pipeline.remove_all_hooks()
    pipeline.unload_lora_weights()
    assert equal(weights(pipeline), before)


def test_a_pipeline_of_shared_parts_knows_their_loras(
    pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path
) -> None:
    before = weights(pipeline)
    pipeline.load_lora_weights(write(pipeline, tmp_path))
    shared = StableDiffusionDiffEditPipeline.from_pipe(pipeline)
    with pytest.raises(InvalidArgument, match="A LoRA changes the unet"):
        StableDiffusionDiffEditPipeline.from_pipe(pipeline, unet=pipeline.unet)
    shared.unload_lora_weights()
    assert equal(weights(pipeline), before)
    pipeline.unload_lora_weights()
    assert equal(weights(shared), before)


def test_a_textual_inversion_is_a_word(
    pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file, and from a repository in the hub's cache."""
    vectors = pipeline.text_encoder.get_input_embeddings().weight
    snapshot = tmp_path / "models--me--toys" / "snapshots" / "0123"
    for folder in (snapshot, tmp_path / "models--me--toys" / "refs"):
        folder.mkdir(parents=True)
    (tmp_path / "models--me--toys" / "refs" / "main").write_text("0123")
    save_file({"<toy>": vectors[:1].detach().clone()}, snapshot / "learned_embeds.safetensors")
    save_file({"<pair>": vectors[1:3].detach().clone()}, tmp_path / "pair.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    pipeline.load_textual_inversion("me/toys")
    pipeline.load_textual_inversion([tmp_path / "pair.safetensors"], token=["<two>"])
    ids = pipeline.tokenizer("<toy> <two>")["input_ids"]
    assert len(ids) == 4
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids[1]], vectors[0])
    assert not torch.equal(*(pipeline.encode_prompt(words)[0] for words in ("<two>", "<toy>")))


def test_what_cannot_be_an_adapter(pipeline: StableDiffusionDiffEditPipeline, tmp_path: Path) -> None:
    before, good = weights(pipeline), write(pipeline, tmp_path / "good")
    save_file({"unet.conv_in.lora_A.weight": torch.ones(1, 9)}, tmp_path / "bad.safetensors")
    pipeline.load_lora_weights(good, adapter_name="good")
    with_it = weights(pipeline)
    for wrong, error, words in (
        (lambda: pipeline.load_lora_weights("nobody/nothing"), ModelError, "There is no file"),
        (lambda: pipeline.load_lora_weights({"tensor": torch.ones(1)}), InvalidArgument, "cannot be a dict"),
        (lambda: pipeline.load_lora_weights(good, adapter_name="good"), InvalidArgument, "already"),
        (lambda: pipeline.load_lora_weights(tmp_path / "bad.safetensors"), ModelError, "does not fit"),
        (lambda: pipeline.set_adapters("bad"), InvalidArgument, "no LoRA bad"),
        (lambda: pipeline.set_adapters(["good"], [1, 2]), InvalidArgument, "one for each"),
        (lambda: pipeline.load_textual_inversion([good], token="<one>"), InvalidArgument, "as many words"),
        (lambda: pipeline.load_textual_inversion(good), ModelError, "does not fit"),
    ):
        with pytest.raises(error, match=words):
            wrong()
        assert equal(weights(pipeline), with_it)
    pipeline.unload_lora_weights()
    assert equal(weights(pipeline), before)
