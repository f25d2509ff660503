"""`models pull` by the installed program and the real client, from a hub on this machine."""

from __future__ import annotations

import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import INSTALLED, Ran, diffedit, finished, installed, started
from hub_server import COMMIT, Hub, serving
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_segmenters import write_clipseg, write_sam2
from tiny_writers import write_blip

from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import registry, transformers_folder
from diffedit_cli.models.names import SAM
from diffedit_cli.pipeline import segmentation

ID = "some/model"
FILES = {
    *("model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json"),
    *("vae/config.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json"),
}
WEIGHTS = {
    *("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> Path:
    """A model with much beside it that nobody needs, and its weights also in half precision."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(tiny_epsilon, folder)
    for name in WEIGHTS:
        path = folder / name
        save_file({key: tensor.half() for key, tensor in load_file(path).items()}, fp16_of(path))
        path.with_suffix(".bin").write_bytes(b"pickled")
    for name in ("README.md", "v1-5.safetensors", "v1-5.ckpt", "unet/model.onnx", "other/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    return folder


def fp16_of(path: Path) -> Path:
    return path.with_suffix(".fp16.safetensors")


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({ID: repository})) as hub:
        hub.reach(tmp_path / "hf", monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield hub


def pull(*words: str) -> Ran:
    return installed("models", "pull", *words)


def here() -> set[str]:
    """The files of the model in the hub's cache."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / "models--some--model" / "snapshots" / COMMIT
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("hub")
def test_what_an_edit_needs_is_downloaded_and_found(repository: Path) -> None:
    ran = pull(ID, "--yes")
    assert ran.code == 0, ran.err
    assert here() == FILES | WEIGHTS
    total = sum((repository / name).stat().st_size for name in FILES | WEIGHTS)
    assert f"11 files, {total / 1e6:.1f} MB to download of {ID}, licence openrail" in ran.err
    shown = diffedit("models", "show", ID, "--json").json
    assert shown["family"] == "sd"
    assert shown["variant"] is None
    assert shown["bytes"] == total - (repository / "model_index.json").stat().st_size
    assert COMMIT in shown["path"]


@pytest.mark.usefixtures("hub")
def test_everything_is_shown_before_anything_is_downloaded(hub: Hub) -> None:
    ran = pull(ID)
    assert ran.code == 2
    assert "--yes" in ran.lines[-1]
    assert {line.split()[2] for line in ran.lines[:-2]} == FILES | WEIGHTS
    assert [line for line in hub.asked if "/resolve/" in line] == []
    assert here() == set()


def test_what_is_here_is_not_downloaded_again(hub: Hub) -> None:
    pull(ID, "--yes")
    del hub.asked[:]
    ran = pull(ID)
    assert ran.code == 0
    assert "0 files" in ran.lines[-1]
    assert [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line] == []


@pytest.mark.usefixtures("hub")
def test_a_variant_is_downloaded_alone() -> None:
    assert pull(ID, "--variant", "fp16", "--yes").code == 0
    assert here() == FILES | {fp16_of(Path(name)).as_posix() for name in WEIGHTS}
    assert diffedit("models", "show", ID, "--json").json["variant"] == "fp16"
    ran = pull(ID, "--variant", "int8", "--yes")
    assert ran.code == 4
    assert "has no int8 variant" in ran.err


@pytest.mark.usefixtures("hub")
def test_the_small_files_alone_are_no_model() -> None:
    assert pull(ID, "--no-weights", "--yes").code == 0
    assert here() == FILES
    ran = diffedit("models", "show", ID)
    assert ran.code == 4
    assert f"diffedit models pull {ID}" in ran.err


@pytest.fixture
def weights(hub: Hub, repository: Path, tmp_path: Path) -> Path:
    """Weights that take a while; the connection breaks off within them."""
    folder = tmp_path / "big"
    shutil.copytree(repository, folder)
    hub.repositories[ID] = folder
    hub.cut_at = 15_000_000
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(os.urandom(24_000_000))
    return path


def test_a_broken_connection_is_taken_up_again(hub: Hub, weights: Path) -> None:
    ran = pull(ID, "--yes")
    assert ran.code == 0, ran.err
    first, second = hub.got(weights.name)[:2]
    assert first == ""
    assert int(second.removeprefix("bytes=").rstrip("-")) >= 10_000_000
    path = Path(diffedit("models", "show", ID, "--json").json["path"])
    assert (path / "unet" / weights.name).read_bytes() == weights.read_bytes()


@pytest.mark.usefixtures("weights")
def test_a_failed_download_goes_on_with_the_missing_files(hub: Hub) -> None:
    hub.gone_after_cut = True
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert "goes on with the files that are missing" in ran.lines[-1]
    assert "There is no model" in diffedit("models", "show", ID).err
    assert "text_encoder/model.safetensors" in here()
    hub.cut_at = None
    del hub.asked[:]
    ran = pull(ID, "--yes")
    assert ran.code == 0, ran.err
    assert hub.got("text_encoder/model.safetensors") == []
    assert here() == FILES | WEIGHTS


def test_a_half_finished_file_goes_on_where_it_was(hub: Hub, weights: Path) -> None:
    hub.gone_after_cut = True
    assert pull(ID, "--yes").code == 4
    hub.cut_at = None
    del hub.asked[:]
    ran = pull(ID, "--yes")
    assert ran.code == 0, ran.err
    (asked,) = hub.got(f"unet/{weights.name}")
    assert 10_000_000 <= int(asked.removeprefix("bytes=").rstrip("-")) <= 15_000_000
    path = Path(diffedit("models", "show", ID, "--json").json["path"])
    assert (path / "unet" / weights.name).read_bytes() == weights.read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.usefixtures("hub")
def test_ended_at_any_moment(repository: Path, rounds: int) -> None:
    """The next one completes, and leaves nothing of ours half finished."""
    rng, codes = random.Random(rounds), set()
    begun = time.perf_counter()
    assert pull(ID, "--yes").code == 0
    seconds = time.perf_counter() - begun
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) * rounds:
        shutil.rmtree(os.environ["HF_HOME"])
        process = started("models", "pull", ID, "--yes")
        time.sleep(rng.uniform(0.5, 1) * seconds)
        process.send_signal(number)
        ran = finished(process)
        assert "Traceback" not in ran.err, ran.err
        codes.add(ran.code)
        ran = pull(ID, "--yes")
        assert ran.code == 0, ran.err
        folder = Path(diffedit("models", "show", ID, "--json").json["path"])
        assert here() == FILES | WEIGHTS
        assert all((folder / name).read_bytes() == (repository / name).read_bytes() for name in FILES | WEIGHTS)
        # huggingface_hub may leave its own, of small files
        assert not list(Path(os.environ["HF_HOME"]).rglob("*.part"))
    assert codes <= {0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}


def test_a_half_finished_file_of_another_content_is_not_used(hub: Hub, weights: Path) -> None:
    hub.gone_after_cut = True
    assert pull(ID, "--yes").code == 4
    (part,) = (Path(constants.HF_HUB_CACHE) / "models--some--model" / "blobs").glob("*.part")
    part.write_bytes(b"x" * part.stat().st_size)
    hub.cut_at = None
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert "has other content than the hub states" in ran.lines[-1]
    assert pull(ID, "--yes").code == 0
    path = Path(diffedit("models", "show", ID, "--json").json["path"])
    assert (path / "unet" / weights.name).read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "GatedRepo", "is gated: accept its licence at http://127.0.0.1"),
        (403, "GatedRepo", "is gated: accept its licence at http://127.0.0.1"),
        (401, "", "log in with hf auth login"),
        (403, "", "log in with hf auth login"),
        (404, "EntryNotFound", "cannot be downloaded"),
    ],
)
def test_a_refusal_is_said_with_the_next_step(hub: Hub, status: int, code: str, says: str) -> None:
    hub.refuse[ID] = (status, code)
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert says in ran.lines[-1]
    assert "Traceback" not in ran.err
    assert here() == set()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("no/such", 4, "The hub shows no model no/such"),
        ("nonesuch", 2, "nonesuch is not a model of the hub"),
        ("a/b/c", 2, "a/b/c is not a model of the hub"),
        ("some/..", 2, "some/.. is not a model of the hub"),
        ("builtin", 2, "in the package"),
    ],
)
def test_what_cannot_be_pulled(name: str, code: int, says: str) -> None:
    ran = pull(name, "--yes")
    assert (ran.code, len(ran.lines)) == (code, 1)
    assert says in ran.err


def answered(answer: str) -> int:
    """The exit code of a pull on a terminal, where somebody types an answer."""
    person, program = pty.openpty()
    process = subprocess.Popen([INSTALLED, "models", "pull", ID], stdin=program, stderr=subprocess.DEVNULL)
    os.write(person, f"{answer}\n".encode())
    code = process.wait()
    os.close(person)
    os.close(program)
    return code


@pytest.mark.usefixtures("hub")
def test_on_a_terminal_it_asks() -> None:
    assert answered("n") == 130
    assert here() == set()
    assert answered("y") == 0
    assert here() == FILES | WEIGHTS


def test_what_diffedit_cannot_use_is_not_downloaded(hub: Hub) -> None:
    hub.pipeline = "AuraFlowPipeline"
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert "is a AuraFlowPipeline, which diffedit cannot use" in ran.err
    assert [line for line in hub.asked if "/resolve/" in line] == []
    assert all(family.title in ran.err for family in FAMILIES.values())


def test_models_without_safetensors_are_refused(hub: Hub, repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(repository, old, ignore=shutil.ignore_patterns("*.safetensors"))
    hub.repositories[ID] = old
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert "only pickled weights" in ran.err
    (old / "model_index.json").unlink()
    assert "not a diffusers model" in pull(ID, "--yes").err
    assert here() == set()


@pytest.mark.usefixtures("hub")
def test_without_a_network_it_says_so_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    ran = pull(ID, "--yes")
    assert ran.code == 4
    assert "check the network" in ran.lines[-1]
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "words", [("--offline",), ("HF_HUB_OFFLINE", "1"), ("DIFFEDIT_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1")]
)
def test_offline_means_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    if len(words) == 2:
        monkeypatch.setenv(*words)
    ran = pull(ID, "--yes", *(words if len(words) == 1 else ()))
    assert ran.code == 4
    assert "offline" in ran.err
    assert hub.asked == []


@pytest.mark.parametrize("words", [("--offline",), ("--yes",)])
@pytest.mark.parametrize("name", ["sd15", "flux-dev", "qwen-image"])
def test_without_a_network_size_and_licence_are_said_nevertheless(
    monkeypatch: pytest.MonkeyPatch, name: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    known = registry.NAMES[name]
    ran = pull(name, *words)
    assert ran.code == 4
    gated = ", gated" if known.gated else ""
    assert ran.lines[0] == f"{name} is {known.source}, {known.size / 1e9:.1f} GB in all, licence {known.licence}{gated}"


# all else stays on this machine


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("words", [("--offline",), ()])
@pytest.mark.parametrize("name", ["sd15", "some/where"])
def test_a_missing_model_is_said_without_asking_the_network(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    start = time.monotonic()
    ran = diffedit("edit", tmp_path / "cat.png", "--from", "cat", "--to", "dog", "--model", name, *words)
    assert time.monotonic() - start < 3
    assert ran.code == 4
    assert f"diffedit models pull {name}" in ran.err


def test_nothing_but_pull_asks_the_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    ran = installed("edit", "cat.png", "--from", "cat", "--to", "dog", "--model", ID)
    assert ran.code == 4
    assert f"diffedit models pull {ID}" in ran.err
    assert diffedit("models", "use", ID).code == 4
    assert diffedit("models", "save", "out", "--model", ID).code == 4
    assert diffedit("models", "list").code == 0
    assert hub.asked == []


def test_a_model_that_writes_prompts_is_pulled(hub: Hub, tmp_path: Path) -> None:
    folder = write_blip(tmp_path / "blip")
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md"):
        (folder / name).write_bytes(b"not needed")
    hub.repositories[ID], hub.architectures = folder, ["BlipForConditionalGeneration"]
    ran = pull(ID, "--yes")
    assert ran.code == 0, ran.err
    needed = {path.name for path in folder.iterdir() if path.suffix in (".json", ".txt", ".safetensors")}
    assert here() == needed
    assert transformers_folder.find(ID, "BlipForConditionalGeneration").path.joinpath("model.safetensors").is_file()
    hub.architectures = ["BertModel"]
    assert "not a diffusers model" in pull(ID, "--yes").err


def test_a_segmenter_is_pulled_by_its_name_and_found(hub: Hub, tmp_path: Path) -> None:
    folder = write_clipseg(tmp_path / "clipseg")
    (folder / "pytorch_model.bin").write_bytes(b"not needed")
    hub.repositories[registry.hub_id("clipseg")] = folder
    ran = pull("clipseg", "--yes")
    assert ran.code == 0, ran.err
    assert "clipseg is CIDAS/clipseg-rd64-refined, 603 MB in all, licence Apache-2.0" in ran.lines[0]
    assert not any("pytorch_model.bin" in line for line in hub.asked)
    assert segmentation.find("auto", tmp_path / "memo").name == "clipseg"
    hub.repositories["facebook/sam2.1-hiera-base-plus"] = write_sam2(tmp_path / "sam2", of_films=True)
    hub.architectures = ["Sam2VideoModel"]
    assert pull("facebook/sam2.1-hiera-base-plus", "--yes").code == 0
    assert transformers_folder.find("sam2", *SAM).architecture == "Sam2VideoModel"
