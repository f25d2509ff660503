""".gguf files: quantised layers in memory, and files that are damaged or state absurd numbers."""

from __future__ import annotations

import importlib.util
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import original_names as original
import pytest
import torch
from command import FAST, WORDS, diffedit, picture
from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, SUPPORTED_GGUF_QUANT_TYPES, GGUFLinear, GGUFParameter
from gguf import GGMLQuantizationType, GGUFWriter
from ldm import read
from tiny_transformers import write_z_image
from torch import Tensor

from diffedit_cli.engine.networks import gguf_header
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters, registry
from diffedit_cli.models.loader import Loader
from diffedit_cli.models.memory import OffloadOptions

UINT32, ARRAY, STRING = 4, 9, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_z_image(tmp_path_factory.mktemp("gguf") / "z-image")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    tensors = original.z_image(folder / "transformer")
    return original.write_gguf(tensors, folder.parent / "network.gguf", GGMLQuantizationType.Q8_0)


def loaded(file: Path, folder: Path, dtype: str = "float32", **memory: str) -> Any:
    return Loader().load(registry.find(str(file), config=str(folder)), "cpu", dtype, OffloadOptions(**memory))


def predicted(model: Any) -> Tensor:
    x_t = torch.randn((1, model.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        eps: Tensor = model.predict(x_t, model.levels(10)[6], model.embed("a cat on grass")).eps
    return eps


def says(file: Path, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(file, folder)
    return str(caught.value)


def test_layers_stay_quantised_in_memory(file: Path, folder: Path) -> None:
    model = loaded(file, folder)
    layers = [layer for layer in model.network.modules() if isinstance(layer, GGUFLinear)]
    assert len(layers) > 30
    assert all(isinstance(layer.weight, GGUFParameter) and layer.weight.dtype is torch.uint8 for layer in layers)
    plain = sum(tensor.nbytes for tensor in read(folder / "transformer")[0].values())
    assert sum(weight.nbytes for weight in model.network.parameters()) < 0.4 * plain
    assert model.network.all_x_embedder["2-1"].weight.shape == (32, 68)  # two blocks of 34 bytes


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1"])
def test_other_formats_are_read(folder: Path, tmp_path: Path, kind: str) -> None:
    tensors = original.z_image(folder / "transformer")
    small = original.write_gguf(tensors, tmp_path / "small.gguf", GGMLQuantizationType[kind])
    expected = predicted(Loader().load(registry.find(str(folder)), "cpu", "float32", OffloadOptions()))
    assert (predicted(loaded(small, folder)) - expected).norm() / expected.norm() < 0.1


def test_half_precision_and_its_fallback_keep_the_quantised_weights(file: Path, folder: Path) -> None:
    exact, model = predicted(loaded(file, folder)), loaded(file, folder, "bfloat16")
    before = {name: weight.clone() for name, weight in model.network.named_parameters()}
    half = predicted(model)
    assert model.dtype_name == "bfloat16"
    with model.in_float32():
        assert model.dtype_name == "float32"
        whole = predicted(model)
    assert model.dtype_name == "bfloat16"
    assert (whole - exact).norm() < 0.3 * (half - exact).norm()
    assert torch.equal(predicted(model), half)
    for name, weight in model.network.named_parameters():
        assert isinstance(weight, GGUFParameter) == isinstance(before[name], GGUFParameter)
        assert torch.equal(torch.Tensor(weight.data), torch.Tensor(before[name].data))


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_changes_nothing(file: Path, folder: Path, offload: str) -> None:
    torch.testing.assert_close(predicted(loaded(file, folder, offload=offload)), predicted(loaded(file, folder)))


def test_an_edit_with_a_gguf_file(file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    model = ("--model", file, "--model-config", folder)
    ran = diffedit("edit", "cat.png", *WORDS, *FAST, *model, "--dtype", "bfloat16", "-o", "out.png")
    assert ran.code == 0, ran.err
    assert f"--model {file} --model-config {folder} --dtype bfloat16" in diffedit("info", "out.png").out.decode()
    saved = diffedit("models", "save", "saved", *model)
    assert (saved.code, "cannot be saved as a folder" in saved.err) == (4, True)
    assert not Path("saved").exists()


def test_loras_are_refused(file: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"style\.safetensors cannot change the quantised weights of .*network\.gguf"):
        adapters.attach(registry.find(str(file), config=str(folder)), ["style.safetensors"], [], tmp_path)


def test_the_package_is_named_where_it_is_missing(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    assert "pip install 'diffedit-cli[gguf]'" in says(file, folder)


def test_formats_are_those_that_diffusers_reads() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {int(kind): tuple(GGML_QUANT_SIZES[kind]) for kind in SUPPORTED_GGUF_QUANT_TYPES}
    plain = {int(GGMLQuantizationType[kind]): GGML_QUANT_SIZES[GGMLQuantizationType[kind]] for kind in ("F32", "F16")}
    assert theirs | plain == gguf_header.FORMATS


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name: str = "a", sides: tuple[int, ...] = (4,), kind: int = 0, begin: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, begin)


def array(inner: int, count: int) -> bytes:
    return text("list") + struct.pack("<IIQ", ARRAY, inner, count)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"GGUF", "cut off or damaged"),
        (header(version=1), "no GGUF file of version 2 or 3"),
        (header(tensors=2**63), "states 9223372036854775808 tensors"),
        (header(entries=2**63), "states 9223372036854775808 entries"),
        (header(entries=1) + array(UINT32, 2**62), "more than 1048576 values"),
        (header(entries=1) + array(UINT32, 2**20), "cut off or damaged"),
        (header(entries=1) + array(STRING, 2**20), "cut off or damaged"),
        (header(entries=1) + array(ARRAY, 1), "cut off or damaged"),
        (header(entries=1) + text("key") + struct.pack("<I", 99), "cut off or damaged"),
        (header(entries=1) + struct.pack("<Q", 2**60), "cut off or damaged"),
        (header(entries=1) + text("key") + struct.pack("<IQ", STRING, 2**60), "cut off or damaged"),
        (header(entries=1) + text("general.alignment") + struct.pack("<II", UINT32, 0), "alignment is 0"),
        (header(entries=1) + text("general.alignment") + struct.pack("<II", UINT32, 3), "alignment is 3"),
        (header(tensors=1) + tensor(sides=(2**40,)), "cut off or damaged"),
        (header(tensors=1) + tensor(sides=(2**63, 2**63)), "cut off or damaged"),
        (header(tensors=1) + tensor(begin=2**62), "cut off or damaged"),
        (header(tensors=1) + tensor(sides=(1,) * 5), "states 5 sides of a tensor"),
        (header(tensors=1) + tensor(kind=16), "a is stored in format 16"),
        (header(tensors=1) + tensor(kind=8, sides=(33,)), "rows of 33 values, in blocks of 32"),
        (header(tensors=2) + tensor() * 2 + bytes(64), "holds two tensors a"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"\xff" + tensor()[9:] + bytes(64), "cut off or damaged"),
        (header(tensors=1) + tensor() + bytes(64), "not the network of a family"),
    ],
)
def test_absurd_headers_are_refused_at_once(folder: Path, tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    begun = time.monotonic()
    ran = diffedit("models", "show", file, "--model-config", folder)
    assert ran.code == 4
    assert sentence in ran.err
    assert str(file) in ran.err
    assert time.monotonic() - begun < 5


def test_a_file_that_is_cut_off_anywhere_is_refused(file: Path, folder: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (*range(4, 6000, 97), len(content) - 64):
        cut.write_bytes(content[:length])
        assert "cut off or damaged" in says(cut, folder)


def test_tensors_of_another_shape_or_too_few_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = original.z_image(folder / "transformer")
    name = "layers.1.feed_forward.w2.weight"
    for spoilt, sentence in (
        ({one: tensors[one] for one in tensors if one != name}, f"it lacks {name}"),
        (tensors | {"another": torch.zeros(32)}, "another would be left out"),
        (tensors | {name: torch.zeros(32, 64)}, f"{name} has the shape (32, 64)"),
    ):
        file = original.write_gguf(spoilt, tmp_path / "spoilt.gguf", GGMLQuantizationType.Q8_0)
        assert sentence in says(file, folder)


def test_metadata_is_skipped(folder: Path, tmp_path: Path) -> None:
    """All kinds of it; files of networks have some."""
    writer = GGUFWriter(tmp_path / "more.gguf", "tiny")
    writer.add_string("general.name", "ä network")
    writer.add_array("tokens", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("flag", True)
    writer.add_float64("number", 0.5)
    writer.add_custom_alignment(64)
    for name, tensor in original.z_image(folder / "transformer").items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert predicted(loaded(tmp_path / "more.gguf", folder)).isfinite().all()


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    """A small file must not hold more values than it has bytes."""
    path, values = tmp_path / "overlap.gguf", 64
    header = b"GGUF" + struct.pack("<IQQ", 3, 3, 0)
    for name in (b"a", b"b", b"c"):
        header += struct.pack("<Q", 1) + name + struct.pack("<IQIQ", 1, values, 0, 0)  # float32, all at the beginning
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(4 * values))
    with pytest.raises(ValueError, match="its tensors overlap"):
        gguf_header.tensors(path)
