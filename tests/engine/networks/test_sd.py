"""Models in Stable Diffusion's format: what loads, what is refused and why, words, pictures."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from tiny import BUILTIN, DDIM, TEXT_WIDTH, unet, write_json
from torch import Tensor

from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.process import Level
from diffedit_cli.errors import ModelError

NETWORKS = {
    "vae": "diffusion_pytorch_model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    return StableDiffusion.load(folder, "cpu", dtype, name="tiny")


def picture(size: int) -> Tensor:
    return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def tiny(tiny_epsilon: Path) -> StableDiffusion:
    return load(tiny_epsilon)


# Loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loads_and_predicts(tiny_epsilon: Path, tiny_v: Path, prediction_type: str, dtype: torch.dtype) -> None:
    model = load(tiny_epsilon if prediction_type == "epsilon" else tiny_v, dtype)
    assert model.prediction_type == prediction_type
    assert model.dtype_name == str(dtype).removeprefix("torch.")
    assert (model.native_size, model.multiple) == (64, 8)

    x_t, at = model.encode(picture(64)), model.levels(10)[5]
    assert (x_t.shape, x_t.dtype) == ((1, 4, 16, 16), torch.float32)
    seen = model.predict(x_t.repeat(3, 1, 1, 1), at, model.embed("a cat"))
    assert (seen.eps.shape, seen.eps.dtype) == ((3, 4, 16, 16), torch.float32)
    torch.testing.assert_close(at.a * seen.x_0 + at.b * seen.eps, x_t.expand(3, -1, -1, -1))
    assert model.evaluations == 3
    decoded = model.decode(x_t)
    assert (decoded.shape, decoded.dtype) == ((1, 3, 64, 64), torch.float32)
    assert -1 <= decoded.min() < decoded.max() <= 1


def test_half_precision_says_nearly_the_same_and_can_be_left(tiny_v: Path) -> None:
    half, whole = load(tiny_v, torch.bfloat16), load(tiny_v)
    x_t = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    at = whole.levels(10)[5]

    def eps(model: StableDiffusion) -> Tensor:
        return model.predict(x_t, at, model.embed("a cat on grass")).eps

    torch.testing.assert_close(eps(half), eps(whole), rtol=0.1, atol=0.1)
    assert not torch.equal(eps(half), eps(whole))
    before = eps(half)
    with half.in_float32():
        assert half.dtype_name == "float32"
        assert half.embed("a cat on grass").tokens.dtype == torch.float32
        torch.testing.assert_close(eps(half), eps(whole), rtol=0.1, atol=0.1)
    assert half.dtype_name == "bfloat16"
    assert torch.equal(eps(half), before)


def test_the_network_is_asked_with_the_timestep_and_the_text(tiny: StableDiffusion) -> None:
    x_t, text = torch.randn(1, 4, 16, 16), tiny.embed("a cat")
    expected = tiny.unet(x_t, 501, encoder_hidden_states=text.tokens).sample
    assert torch.equal(tiny.predict(x_t, Level(501, 0.6, 0.8), text).eps, expected)
    assert not torch.equal(tiny.predict(x_t, Level(101, 0.6, 0.8), text).eps, expected)
    assert not torch.equal(tiny.predict(x_t, Level(501, 0.6, 0.8), tiny.embed("a dog")).eps, expected)


# What cannot be loaded


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^The model tiny has no vae: \S+nowhere is not a complete"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ModelError, match=rf"^The model tiny has no {part}: {copy} is not a complete"):
        load(copy)


def read(weights: Path) -> dict[str, Tensor]:
    return safetensors.torch.load(weights.read_bytes())


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1000])


def pickle(weights: Path) -> None:
    """The name promises .safetensors, the content is a pickle."""
    torch.save(read(weights), weights)


def rename_to_bin(weights: Path) -> None:
    torch.save(read(weights), weights.with_name(weights.name.replace(".safetensors", ".bin")))
    if weights.name.startswith("model"):
        weights.with_name("model.bin").rename(weights.with_name("pytorch_model.bin"))
    weights.unlink()


def lose_one(weights: Path) -> None:
    tensors = read(weights)
    del tensors[min(tensors)]
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})


def break_config(weights: Path) -> None:
    weights.with_name("config.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, pickle, rename_to_bin, lose_one, break_config])
@pytest.mark.parametrize("part", NETWORKS)
def test_a_damaged_network_is_named(copy: Path, part: str, damage: Callable[[Path], None]) -> None:
    damage(copy / part / NETWORKS[part])
    with pytest.raises(ModelError, match=rf"^The model tiny cannot be loaded, its {part} .* {copy} is a "):
        load(copy)


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "tokenizer/vocab.json"])
def test_a_damaged_file_is_named(copy: Path, file: str) -> None:
    (copy / file).write_text("{")
    with pytest.raises(ModelError, match=rf"^The model tiny cannot be loaded, its {Path(file).parent} "):
        load(copy)


def test_an_inpainting_model_does_not_fit(copy: Path) -> None:
    unet(copy / "unet", channels=9, width=TEXT_WIDTH)
    with pytest.raises(ModelError, match=r"^The model tiny .* takes 9 channels .* gives 4; .* can only be a --painter"):
        load(copy)


def test_a_text_encoder_of_another_width_does_not_fit(copy: Path) -> None:
    unet(copy / "unet", channels=4, width=48)
    with pytest.raises(ModelError, match=r"^The model tiny .* width 48 .* gives 32\.$"):
        load(copy)


def test_a_flow_model_does_not_fit(copy: Path) -> None:
    write_json(copy / "scheduler" / "scheduler_config.json", DDIM | {"prediction_type": "flow_prediction"})
    with pytest.raises(ModelError, match=r"^The model tiny predicts flow_prediction; .* v_prediction"):
        load(copy)


# Pictures


def test_encoding_is_the_posterior_mean(tiny: StableDiffusion, tiny_epsilon: Path) -> None:
    posterior = AutoencoderKL.from_pretrained(tiny_epsilon / "vae").encode(picture(64)).latent_dist
    assert torch.equal(tiny.encode(picture(64)), tiny.encode(picture(64)))
    torch.testing.assert_close(tiny.encode(picture(64)), 3.0 * posterior.mode())


def test_decoding_undoes_the_scaling(tiny: StableDiffusion, tiny_epsilon: Path) -> None:
    latents = torch.randn((1, 4, 16, 8), generator=torch.Generator().manual_seed(0))
    expected = AutoencoderKL.from_pretrained(tiny_epsilon / "vae").decode(latents / 3.0).sample
    torch.testing.assert_close(tiny.decode(latents), expected.clamp(-1, 1))


def test_any_size_of_the_models_multiple_works(tiny: StableDiffusion) -> None:
    x_0 = tiny.encode(picture(64)[..., : 3 * tiny.multiple])
    seen = tiny.predict(x_0, tiny.levels(10)[5], tiny.embed("a cat"))
    assert seen.eps.shape == x_0.shape == (1, 4, 16, 3 * tiny.multiple // 4)
    assert tiny.decode(x_0).shape == (1, 3, 64, 3 * tiny.multiple)


# Words


@pytest.mark.parametrize("prompt", ["a cat on grass", "", "a cat " * 60])
def test_embeddings_are_those_of_diffusers(tiny: StableDiffusion, tiny_epsilon: Path, prompt: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None, local_files_only=True)
    expected, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(tiny.embed(prompt).tokens, expected)


@pytest.mark.parametrize("prompt", ["a cat and a zebra on grass", "Zebra", "a cat on grass zebra"])
def test_an_unknown_word_is_an_error_that_lists_the_known_ones(builtin: StableDiffusion, prompt: str) -> None:
    with pytest.raises(ModelError, match=r'(?i)^The model builtin does not know "zebra"; .*: .*--model') as error:
        builtin.embed(prompt)
    known = str(error.value).split(": ")[1].split(".")[0].split(", ")
    assert {"cat", "dog", "grass"} <= set(known)
    for word in known:
        builtin.embed(word)


def test_prompts_are_embedded_once_but_not_kept_for_ever(tiny: StableDiffusion) -> None:
    first = weakref.ref(tiny.embed("a cat").tokens)
    assert tiny.embed("a cat").tokens is first()
    for count in range(1, 200):
        tiny.embed("cat" + count * " ")
    assert first() is None


def test_a_large_vocabulary_spells_every_word(tiny: StableDiffusion) -> None:
    assert not torch.equal(tiny.embed("a zebra").tokens, tiny.embed("a giraffe").tokens)


@pytest.mark.parametrize("model", ["tiny", "builtin"])
def test_case_does_not_matter(request: pytest.FixtureRequest, model: str) -> None:
    loaded: StableDiffusion = request.getfixturevalue(model)
    assert torch.equal(loaded.embed("A Cat on GRASS").tokens, loaded.embed("a cat on grass").tokens)
    assert not torch.equal(loaded.embed("a cat on grass").tokens, loaded.embed("a dog on grass").tokens)


@pytest.mark.parametrize("model", ["tiny", "builtin"])
def test_what_is_too_long_to_be_read_is_told(request: pytest.FixtureRequest, model: str) -> None:
    loaded: StableDiffusion = request.getfixturevalue(model)
    room = loaded.tokenizer.model_max_length - 2
    assert loaded.prompt_warning("cat " * room) is None
    warning = loaded.prompt_warning("cat " * room + "dog grass")
    assert warning is not None
    assert f"{room} tokens" in warning
    assert '"dog grass"' in warning
    assert torch.equal(loaded.embed("cat " * room + "dog grass").tokens, loaded.embed("cat " * room).tokens)


# The built-in model's folder


def test_the_built_in_folder_is_small_float16_safetensors() -> None:
    files = [path for path in BUILTIN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30_000_000
    assert not {".bin", ".pt", ".pth", ".ckpt", ".pkl"} & {path.suffix for path in files}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == set(NETWORKS)
    for path in weights:
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_the_built_in_folder_is_a_stable_diffusion_for_diffusers() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(BUILTIN, local_files_only=True).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.unet, UNet2DConditionModel)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor

    def draw(prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = pipe(prompt, num_inference_steps=2, generator=generator, output_type="pt").images
        return torch.as_tensor(images)

    drawn = draw("a cat on grass")
    assert drawn.shape == (1, 3, size, size)
    assert drawn.std() > 0.02
    assert not torch.equal(drawn, draw("a dog on grass"))
