"""`models pull` of the families with transformers: only the files that a family reads, or the network, or the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers as tiny
from command import Ran, diffedit, installed
from diffusers import AutoencoderKL, FluxTransformer2DModel
from hub_server import COMMIT, Hub, serving
from transformers import CLIPTextModel, T5EncoderModel

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import registry

NAME = "flux-dev"
ID = registry.NAMES[NAME].source
SHARDED = {"max_shard_size": "60KB"}
NETWORKS: dict[str, tuple[Any, dict[str, str]]] = {
    "transformer": (FluxTransformer2DModel, SHARDED),
    "text_encoder": (CLIPTextModel, {}),
    "text_encoder_2": (T5EncoderModel, SHARDED),
    "vae": (AutoencoderKL, {}),
}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "flux": tiny.write_flux, "flux2": tiny.write_flux2, "z-image": tiny.write_z_image, "chroma": tiny.write_chroma,
    "qwen-image": tiny.write_qwen_image, "pixart": tiny.write_pixart,
}  # fmt: skip
NEEDLESS = (
    *("flux1-dev.safetensors", "ae.safetensors", "README.md", "LICENSE.md", "image_encoder/model.safetensors"),
    *("unet/diffusion_pytorch_model.safetensors", "transformer/model.onnx", "vae/diffusion_pytorch_model.bin"),
    *("text_encoder_2/pytorch_model.bin", "text_encoder_2/pytorch_model.bin.index.json"),
    *("tokenizer/chat_template.jinja", "text_encoder/flax_model.msgpack"),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model like FLUX.1 dev as the hub has it: two networks in shards, all also in half precision, and more files."""
    folder = tiny.write_flux(tmp_path_factory.mktemp("hub") / "model")
    for part, (kind, shards) in NETWORKS.items():
        network = kind.from_pretrained(folder / part)
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        network.save_pretrained(folder / part, **shards)
        network.half().save_pretrained(folder / part, variant="fp16", **shards)
    for name in (*NEEDLESS, "tokenizer_2/spiece.model"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({ID: repository})) as hub:
        hub.pipeline = "FluxPipeline"
        hub.reach(tmp_path / "hf", monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield hub


def pull(*words: str) -> Ran:
    return installed("models", "pull", NAME, "--yes", *words)


def here() -> set[str]:
    """The files of the model in the hub's cache."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / f"models--{ID.replace('/', '--')}" / "snapshots" / COMMIT
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def needed(repository: Path, half: bool = False) -> set[str]:
    """The files that an edit reads, with one variant of the weights."""
    names = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    heavy = {name for name in names if ".safetensors" in name}
    return (names - heavy - set(NEEDLESS)) | {name for name in heavy - set(NEEDLESS) if (".fp16" in name) == half}


def network(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("transformer/")}


@pytest.mark.usefixtures("hub")
def test_one_copy_of_the_weights_and_every_vocabulary_is_downloaded(repository: Path) -> None:
    ran = pull()
    assert ran.code == 0, ran.err
    assert here() == needed(repository)
    assert {"tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json", "tokenizer/merges.txt"} <= here()
    shards = {name for name in here() if "-of-" in name}
    assert {name.split("/")[0] for name in shards} == {"transformer", "text_encoder_2"}
    assert "transformer/diffusion_pytorch_model.safetensors.index.json" in here()
    assert diffedit("models", "show", NAME, "--json").json["family"] == "flux"
    rows = {row["name"]: row["here"] for row in json.loads(diffedit("models", "list", "--json").out)}
    assert [name for name, is_here in rows.items() if is_here] == ["builtin", NAME]


@pytest.mark.usefixtures("hub")
def test_a_variant_in_shards_is_downloaded_with_its_own_index(repository: Path) -> None:
    assert pull("--variant", "fp16").code == 0
    assert here() == needed(repository, half=True)
    assert "transformer/diffusion_pytorch_model.safetensors.index.fp16.json" in here()
    assert diffedit("models", "show", NAME, "--json").json["variant"] == "fp16"
    assert "has no bf16 variant" in pull("--variant", "bf16").err


@pytest.mark.thorough
@pytest.mark.usefixtures("hub")
def test_what_was_downloaded_can_be_loaded() -> None:
    assert pull().code == 0
    ran = diffedit("doctor", "--model", NAME, "--json")
    (found,) = [finding for finding in json.loads(ran.out) if finding["what"] == "model"]
    assert found["code"] == 0, found["detail"]
    assert found["detail"].startswith("flux-dev (FLUX.1), 64 px")


@pytest.mark.parametrize("words", [("--network-only", "--without-network"), ("--without-network", "--network-only")])
@pytest.mark.usefixtures("hub")
def test_the_network_and_the_rest_are_downloaded_apart(repository: Path, words: tuple[str, ...]) -> None:
    every = needed(repository)
    config = {"transformer/config.json", "model_index.json"}
    parts = {"--network-only": network(every) | config, "--without-network": (every - network(every)) | config}
    first, second = words
    assert pull(first).code == 0
    assert here() == parts[first]
    ran = diffedit("models", "show", NAME)
    assert ran.code == 4
    assert f"diffedit models pull {NAME}" in ran.err
    assert pull(second).code == 0
    assert here() == every
    assert diffedit("models", "show", NAME).code == 0


def test_settings_alone_have_no_index_of_weights(hub: Hub, repository: Path) -> None:
    assert pull("--no-weights").code == 0
    assert here() == {name for name in needed(repository) if ".safetensors" not in name}
    del hub.asked[:]
    assert pull("--no-weights").lines[-1].startswith("0 files")
    assert [line for line in hub.asked if "/resolve/" in line and line.startswith("GET")] == []


def test_what_excludes_each_other_is_said_before_the_hub_is_asked(hub: Hub) -> None:
    for words in (("--network-only", "--without-network"), ("--network-only", "--no-weights")):
        ran = pull(*words)
        assert (ran.code, len(ran.lines)) == (2, 1)
        assert " and ".join(words) in ran.err
    assert hub.asked == []


def test_a_model_that_writes_prompts_has_no_network_of_its_own(hub: Hub) -> None:
    hub.architectures = ["BlipForConditionalGeneration"]
    hub.repositories["some/writer"] = hub.repositories[ID]
    ran = installed("models", "pull", "some/writer", "--network-only", "--yes")
    assert ran.code == 2
    assert "has no parts to choose from" in ran.err


# gates


def test_a_gate_is_said_before_anything_is_downloaded(hub: Hub) -> None:
    hub.gated, hub.refuse[ID] = {ID}, (403, "GatedRepo")
    ran = pull()
    assert ran.code == 4
    assert ran.lines[0].endswith(", gated")
    assert f"{ID} is gated: accept its licence at {hub.url}/{ID}, then log in with hf auth login" in ran.lines[1]
    assert len(ran.lines) == 2
    assert [line for line in hub.asked if "/resolve/" in line] == []


@pytest.mark.parametrize("tells", [True, False])
def test_who_has_accepted_a_licence_gets_the_files(hub: Hub, repository: Path, tells: bool) -> None:
    """Also from a mirror of the hub that does not say who may read."""
    hub.gated, hub.tells_access = {ID}, tells
    assert pull("--no-weights").code == 0
    assert here() == {name for name in needed(repository) if ".safetensors" not in name}
    hub.refuse[ID] = (403, "GatedRepo")
    assert pull("--no-weights").lines[-1].startswith("0 files")  # all here: nobody has to be asked
    hub.tells_access = False
    assert "is gated: accept its licence" in pull().lines[-1]


# every family


@pytest.mark.parametrize("family", WRITERS)
def test_the_files_of_each_family_are_those_that_count_in_its_digest(hub: Hub, tmp_path: Path, family: str) -> None:
    folder = WRITERS[family](tmp_path / "model")
    hub.repositories["some/model"], hub.pipeline = folder, FAMILIES[family].pipelines[0]
    for part in ("text_encoder_3", "safety_checker", "image_encoder", "unet"):
        (folder / part).mkdir()
        (folder / part / "readme.txt").write_text("of no use here")
    ran = installed("models", "pull", "some/model")
    assert "add --yes" in ran.lines[-1]
    offered = {line.split()[2] for line in ran.lines[:-2]}
    read = {path.relative_to(folder).as_posix() for path in registry.find(str(folder)).files()}
    assert offered == read | {"model_index.json"}
    assert not any(name.startswith(("text_encoder_3", "image_encoder", "unet")) for name in offered)
