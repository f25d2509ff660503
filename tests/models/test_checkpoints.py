"""Single-file checkpoints -> folders: converted once, refused whole, the same edits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ldm_sd3
import pytest
import tiny
import torch
from command import FAST, WORDS, diffedit, finished, picture, started
from huggingface_hub import constants
from ldm import write_checkpoint
from safetensors.torch import load_file, save_file

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError
from diffedit_cli.models import checkpoints, registry

T5 = FAMILIES["sd3"].optional_encoders["text_encoder_3"]
KINDS = ("sd15", "sd21", "sdxl", "sd3", "sd3-without-t5")
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path, tiny_v: Path, tiny_sdxl: Path
) -> dict[str, tuple[Path, Path]]:
    """Checkpoint files and the folders that they were written from, by kind."""
    place = tmp_path_factory.mktemp("checkpoints")
    sources = {"sd15": tiny_epsilon, "sd21": tiny_v, "sdxl": tiny_sdxl}
    written = {
        kind: (write_checkpoint(folder, place / f"{kind}.safetensors", kind), folder)
        for kind, folder in sources.items()
    }
    for kind, t5 in (("sd3", True), ("sd3-without-t5", False)):
        folder = tiny.write_sd3(place / kind, t5, first_projection=tiny.TEXT_WIDTH)
        ldm_sd3.set_no_projection(folder / "text_encoder")
        written[kind] = ldm_sd3.write_checkpoint(folder, place / f"{kind}.safetensors"), folder
    return written


def says(name: object, **options: object) -> str:
    """The sentence of a model that cannot be found."""
    with pytest.raises(ModelError) as caught:
        registry.find(str(name), **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_becomes_the_folder_that_it_came_from(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, kind: str
) -> None:
    file, folder = files[kind]
    assert checkpoints.kind_of(file) == kind.removesuffix("-without-t5")
    found = registry.find(str(file), kept=tmp_path, config=str(folder))
    expected = registry.find(str(folder))
    assert (found.family, found.prediction_type) == (expected.family, expected.prediction_type)
    family = FAMILIES[expected.family]
    for part in (part for part in (*family.networks, "text_encoder_3") if (folder / part).is_dir()):
        mine, theirs = (load_file(next((at / part).glob("*.safetensors"))) for at in (found.path, folder))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [found.path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_edits_as_its_folder_does(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    file, folder = files[kind]
    for output, model in (("a.png", (folder,)), ("b.png", (file, "--model-config", folder))):
        ran = diffedit("edit", "cat.png", *WORDS, *FAST, "--no-cache", "--no-metadata", "-o", output, "--model", *model)
        assert ran.code == 0, ran.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_float8_text_encoder_is_kept_in_bfloat16(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = files["sd3"]
    tensors = load_file(file)
    for name in [name for name in tensors if name.startswith(T5)]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "small.safetensors")
    found = registry.find(str(tmp_path / "small.safetensors"), kept=tmp_path, config=str(folder))
    t5 = load_file(next((found.path / "text_encoder_3").glob("*.safetensors")))
    assert {tensor.dtype for tensor in t5.values()} == {torch.bfloat16}
    name = "shared.weight"
    assert torch.equal(t5[name], tensors[T5 + name].bfloat16())


def test_a_configuration_is_read_no_further_than_it_is_taken(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """Nor copied: what lies beside the parts may be of any size, and in them only what is small."""
    file, source = files["sd15"]
    folder = Path(shutil.copytree(source, tmp_path / "configuration", ignore=shutil.ignore_patterns("*.safetensors")))
    first = registry.find(str(file), kept=tmp_path, config=str(folder))
    (folder / "notes").mkdir()
    for beside in ("README.txt", "notes/README.txt"):
        with (folder / beside).open("wb") as sparse:
            sparse.truncate(2**40)
    assert registry.find(str(file), kept=tmp_path, config=str(folder)) == first
    with (folder / "tokenizer" / "README.txt").open("wb") as sparse:
        sparse.truncate(2**31)
    assert "settings and vocabularies up to" in says(file, kept=tmp_path, config=str(folder))


def test_a_configuration_describes_no_larger_network_than_the_checkpoint(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file, source = files["sd3"]
    folder = Path(shutil.copytree(source, tmp_path / "configuration", ignore=shutil.ignore_patterns("*.safetensors")))
    path = folder / "text_encoder_3" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 16, "d_ff": 2**16}))
    assert "far larger network than its weights fill" in says(file, kept=tmp_path, config=str(folder))


def test_info_says_where_a_checkpoint_got_its_configuration(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "cat.png")
    file, folder = files["sd15"]
    model = ("--model", file, "--model-config", folder)
    assert diffedit("edit", "cat.png", *WORDS, *FAST, "--no-cache", *model, "-o", "a.png").code == 0
    told = diffedit("info", "a.png").out.decode()
    assert f"--model {file} --model-config {folder}" in told


def test_a_checkpoint_finds_its_configuration_in_the_hub_cache(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file, folder = files["sd15"]
    assert "diffedit models pull sd15 --no-weights" in says(file, kept=tmp_path)
    assert "diffedit models pull some/where --no-weights" in says(file, kept=tmp_path, config="some/where")
    cached = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    shutil.copytree(folder, cached / "snapshots" / "abc", ignore=shutil.ignore_patterns("*.safetensors"))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert "diffedit models pull sd15" in says("sd15")
    found = registry.find(str(file), kept=tmp_path)
    shutil.rmtree(cached)
    assert registry.find(str(file), kept=tmp_path) == found


def test_a_checkpoint_is_converted_once_and_anew_when_it_changes(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file = Path(shutil.copy(files["sd15"][0], tmp_path / "model"))
    told: list[str] = []
    options = {"kept": tmp_path, "config": str(files["sd15"][1]), "say": told.append}
    first = registry.find(str(file), **options)
    assert registry.find(str(file), **options).digest == first.digest
    assert told == [f"converting {file} (once)"]
    tensors = load_file(file)
    save_file({name: tensor.half() for name, tensor in tensors.items()} | {"v_pred": torch.empty(0)}, file)
    second = registry.find(str(file), **options)
    assert len(told) == 2
    assert second.digest != first.digest
    assert {tensor.dtype for tensor in load_file(second.path / UNET).values()} == {torch.float16}
    assert (first.prediction_type, second.prediction_type) == ("epsilon", "v_prediction")


def test_doctor_looks_at_a_checkpoint_where_edits_keep_it(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = files["sd15"]
    words = ("doctor", "--model", file, "--cache-dir", tmp_path, "--json")
    ran = diffedit(*words, "--model-config", folder)
    assert ran.code == 0, ran.out
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert diffedit(*words, "--model-config", tmp_path / "nowhere").code == 4


@pytest.mark.thorough
def test_many_may_convert_at_once(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = files["sd15"]
    words = ("models", "show", file, "--model-config", folder, "--cache-dir", tmp_path, "--json")
    found = [finished(process) for process in [started(*words) for _ in range(3)]]
    assert [ran.code for ran in found] == [0, 0, 0], [ran.err for ran in found]
    assert len({ran.json["digest"] for ran in found}) == 1
    assert len(list((tmp_path / "models").iterdir())) == 1


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda tensors: {name: t for name, t in tensors.items() if "time_embed" not in name}, "(weights are missing)"),
        (lambda tensors: {name: t for name, t in tensors.items() if "layers.1" not in name}, "(weights are missing)"),
        (
            lambda tensors: {name: t for name, t in tensors.items() if "first_stage" not in name},
            "not a complete Stable",
        ),
        (lambda tensors: {name: t[:1] for name, t in tensors.items()}, "cannot be converted"),
        (lambda _: {"lora_unet.down": torch.zeros(2)}, "not a complete Stable"),
    ],
    ids=["a weight is missing", "a layer is missing", "no VAE", "other shapes", "a LoRA"],
)
def test_a_checkpoint_that_is_not_whole_leaves_nothing(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, spoil: object, sentence: str
) -> None:
    file, folder = files["sd15"]
    spoiled = tmp_path / "spoiled.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in spoil(load_file(file)).items()}, spoiled)
    assert sentence in says(spoiled, kept=tmp_path / "kept", config=str(folder))
    assert not list((tmp_path / "kept").glob("models/*"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a .safetensors checkpoint"),
        (b"These are words, and no model.", "is not a .safetensors checkpoint"),
        (b"\x02" + bytes(7) + b"[]", "is not a .safetensors checkpoint"),
        (b"\x04" + bytes(7) + b"{'a'", "is not a .safetensors checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "file.safetensors").write_bytes(content)
    assert sentence in says(tmp_path / "file.safetensors")


def test_a_checkpoint_that_is_cut_off_is_refused(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(files["sd15"][0].read_bytes()[:-9])
    assert "is cut off or damaged" in says(tmp_path / "cut")


def test_a_configuration_of_another_family_does_not_fit(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    assert "does not fit" in says(files["sd15"][0], kept=tmp_path, config=str(files["sdxl"][1]))
    assert "cannot be converted" in says(files["sd15"][0], kept=tmp_path, config="builtin")


@pytest.mark.parametrize("part", ["scheduler/scheduler_config.json", "unet/config.json", "tokenizer"])
def test_a_configuration_that_is_not_whole_is_said(
    files: dict[str, tuple[Path, Path]], copy: Path, tmp_path: Path, part: str
) -> None:
    if (copy / part).is_dir():
        shutil.rmtree(copy / part)
    else:
        (copy / part).unlink()
    assert str(copy) in says(files["sd15"][0], kept=tmp_path, config=str(copy))
    assert not list(tmp_path.glob("models/*"))


def test_converted_models_are_listed_and_cleared_with_the_cache(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    file, folder = files["sd15"]
    registry.find(str(file), kept=tmp_path, config=str(folder))
    assert "model" in diffedit("cache", "list", "--cache-dir", tmp_path).out.decode()
    assert "removed 1 entries" in diffedit("cache", "clear", "--cache-dir", tmp_path).out.decode()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_run_keeps_the_model_that_it_uses_though_the_cache_is_full(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each picture leaves in the cache had pushed the converted checkpoint out: 32 of 40 pictures failed."""
    monkeypatch.chdir(tmp_path)
    file, folder = files["sd15"]
    limit = file.stat().st_size + 400_000
    Path("in").mkdir()
    for number in range(6):
        picture(tmp_path / "in" / f"{number}.png", (60 + number, 40))
    words = ("--model", file, "--model-config", folder, "--cache-dir", "cache", "--cache-limit", f"{limit}B")
    ran = diffedit("run", "in", *WORDS, *FAST, "--out", "out", *words)
    assert ran.code == 0, ran.err
    assert len(list(Path("out").glob("?.png"))) == 6
