"""Checkpoints as real tools write them: every tensor has its place, every number its format, every word its effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import listings
import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)
from ldm import write_checkpoint
from listings import TINY, Listing
from real_depth import write_configuration
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import checkpoints, registry

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
}  # fmt: skip
KINDS = {"sd15_with_ema": "sd15", "sdxl_v": "sdxl", "sd35": "sd3", "inpainting": "sd15"}


# The key lists of all families


def numbered(listing: Listing) -> dict[str, Tensor]:
    """Each tensor between a number of its own and half a one more; scales are 1."""
    tensors = {}
    for number, (name, (shape, dtype)) in enumerate(listing.items()):
        count = torch.Size(shape).numel()
        whole = dtype.startswith("I")
        values = torch.arange(count) if whole else number + torch.linspace(0, 0.5, count)
        values = torch.ones(count) if name.endswith("scale_weight") else values
        tensors[name] = values.reshape(shape).to(DTYPES[dtype] if whole else torch.float32)
    return tensors


UNNEEDED = {
    "sd15": [*listings.SCHEDULE, "model_ema.decay", "model_ema.num_updates",
             "cond_stage_model.transformer.text_model.embeddings.position_ids"],
    "sd21": [*listings.SCHEDULE, "model_ema.decay", "model_ema.num_updates", "cond_stage_model.model.logit_scale",
             "cond_stage_model.model.text_projection",
             *(name for name in listings.sd21() if ".resblocks.23." in name)],
    "sdxl": ["conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
             "conditioner.embedders.1.model.logit_scale"],
    "sd35": ["text_encoders.clip_l.logit_scale", "text_encoders.clip_g.logit_scale", "text_encoders.t5xxl.logit_scale",
             "text_encoders.t5xxl.transformer.scaled_fp8",
             *(name for name in listings.sd35() if name.endswith("scale_weight"))],
}  # fmt: skip
UNNEEDED |= {"inpainting": UNNEEDED["sd15"], "sdxl_v": [*UNNEEDED["sdxl"], "v_pred", "ztsnr", "denoiser.sigmas"]}
UNNEEDED["sd15_with_ema"] = [
    *UNNEEDED["sd15"], "logvar", *(name for name in listings.sd15_with_ema() if name.startswith("model_ema.d"))
]  # fmt: skip


def converted(file: Path, configuration: Path, target: Path) -> dict[str, dict[str, Tensor]]:
    """The networks' tensors by part."""
    family = FAMILIES[registry.NAMES[checkpoints.kind_of(file)].family]
    checkpoints.convert(file, configuration, target, family)
    parts = (part for part in (*family.networks, *family.optional) if "tokenizer" not in part)
    return {part: load_file(path) for part in parts for path in (target / part).glob("*.safetensors")}


def those_of_diffusers(tensors: dict[str, Tensor], folder: Path, part: str) -> dict[str, Tensor]:
    """A part by diffusers' own reader of single files, with the settings in a converted folder."""
    options = {"config": str(folder), "subfolder": part, "torch_dtype": torch.float32, "local_files_only": True}
    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "transformer": SD3Transformer2DModel}
    if part in kinds:
        return kinds[part].from_single_file(dict(tensors), **options).state_dict()
    if part == "text_encoder_3":
        return create_diffusers_t5_model_from_checkpoint(T5EncoderModel, dict(tensors), **options).state_dict()
    architecture = json.loads((folder / part / "config.json").read_text())["architectures"]
    kind = CLIPTextModelWithProjection if architecture == ["CLIPTextModelWithProjection"] else CLIPTextModel
    return create_diffusers_clip_model_from_ldm(kind, checkpoint=dict(tensors), **options).state_dict()


@pytest.mark.parametrize(("file", "counts"), [
    ("sd15", (1145, 859_520_964)), ("sd21", (1242, 865_910_724)), ("sdxl", (2515, 2_567_463_684)),
    ("inpainting", (1145, 859_535_364)), ("sd35", (2014, 2_469_663_936)),
])  # fmt: skip
def test_the_lists_are_those_of_the_published_files(file: str, counts: tuple[int, int]) -> None:
    """So many tensors, and so many weights in the network."""
    found = listings.FILES[file]()
    network = (shape for name, (shape, _) in found.items() if name.startswith("model.diffusion_model."))
    assert (len(found), sum(torch.Size(shape).numel() for shape in network)) == counts


@pytest.mark.thorough
@pytest.mark.parametrize("file", listings.FILES)
def test_every_tensor_is_taken_or_known_to_be_unneeded(tmp_path: Path, file: str) -> None:
    listing, kind = listings.FILES[file](TINY), KINDS.get(file, file)
    assert list(listing) == list(listings.FILES[file]())
    tensors = numbered(listing)
    save_file(tensors, tmp_path / "file.safetensors")
    configuration = write_configuration(tmp_path / "configuration", kind)
    made = converted(tmp_path / "file.safetensors", configuration, tmp_path / "out")
    found = {int(number) for part in made.values() for one in part.values() for number in one.flatten().floor()}
    order = list(listing)
    assert {order[number] for number in found} == set(order) - set(UNNEEDED[file])
    for part, mine in made.items():
        theirs = those_of_diffusers(tensors, tmp_path / "out", part)
        for name, tensor in mine.items():
            if (kind, part, name) != ("sd3", "text_encoder", "text_projection.weight"):  # which diffusers makes up
                assert torch.equal(tensor, theirs[name]), (part, name)


@pytest.mark.parametrize("name", [
    "lora_unet_something", "model.diffusion_model.time_embed.cond_proj.weight", "first_stage_model.encoder.extra.bias",
    "cond_stage_model.transformer.text_model.encoder.layers.2.mlp.fc1.weight", "control_model.input_blocks.0.0.weight",
    "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight_scale_inv", "embedding_manager.tokens",
])  # fmt: skip
def test_a_tensor_without_a_place_is_named(tiny_epsilon: Path, tmp_path: Path, name: str) -> None:
    file = write_checkpoint(tiny_epsilon, tmp_path / "file.safetensors", "sd15")
    save_file(load_file(file) | {name: torch.zeros(2)}, file)
    with pytest.raises(ModelError, match=rf"\({name} would be left out\)"):
        converted(file, tiny_epsilon, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [
    "cond_stage_model.logit_scale", "first_stage_model.loss.logvar", "first_stage_model.model_ema.decay", "global_step",
    "cond_stage_model.transformer.vision_model.embeddings.class_embedding", "scale_factor", "lvlb_weights",
    "cond_stage_model.transformer.visual_projection.weight", "cond_stage_model.transformer.text_projection.weight",
])  # fmt: skip
def test_what_is_known_to_be_unneeded_stops_nothing(tiny_epsilon: Path, tmp_path: Path, name: str) -> None:
    file = write_checkpoint(tiny_epsilon, tmp_path / "file.safetensors", "sd15")
    plain = converted(file, tiny_epsilon, tmp_path / "plain")
    save_file(load_file(file) | {name: torch.zeros(2)}, file)
    same(converted(file, tiny_epsilon, tmp_path / "out"), plain)


def bare_clip(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """As the first fine-tunes were written."""
    return name.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."), tensor


def plain_attention(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Matrices for convolutions of one cell, in the VAE and the network."""
    flat = ".mid.attn_1." in name or ".proj_in." in name or ".proj_out." in name
    return name, tensor[:, :, 0, 0] if flat and tensor.ndim == 4 else tensor


@pytest.mark.parametrize("change", [bare_clip, plain_attention])
def test_older_and_newer_spellings_are_read(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path, change: Callable[[str, Tensor], tuple[str, Tensor]]
) -> None:
    save_file(plain, tmp_path / "plain.safetensors")
    other = {name: tensor.contiguous() for name, tensor in (change(*one) for one in plain.items())}
    assert any(name not in plain or plain[name].shape != tensor.shape for name, tensor in other.items())
    save_file(other, tmp_path / "other.safetensors")
    found = converted(tmp_path / "other.safetensors", tiny_epsilon, tmp_path / "other")
    same(found, converted(tmp_path / "plain.safetensors", tiny_epsilon, tmp_path / "plain"))


def same(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for part, tensors in expected.items():
        assert found[part].keys() == tensors.keys()
        assert all(torch.equal(found[part][name], tensor) for name, tensor in tensors.items())


# Number formats

PARTS = {"unet": checkpoints.NETWORK, "vae": checkpoints.VAE, "text_encoder": "cond_stage_model."}
KEPT_IN = {
    "F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.bfloat16, "F8_E5M2": torch.bfloat16,
}  # fmt: skip


@pytest.mark.parametrize("shift", range(6))
def test_each_part_is_kept_in_its_own_format(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path, shift: int
) -> None:
    """Whatever stands first in the file: positions, which are whole numbers, or a few numbers of another format."""
    formats = {part: [*KEPT_IN][(shift + 2 * i) % 6] for i, part in enumerate(PARTS)}
    tensors: dict[str, Tensor] = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]
    }
    for name, tensor in plain.items():
        (dtype,) = (DTYPES[formats[part]] for part, prefix in PARTS.items() if name.startswith(prefix))
        tensors[name] = tensor.to(dtype)
    for name in ("model.diffusion_model.time_embed.0.bias", "first_stage_model.encoder.conv_in.bias"):
        tensors[name] = plain[name].double()
    save_file(tensors, tmp_path / "file.safetensors")
    made = converted(tmp_path / "file.safetensors", tiny_epsilon, tmp_path / "out")
    for part, found in made.items():
        assert {tensor.dtype for tensor in found.values()} == {KEPT_IN[formats[part]]}
    where = {"unet": ("conv_in.weight", "input_blocks.0.0.weight"), "vae": ("encoder.conv_in.weight",) * 2}
    for part, (ours, theirs) in where.items():
        dtype = KEPT_IN[formats[part]]
        assert torch.equal(made[part][ours], tensors[PARTS[part] + theirs].to(dtype))


def test_a_number_too_large_for_half_precision_widens_its_part_alone(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor.half() for name, tensor in plain.items()}
    tensors["model.diffusion_model.time_embed.0.bias"] = torch.full((64,), 1e6)
    save_file(tensors, tmp_path / "file.safetensors")
    made = converted(tmp_path / "file.safetensors", tiny_epsilon, tmp_path / "out")
    assert made["unet"]["time_embedding.linear_1.bias"].eq(1e6).all()
    assert {part: {t.dtype for t in found.values()} for part, found in made.items()} == {
        "unet": {torch.float32}, "vae": {torch.float16}, "text_encoder": {torch.float16},
    }  # fmt: skip


def whole(amount: Tensor) -> Tensor:
    return amount.max()


def by_row(amount: Tensor) -> Tensor:
    return amount.amax(dim=1)


@pytest.mark.parametrize("form", [whole, by_row, lambda amount: by_row(amount)[:, None]], ids=["one", "rows", "column"])
@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("parts", [(checkpoints.NETWORK,), ("cond_stage_model.", checkpoints.NETWORK)])
def test_float8_is_multiplied_by_its_scales(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path,
    form: Callable[[Tensor], Tensor], scale: str, parts: tuple[str, ...],
) -> None:  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if not name.startswith(parts) or tensor.ndim != 2 or not name.endswith(".weight"):
            tensors[name] = tensor
            continue
        factor = form(tensor.abs()) / 448
        stem = name.removesuffix(".weight")
        tensors[name] = (tensor / (factor if factor.ndim == 0 else factor.reshape(-1, 1))).to(torch.float8_e4m3fn)
        tensors |= {f"{stem}.{scale}": factor, f"{stem}.input_scale": torch.ones(())}
        tensors |= {
            f"{stem}.comfy_quant": torch.frombuffer(bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
        }
    tensors |= {f"{part}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn) for part in parts}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "file.safetensors")
    made = converted(tmp_path / "file.safetensors", tiny_epsilon, tmp_path / "out")
    save_file(plain, tmp_path / "plain.safetensors")
    for part, found in converted(tmp_path / "plain.safetensors", tiny_epsilon, tmp_path / "plain").items():
        for name, tensor in found.items():
            torch.testing.assert_close(
                made[part][name].float(), tensor, rtol=0.07, atol=0.07 * float(tensor.abs().max())
            )


@pytest.mark.parametrize(("weight", "scale", "says"), [
    (torch.zeros((64, 16), dtype=torch.float8_e4m3fn), torch.ones(8, 8), r"has scales of shape \(8, 8\)"),
    (torch.zeros((64, 16), dtype=torch.int8), torch.ones(()), "stored as int8"),
])  # fmt: skip
def test_what_is_quantised_otherwise_is_refused(
    plain: dict[str, Tensor], tiny_epsilon: Path, tmp_path: Path, weight: Tensor, scale: Tensor, says: str
) -> None:
    at = "model.diffusion_model.time_embed.0."
    save_file(plain | {f"{at}weight": weight, f"{at}weight_scale": scale}, tmp_path / "file.safetensors")
    with pytest.raises(ModelError, match=says):
        converted(tmp_path / "file.safetensors", tiny_epsilon, tmp_path / "out")
