"""Quantised networks: near the full ones, the same from the cache, with LoRAs, offloaded, and in float32."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformers
import torch
from command import WORDS, diffedit, picture, settled
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from diffedit_cli.engine.networks import families, quantisation
from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.models import adapters, loader, quantised_copies, registry
from diffedit_cli.models.memory import OffloadOptions
from diffedit_cli.storage.cache import Cache

KINDS = ("fp8", "int8", "nf4")
ERROR = {"fp8": 0.06, "int8": 0.02, "nf4": 0.2}  # of a prediction, relative to its size


def write_wide_flux(folder: Path) -> Path:
    """Writes a tiny FLUX.1 whose layers have the multiples of 64 inputs and 32 outputs that nf4 needs."""
    tiny_transformers.write_flux(folder)
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=128, pooled_projection_dim=tiny.TEXT_WIDTH, guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    config = T5Config(
        vocab_size=len(tiny.t5_vocabulary()), d_model=128, d_kv=32, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder / "text_encoder_2")
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_flux(tmp_path_factory.mktemp("wide") / "flux")


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    return families.load(folder, "cpu", dtype, name="tiny", **options)


@torch.inference_mode()
def results(model: Any) -> list[Tensor]:
    """Prompt embeddings and a prediction."""
    x_t = torch.randn((1, model.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    text = model.embed("a cat on grass")
    return [text.tokens.float(), model.predict(x_t, model.levels(10)[5], text).eps]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_near_the_full_ones_and_weights_are_small(flux: Path, kind: str, dtype: torch.dtype) -> None:
    full, small = load(flux, dtype), load(flux, dtype, quantize=kind)
    for found, expected in zip(results(small), results(full), strict=True):
        assert 1e-5 < error(found, expected) < ERROR[kind]
    for network in (small.network, small.t5.network):
        assert quantisation.is_quantised(network)
    for network in (small.vae, small.clip.network):  # CLIP's is small
        assert not quantisation.is_quantised(network)
    layer = "transformer_blocks.0.ff.net.2.weight"
    sizes = dict(quantisation._tensors(small.network))
    bits = {"fp8": 8, "int8": 8, "nf4": 4}[kind]
    stored = sizes.get(layer, sizes.get(f"{layer}.qdata"))
    assert stored.nbytes * 8 == 64 * 256 * bits
    assert small.network.context_embedder.weight.dtype == dtype  # outside of the blocks
    assert small.dtype_name == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_full_weights_go_one_by_one(flux: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer is quantised, those before it hold their full weights no more."""
    network, left = load(flux).network, []
    change = getattr(quantisation, f"_to_{kind}")
    full: list[weakref.ref[Any]] = []

    def watched(network: nn.Module, name: str, layer: nn.Linear, *rest: Any) -> None:
        left.append(sum(weight() is not None for weight in full))
        full.append(weakref.ref(layer.weight))
        change(network, name, layer, *rest)

    monkeypatch.setattr(quantisation, f"_to_{kind}", watched)
    quantisation.quantise(network, kind, torch.float32, "cpu")
    assert len(left) > 10
    assert max(left) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_can_be_left(flux: Path, kind: str) -> None:
    """In float32 the layers compute in float32 with the same weights, and everything is as before afterwards."""
    half, full = load(flux, torch.bfloat16, quantize=kind), load(flux, torch.float32, quantize=kind)
    before, (_, expected) = results(half), results(full)
    with half.in_float32():
        assert half.dtype_name == "float32"
        assert error(results(half)[1], expected) < error(before[1], expected) / 4
        assert half.embed("a cat").tokens.dtype == torch.float32
    for found, expected in zip(results(half), before, strict=True):
        assert torch.equal(found, expected)
    assert half.dtype_name == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_networks_can_wait_in_main_memory(flux: Path, kind: str) -> None:
    for found, expected in zip(
        results(load(flux, quantize=kind, offload="model")), results(load(flux, quantize=kind)), strict=True
    ):
        assert torch.equal(found, expected)
    with pytest.raises(UsageError, match="--offload sequential cannot move"):
        OffloadOptions(offload="sequential", quantize=kind)
    if kind == "fp8":
        for found, expected in zip(
            results(load(flux, quantize=kind, offload="group")), results(load(flux, quantize=kind)), strict=True
        ):
            assert torch.equal(found, expected)
    else:
        with pytest.raises(UsageError, match="--offload group cannot move the layers of --quantize"):
            OffloadOptions(offload="group", quantize=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_loras_are_fused_before(tiny_sdxl: Path, tmp_path: Path, kind: str) -> None:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 128, generator=generator), torch.randn(32, 4, generator=generator)
    save_file({f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    plain = load(tiny_sdxl, quantize=kind)
    fused = load(tiny_sdxl, quantize=kind, loras=[(tmp_path / "lora.safetensors", 0.1)])
    full = load(tiny_sdxl, loras=[(tmp_path / "lora.safetensors", 0.1)])
    assert error(results(fused)[1], results(full)[1]) < ERROR[kind]
    assert error(results(plain)[1], results(full)[1]) > 2 * error(results(fused)[1], results(full)[1])


def test_every_family_loads(tmp_path: Path) -> None:
    """int8, whose layers may have any size."""
    for write in (
        tiny.write_model, tiny.write_sd3, tiny_transformers.write_flux2, tiny_transformers.write_z_image,
        tiny_transformers.write_chroma, tiny_transformers.write_qwen_image, tiny_transformers.write_pixart,
    ):  # fmt: skip
        folder = write(tmp_path / write.__name__)
        small, full = load(folder, quantize="int8"), load(folder)
        for found, expected in zip(results(small), results(full), strict=True):
            assert error(found, expected) < 0.05
        assert quantisation.is_quantised(small.network)


def kept(flux: Path, root: Path, kind: str, **options: Any) -> tuple[list[Tensor], list[Path]]:
    folder = registry.find(str(flux), kept=root, **options)
    model = loader.Loader().load(folder, "cpu", "float32", OffloadOptions(quantize=kind))
    return results(model), sorted(root.glob("models/*/*"))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_weights_are_made_once(
    flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The second load reads them, with the same results to the last bit; the cache may remove them."""
    first, files = kept(flux, tmp_path, kind)
    assert [path.name for path in files] == ["text_encoder_2.safetensors", "transformer.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(quantisation, "quantise", lambda *_: pytest.fail("they are made again"))
        second, _ = kept(flux, tmp_path, kind)
    for found, expected in zip(second, first, strict=True):
        assert torch.equal(found, expected)
    (entry,) = [entry for entry in Cache(tmp_path).entries() if entry.kind == "model"]
    assert entry.size == sum(path.stat().st_size for path in files)
    Cache(tmp_path).prune(0)
    assert not list(tmp_path.glob("models/*"))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_damaged_quantised_weights_are_made_again_once(
    flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    first, files = kept(flux, tmp_path, kind)
    whole = files[1].read_bytes()
    for damaged in (b"", b"no weights", whole[: len(whole) // 2]):
        files[1].write_bytes(damaged)
        again, _ = kept(flux, tmp_path, kind)
        assert all(torch.equal(*both) for both in zip(again, first, strict=True))
        assert files[1].read_bytes() == whole
    files[0].unlink()
    again, _ = kept(flux, tmp_path, kind)
    with monkeypatch.context() as patch:
        patch.setattr(quantisation, "quantise", lambda *_: pytest.fail("they are made again"))
        again, _ = kept(flux, tmp_path, kind)
    assert all(torch.equal(*both) for both in zip(again, first, strict=True))


def test_what_is_not_kept(flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp8, LoRAs, and what a full cache has no room for: the edit works nevertheless."""
    assert kept(flux, tmp_path / "a", "fp8")[1] == []
    layer = "transformer_blocks.0.ff.net.2"
    lora = {
        f"transformer.{layer}.lora_A.weight": torch.ones(1, 256),
        f"transformer.{layer}.lora_B.weight": torch.ones(64, 1),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    folder = registry.find(str(flux), kept=tmp_path / "b")
    changed = adapters.attach(folder, [str(tmp_path / "lora.safetensors")], [], tmp_path / "b" / "digests")
    assert quantised_copies.QuantisedCopies.of(changed, "float32", "int8").place is None
    loader.Loader().load(changed, "cpu", "float32", OffloadOptions(quantize="int8"))
    assert not list((tmp_path / "b").glob("models/*/*"))
    monkeypatch.setitem(sys.modules["diffedit_cli.storage.cache_folder"]._limits, tmp_path / "c", 1000)
    assert kept(flux, tmp_path / "c", "int8")[1] == []


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_without_its_library(flux: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str) -> None:
    monkeypatch.setattr(quantisation.fast_imports, "is_installed", lambda name: name != library)
    with pytest.raises(ModelError, match=rf"needs {library}, which is not installed; .*pip install 'diffedit-cli\[q"):
        load(flux, quantize=kind)
    with pytest.raises(ModelError, match="fp8 does not work on mps"):
        quantisation.require("fp8", "mps")


def test_by_the_command_line(tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says it, results do not mix in the cache, and info repeats it."""
    settled(tmp_path, tiny_sdxl, monkeypatch)
    picture(tmp_path / "wide.png", (200, 50))
    made: dict[str, bytes] = {}
    for kind in ("none", *KINDS):
        ran = diffedit("edit", "wide.png", *WORDS, "-o", "x.png", "--json", "--quantize", kind)
        assert ran.code == 0, ran.err
        assert ran.json["evaluations"]["edit"] > 0  # not that of another kind
        made[kind] = (tmp_path / "x.png").read_bytes()
        again = diffedit("info", "x.png").out.decode().splitlines()[-1]
        assert again.endswith(f"--quantize {kind}") == (kind != "none")
        record = json.loads(diffedit("info", "x.png", "--json").out)
        assert record.get("quantize", "none") == kind
    assert len(set(made.values())) == 4


def quantised_folder(full: Path, folder: Path, network: nn.Module, part: str, method: str, library_names: Any) -> Path:
    """Copies a model, with the quantised weights of a part as a library saves them."""
    shutil.copytree(full, folder)
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    tensors, notes = library_names(network)
    save_file(tensors, folder / part / next(iter((full / part).glob("*.safetensors"))).name, {"format": "pt", **notes})
    config = folder / part / "config.json"
    tiny.write_json(config, json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}})
    return folder


def by_torchao(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    return flatten_tensor_state_dict(network.state_dict())


def in_four_bits(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, {}


def in_eight_bits(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As LLM.int8 is stored: the largest value of each row beside the weight."""
    found = {}
    for name, tensor in quantisation._tensors(network):
        layer = name.removesuffix(".weight.scale")
        if name.endswith(".weight.qdata"):
            layer = name.removesuffix(".weight.qdata")
            found |= {f"{layer}.weight": tensor, f"{layer}.weight_format": torch.tensor(0, dtype=torch.uint8)}
        elif layer != name:
            found[f"{layer}.SCB"] = tensor.flatten() * 127
        elif not name.endswith(".zero_point"):
            found[name] = tensor
    return found, {}


STORED = {
    "torchao": ("int8", "torchao", by_torchao),
    "nf4": ("nf4", "bitsandbytes", in_four_bits),
    "llm.int8": ("int8", "bitsandbytes", in_eight_bits),
}


@pytest.fixture(scope="module", params=STORED)
def stored(request: pytest.FixtureRequest, flux: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind, and a model whose transformer is stored in it."""
    kind, method, names = STORED[request.param]
    folder = tmp_path_factory.mktemp("stored") / "model"
    return kind, quantised_folder(flux, folder, load(flux, quantize=kind).network, "transformer", method, names)


def test_a_quantised_folder_loads(stored: tuple[str, Path], flux: Path, tmp_path: Path) -> None:
    """It predicts what the same weights do after quantisation here, in any number format, wherever they wait."""
    kind, folder = stored
    model = registry.find(str(folder), kept=tmp_path)
    assert model.is_quantised
    assert not registry.find(str(flux), kept=tmp_path).is_quantised
    here = load(flux, quantize=kind)
    found = loader.Loader().load(model, "cpu", "float32", OffloadOptions(offload="model"))
    text = results(load(flux))[0]
    prompt = here.embed("a cat on grass")
    assert torch.equal(results(found)[0], text)  # the text encoder is stored in full
    x_t = torch.zeros(1, found.channels, 16, 16)
    with torch.inference_mode():
        ours, theirs = (one.predict(x_t, one.levels(4)[2], prompt).eps for one in (found, here))
    assert error(ours, theirs) < 1e-5
    half = load(folder, torch.bfloat16)
    assert half.dtype_name == "bfloat16"
    assert error(results(half)[1], results(found)[1]) < 0.05
    for offload in ("group", "sequential"):
        with pytest.raises(
            ModelError, match=f"--offload {offload} cannot move the quantised weights of the model tiny"
        ):
            load(folder, offload=offload)


def test_a_quantised_folder_takes_no_lora(stored: tuple[str, Path], tmp_path: Path) -> None:
    lora = {"transformer.transformer_blocks.0.ff.net.2.lora_A.weight": torch.ones(1, 256)}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"cannot change quantised weights, such as .*\.ff\.net\.2; use the full"):
        load(stored[1], loras=[(tmp_path / "lora.safetensors", 1.0)])


def test_a_quantised_folder_without_its_library(stored: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation.fast_imports, "is_installed", lambda _: False)
    with pytest.raises(ModelError, match=r"which is not installed; install it with: pip install 'diffedit-cli\[quant"):
        load(stored[1])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_language_models_as_transformers_saves_them(tmp_path: Path, kind: str) -> None:
    """Quantised and saved by transformers itself, also as part of a larger class."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import BitsAndBytesConfig, Qwen3ForCausalLM, TorchAoConfig

    folder = tiny_transformers.write_z_image(tmp_path / "model")
    how: Any = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        if kind == "nf4"
        else TorchAoConfig(Int8WeightOnlyConfig())
    )
    expected = results(load(folder))
    saved = Qwen3ForCausalLM.from_pretrained(folder / "text_encoder", quantization_config=how, dtype=torch.float32)
    shutil.rmtree(folder / "text_encoder")
    saved.save_pretrained(folder / "text_encoder")
    model = load(folder)
    assert quantisation.is_quantised(model.qwen.network) == (kind == "int8")  # too narrow for the kernels of nf4
    assert 0 < error(results(model)[0], expected[0]) < (0.4 if kind == "nf4" else 0.05)
    assert registry.find(str(folder), kept=tmp_path / "cache").is_quantised


def test_damaged_four_bits(flux: Path, tmp_path: Path) -> None:
    """Kernels would read beyond the end of tensors that are shorter than the settings say."""
    network = load(flux, quantize="nf4").network

    def damaged(network: nn.Module, name: str, change: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors, notes = in_four_bits(network)
        key = next(key for key in tensors if key.endswith(name))
        return tensors | {key: change(tensors[key])}, notes

    for number, (name, change) in enumerate(
        {".absmax": lambda t: t[:1], ".quant_map": lambda t: t[:3], "ff.net.2.weight": lambda t: t[:10]}.items()
    ):
        names = lambda one, name=name, change=change: damaged(one, name, change)  # noqa: E731
        folder = quantised_folder(flux, tmp_path / str(number), network, "transformer", "bitsandbytes", names)
        with pytest.raises(ModelError, match=r"transformer is unreadable .*does not fit the settings"):
            load(folder)


@pytest.mark.parametrize("said", [{"quant_method": "gptq"}, {}, 3, {"quant_method": ["torchao"]}])
def test_other_quantisation_is_refused_at_once(flux: Path, tmp_path: Path, said: Any) -> None:
    folder = Path(shutil.copytree(flux, tmp_path / "model"))
    config = folder / "transformer" / "config.json"
    tiny.write_json(config, json.loads(config.read_text()) | {"quantization_config": said})
    with pytest.raises(ModelError, match=r"is quantised by .*, which diffedit cannot read; use the full model"):
        registry.find(str(folder), kept=tmp_path / "cache")
