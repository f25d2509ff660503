"""Names, folders and checkpoint files -> models on this machine; the digest that stays; the default."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import FAST, WORDS, diffedit, picture
from safetensors.torch import load_file, save_file
from tiny import write_json, write_safety

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import registry
from diffedit_cli.storage import hashing

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


def says(name: object, **options: object) -> str:
    """The sentence of a model that cannot be found."""
    with pytest.raises(ModelError) as caught:
        registry.find(str(name), **options)
    return str(caught.value)


def halved(folder: Path, *, keep: bool = False) -> Path:
    """Weights in half precision under the names of the fp16 variant, beside or instead of the full ones."""
    for path in list(folder.rglob("*.safetensors")):
        save_file(
            {name: tensor.half() for name, tensor in load_file(path).items()}, path.with_suffix(".fp16.safetensors")
        )
        if not keep:
            path.unlink()
    return folder


# folders


@pytest.mark.parametrize(
    ("fixture", "family", "prediction", "native_size"),
    [
        ("tiny_epsilon", "sd", "epsilon", 64),
        ("tiny_v", "sd", "v_prediction", 64),
        ("tiny_sdxl", "sdxl", "epsilon", 64),
        ("tiny_sd3", "sd3", "flow", 64),
    ],
)
def test_the_family_is_read_from_the_folder(
    request: pytest.FixtureRequest, fixture: str, family: str, prediction: str, native_size: int
) -> None:
    model = registry.find(str(request.getfixturevalue(fixture)))
    assert (model.family, model.prediction_type, model.native_size) == (family, prediction, native_size)
    assert set(FAMILIES[family].parts) <= set(model.sizes())


@pytest.mark.parametrize("fixture", ["tiny_epsilon", "tiny_sdxl", "tiny_sd3"])
def test_every_part_of_a_family_is_needed(request: pytest.FixtureRequest, tmp_path: Path, fixture: str) -> None:
    source = request.getfixturevalue(fixture)
    for part in FAMILIES[registry.find(str(source)).family].parts:
        folder = Path(shutil.copytree(source, tmp_path / part))
        shutil.rmtree(folder / part)
        assert f"{folder / part} is missing" in says(folder)


def test_a_variant_is_found_and_counts_alone(copy: Path, tiny_epsilon: Path) -> None:
    plain = registry.find(str(tiny_epsilon)).digest
    halved(copy, keep=True)
    both = registry.find(str(copy))
    assert (both.variant, both.digest) == (None, plain)
    for path in copy.rglob("*model.safetensors"):
        path.unlink()
    alone = registry.find(str(copy))
    assert alone.variant == "fp16"
    assert alone.digest != plain
    (copy / "vae" / "diffusion_pytorch_model.fp16.safetensors").rename(copy / "vae" / UNET.name)
    assert "no variant of the weights in common" in says(copy)


def test_a_variant_alone_makes_an_edit(copy: Path, tmp_path: Path) -> None:
    ran = diffedit("edit", picture(tmp_path / "cat.png"), *WORDS, *FAST, "--model", halved(copy))
    assert ran.code == 0, ran.err


def test_a_missing_shard_is_noticed(copy: Path) -> None:
    first, second = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
    (copy / UNET).rename(copy / "unet" / first)
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": first, "b": second}})
    assert f"{second} is missing" in says(copy)
    shutil.copy(copy / "unet" / first, copy / "unet" / second)
    assert registry.find(str(copy)).variant is None
    index.write_text("[]")
    assert "index.json is unreadable" in says(copy)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "safety_checker"])
@pytest.mark.parametrize("named", ["w.bin", "../vae/{weights}", "{stem}.fp16.safetensors", 3, None])
def test_an_index_names_only_the_parts_own_weights(copy: Path, part: str, named: str | int | None) -> None:
    """Libraries read whatever it names, pickled or from elsewhere, and the digest would not follow it."""
    write_safety(copy, 1.0)
    (path,) = (copy / part).glob("*.safetensors")
    for other in ("w.bin", f"{path.stem}.fp16.safetensors"):
        shutil.copy(path, copy / part / other)
    path.rename(copy / part / f"{path.stem}-00001-of-00001.safetensors")
    index = copy / part / f"{path.name}.index.json"
    write_json(index, {"weight_map": {"a": f"{path.stem}-00001-of-00001.safetensors"}})
    assert registry.find(str(copy)).variant is None
    value = named.format(weights=UNET.name, stem=path.stem) if isinstance(named, str) else named
    write_json(index, {"weight_map": {"a": value}})
    assert str(index) in says(copy)


def test_a_shard_is_no_pickle(copy: Path) -> None:
    write_safety(copy, 1.0)
    shard = copy / "safety_checker" / "model-00001-of-00001.safetensors"
    (copy / "safety_checker" / "model.safetensors").unlink()
    pickled(shard, zipped=True)
    write_json(copy / "safety_checker" / "model.safetensors.index.json", {"weight_map": {"a": shard.name}})
    assert f"{shard} is a pickled file" in says(copy)


def test_settings_name_no_other_weights(copy: Path) -> None:
    path = copy / "text_encoder" / "config.json"
    write_json(path, json.loads(path.read_text()) | {"transformers_weights": "adapter_model.bin"})
    assert "transformers_weights is 'adapter_model.bin', and must be left out" in says(copy)


def test_the_digest_follows_names_and_contents(copy: Path, tiny_epsilon: Path) -> None:
    digest = registry.find(str(copy)).digest
    assert digest == registry.find(str(tiny_epsilon)).digest
    (copy / "safety_checker").mkdir()
    write_json(copy / "safety_checker" / "config.json", {})
    assert registry.find(str(copy)).digest == digest
    (copy / "tokenizer" / "vocab.json").rename(copy / "tokenizer" / "words.json")
    assert registry.find(str(copy)).digest != digest


def pickled(path: Path, zipped: bool) -> Path:
    """What would run code where it is loaded: torch's own format, or a bare pickle."""
    content = pickle.dumps(Trap(), protocol=2)
    path.write_bytes(content)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    return path


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "MODEL.SafeTensors", "model.png"])
def test_a_pickled_checkpoint_is_refused_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path / name, zipped)
    ran = diffedit("edit", picture(tmp_path / "cat.png"), *WORDS, "--model", name)
    assert ran.code == 4
    assert f"{name} is a pickled file" in ran.lines[-1]
    assert not Path("sprung").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_in_a_folder_are_refused_by_content(copy: Path, zipped: bool) -> None:
    pickled(copy / UNET, zipped)
    assert f"{copy / UNET} is a pickled file" in says(copy)


# digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was hashed."""
    read: list[Path] = []
    real = hashing.of_content
    monkeypatch.setattr(hashing, "of_content", lambda path: read.append(path) or real(path))
    return read


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(bytes(hashing.BIG))
    return path


ZEROS = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"
"""Of the big file, as sha256sum says."""


def test_a_big_file_is_read_once(big: Path, tmp_path: Path, reads: list[Path]) -> None:
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    assert reads == [big]


def test_a_changed_file_is_read_again(big: Path, tmp_path: Path, reads: list[Path]) -> None:
    """Also one of the same size and time under the same name."""
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    status = big.stat()
    other = tmp_path / "other"
    other.write_bytes(b"\1" * hashing.BIG)
    other.replace(big)
    os.utime(big, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashing.of_file(big, tmp_path / "memo") == hashlib.sha256(b"\1" * hashing.BIG).hexdigest()
    with big.open("r+b") as file:
        file.write(bytes(hashing.BIG))
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    assert len(reads) == 3


@pytest.mark.parametrize(
    "damage",
    [lambda note: note[:0], lambda note: note[:-1], lambda note: note.replace(b"3", b"4"), lambda note: b"\xff" + note],
)
def test_a_damaged_note_only_costs_reading(big: Path, tmp_path: Path, reads: list[Path], damage: object) -> None:
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    (note,) = (tmp_path / "memo").iterdir()
    note.write_bytes(damage(note.read_bytes()))
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    assert hashing.of_file(big, tmp_path / "memo") == ZEROS
    assert len(reads) == 2


def test_notes_that_cannot_be_kept_only_cost_reading(big: Path, reads: list[Path]) -> None:
    assert [hashing.of_file(big, Path("/proc/memo")) for _ in range(2)] == [ZEROS] * 2
    assert len(reads) == 2


def test_many_may_note_at_once(big: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: hashing.of_file(big, tmp_path / "memo"), range(32)))
    assert found == {ZEROS}
    assert len(list((tmp_path / "memo").iterdir())) == 1
