"""LoRAs for the families with transformers that are refused, and those that commands take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command import FAST, WORDS, diffedit, settled
from diffusers.quantizers.gguf.utils import GGUFParameter
from family_loras import KINDS, NAMINGS, Folders, load, written
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from diffedit_cli.engine.networks import families, lora
from diffedit_cli.errors import ModelError
from diffedit_cli.images import codecs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("families"))


# What is refused


FOREIGN = {
    "sd3": "transformer.transformer_blocks.0.norm1_context.linear.lora_A.weight",
    "flux": "transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight",
    "flux2": "lora_unet_single_stream_modulation_lin.lora_down.weight",
    "chroma": "diffusion_model.distilled_guidance_layer.layers.0.in_layer.lora_A.weight",
    "qwen-image": "transformer.transformer_blocks.0.txt_mlp.net.2.lora_A.weight",
    "z-image": "diffusion_model.layers.0.attention.qkv.lora_A.weight",
    "sd": "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
    "joint": "diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight",
    "control": "double_blocks.0.img_attn.norm.query_norm.scale",
    "qwen's encoder": "text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
}
ALSO = {("sd3", "joint"), ("flux", "sd3")}  # both have such layers


@pytest.mark.parametrize(
    ("family", "other"),
    [(one, other) for one in KINDS for other in FOREIGN if one != other and (one, other) not in ALSO],
)
def test_a_lora_for_another_family_is_refused(folders: Folders, tmp_path: Path, family: str, other: str) -> None:
    key, file = FOREIGN[other], tmp_path / "style.safetensors"
    save_file({key: torch.ones(2, 32)}, file)
    name = re.sub(r"\.lora_\w+\.weight$", "", key)
    with pytest.raises(ModelError, match=rf"{re.escape(str(file))} does not fit the model tiny.*{re.escape(name)}"):
        load(folders(family), loras=[(file, 1.0)])


@pytest.mark.parametrize(
    ("family", "key", "width"),
    [("flux", "transformer.transformer_blocks.0.attn.to_q", 48), ("z-image", "layers.0.attention.qkv", 48),
     ("flux", "single_blocks.0.linear1", 48), ("flux2", "single_blocks.0.linear1", 48)],
)  # fmt: skip
def test_another_width_is_refused(folders: Folders, tmp_path: Path, family: str, key: str, width: int) -> None:
    """As of a larger model of the same family."""
    file = tmp_path / "style.safetensors"
    save_file({f"{key}.lora_A.weight": torch.ones(2, width), f"{key}.lora_B.weight": torch.ones(7 * width, 2)}, file)
    with pytest.raises(ModelError, match=rf"its {re.escape(key)} has width 48, and that model's 32"):
        load(folders(family), loras=[(file, 1.0)])
    save_file({f"{key}.lora_A.weight": torch.ones(2, 32), f"{key}.lora_B.weight": torch.ones(7 * 48, 2)}, file)
    with pytest.raises(ModelError, match=rf"its {re.escape(key)} has width 336, and that model's"):
        load(folders(family), loras=[(file, 1.0)])


def test_a_layer_by_two_names_is_refused(folders: Folders, tmp_path: Path) -> None:
    """Some files hold the rows of a layer beside the whole one; both together would count twice."""
    file = tmp_path / "style.safetensors"
    tensors = {}
    for name, rows in {"attention.qkv": 96, "attention.to_k": 32}.items():
        tensors |= {f"layers.0.{name}.lora_A.weight": torch.ones(2, 32)}
        tensors |= {f"layers.0.{name}.lora_B.weight": torch.ones(rows, 2)}
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"it changes layers\.0\.attention\.\w+ twice"):
        load(folders("z-image"), loras=[(file, 1.0)])


@pytest.mark.parametrize(
    "quantised",
    [lambda weight: nn.Parameter(weight.to(torch.int8), requires_grad=False),
     lambda weight: GGUFParameter(weight.detach().float(), quant_type=0)],
    ids=["int8", "gguf"],
)  # fmt: skip
def test_quantised_weights_are_not_changed(
    folders: Folders, tmp_path: Path, quantised: Callable[[Tensor], Tensor]
) -> None:
    model, file = load(folders("flux")), tmp_path / "style.safetensors"
    written("flux", model.transformer, NAMINGS["kohya-original"], file)
    model.transformer.transformer_blocks[1].attn.to_k.weight = quantised(
        model.transformer.transformer_blocks[1].attn.to_k.weight
    )
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    with pytest.raises(ModelError, match=r"quantised weights, such as that of transformer_blocks\.1\.attn\.to_k;"):
        lora.fuse({"transformer": model.transformer}, file, 1.0, families.implementation("flux").LAYOUTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.transformer.state_dict().items())


@pytest.mark.parametrize("family", [family for family in KINDS if family != "sd3"])
def test_textual_inversions_are_refused_where_no_clip_reads_the_prompt(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    settled(tmp_path, folders(family), monkeypatch)
    save_file({"<toy>": torch.ones(1, 32)}, "toy.safetensors")
    ran = diffedit("mask", "cat.png", *WORDS, "--embedding", "toy.safetensors")
    assert ran.code == 4
    assert ran.lines[-1].startswith("diffedit: The embedding toy.safetensors cannot be used with the model")
    assert ran.lines[-1].endswith(".")
    assert "Traceback" not in ran.err


# By the command line


WAYS = {
    "flux": "kohya-original", "flux2": "comfyui-original", "chroma": "peft", "qwen-image": "kohya",
    "z-image": "kohya-original", "pixart": "base_model",
}  # fmt: skip


@pytest.mark.parametrize("family", WAYS)
def test_a_saved_model_has_the_lora(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """The parts that the LoRA cannot change are copied."""
    folder, file = folders(family), Path("style.safetensors")
    settled(tmp_path, folder, monkeypatch)
    plain = load(folder).transformer.state_dict()
    written(family, load(folder).transformer, NAMINGS[WAYS[family]], file)
    ran = diffedit("models", "save", "saved", "--lora", f"{file}:0.5")
    assert ran.code == 0, ran.err
    expected = load(folder, loras=[(file, 0.5)]).transformer.state_dict()
    saved = load(Path("saved")).transformer.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    assert any((saved[name] - tensor).abs().max() > 0.1 for name, tensor in plain.items())
    adapted = families.implementation(family).FORMAT.adapted
    for path in folder.glob("*/*"):
        if path.parent.name not in adapted:
            assert (Path("saved") / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("family", [
    pytest.param(family, marks=pytest.mark.slow if family == "qwen-image" else ()) for family in WAYS  # of 1024 px
])  # fmt: skip
def test_an_edit_with_a_lora_is_that_of_the_saved_model(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    settled(tmp_path, folders(family), monkeypatch)
    written(family, load(folders(family)).transformer, NAMINGS[WAYS[family]], Path("style.safetensors"))
    added = ("--lora", "style.safetensors:0.1")
    assert diffedit("models", "save", "saved", *added).code == 0
    pictures = []
    for words in (added, ("--model", "saved"), ()):
        ran = diffedit("edit", "cat.png", *WORDS, *words, "-o", "edited.png", "--force", "--anyway", *FAST)
        assert ran.code == 0, ran.err
        pictures.append(np.asarray(Image.open("edited.png")))
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()
    assert (pictures[0] != np.asarray(codecs.load(Path("cat.png")).image)).any()


def test_a_lora_for_another_family_ends_the_command(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, folders("z-image"), monkeypatch)
    written("flux", load(folders("flux")).transformer, NAMINGS["kohya-original"], Path("style.safetensors"))
    for words in (("mask", "cat.png", *WORDS), ("models", "save", "saved")):
        ran = diffedit(*words, "--lora", "style.safetensors")
        assert ran.code == 4
        assert re.search(
            r"style\.safetensors does not fit .*lora_unet_\w+, which that model does not have", ran.lines[-1]
        )
        assert "Traceback" not in ran.err
    assert not Path("saved").exists()
