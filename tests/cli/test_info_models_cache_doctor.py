"""Settings, what `info` tells, and the commands that look after models, cache and machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch
from command import WORDS, diffedit
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_transformers import write_flux2

from diffedit_cli import __version__
from diffedit_cli.cli import config_file
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import registry
from diffedit_cli.models.names import SEGMENTERS

# settings


def steps_used(*words: str) -> int:
    ran = diffedit("invert", "cat.png", *words, "--strength", "1", "--invert-every", "1", "--no-cache", "--json")
    return ran.json["evaluations"]["invert"]


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    users = tmp_path_factory.mktemp("config")
    (users / "diffedit").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(users))
    monkeypatch.delenv("DIFFEDIT_STEPS")
    (users / "diffedit" / "diffedit.toml").write_text("steps = 2\n")
    if sys.platform == "linux":
        assert steps_used() == 2
    (here / "diffedit.toml").write_text("steps = 3\n")
    assert steps_used() == 3
    monkeypatch.setenv("DIFFEDIT_STEPS", "4")
    assert steps_used() == 4
    assert steps_used("--steps", "6") == 6


def test_the_files_set_prompts_and_switches(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "diffedit.toml").write_text('from = "cat"\nto = "dog"\nmask-strength = 0.8\n')
    (here / "own.toml").write_text("json = true\ncache = false\n")
    monkeypatch.setattr(config_file, "users_file", lambda: here / "own.toml")
    found = diffedit("mask", "cat.png").json
    assert found["cache"] == {"mask": "miss"}
    assert diffedit("mask", "cat.png").json["cache"] == {"mask": "miss"}
    assert diffedit("info", "cat.mask.png").json["mask-strength"] == 0.8


@pytest.mark.usefixtures("here")
def test_the_cache_commands_follow_the_file(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEDIT_CACHE_DIR")
    users.parent.mkdir()
    users.write_text('cache-dir = "kept"\n')
    assert diffedit("invert", "cat.png").code == 0
    assert "2 entries" in diffedit("cache", "list").out.decode()
    assert "removed 2 entries" in diffedit("cache", "clear").out.decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepps = 3", "sets stepps, which no command has"),
        ("image = 'cat.png'", "sets image, which no command has"),
        ("steps = ", "cannot be read"),
        ("[edit]\nsteps = 3", "The setting edit"),
        ("steps = 'many'", "--steps"),
    ],
)
def test_a_bad_settings_file_is_wrong_usage(here: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.delenv("DIFFEDIT_STEPS")
    (here / "diffedit.toml").write_text(text)
    ran = diffedit("mask", "cat.png", *WORDS)
    assert ran.code == 2
    assert says in ran.err
    assert "Traceback" not in ran.err


# info


def command_of(path: str, picture: str) -> list[str]:
    """The command that `info` prints last, for this picture, without the program's own name."""
    line = diffedit("info", path).out.decode().splitlines()[-1]
    program, *words = shlex.split(line)
    assert program == "diffedit"
    return [picture if word == "PICTURE" else word for word in words]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("mask", *WORDS, "--seed", 3, "--mask-strength", 0.8, "--clamp", 2.5), "cat.mask.png"),
        (("mask", *WORDS, "--from-negative", "grass", "--guidance", 3), "cat.mask.png"),
        (
            ("invert", "--caption", 'a cat\'s "photo"', "--strength", 0.6, "--invert-guidance", 2),
            "cat.latents.safetensors",
        ),
        (("edit", *WORDS), "cat.edited.png"),
        (("edit", *WORDS, "--negative", "", "--caption", "grass", "--guidance", 5, "--strength", 1), "cat.edited.png"),
        (("edit", *WORDS, "--eta", 0.5, "--seed", 4), "cat.edited.png"),
        (("edit", *WORDS, "--scheduler", "ddim"), "cat.edited.png"),
        (("invert", "--caption", "cat", "--reg-steps", 1, "--lambda-kl", 3, "--seed", 2), "cat.latents.safetensors"),
        (("edit", *WORDS, "--reg-steps", 1, "--auto-corr-rolls", 2, "--seed", 2), "cat.edited.png"),
        (("edit", *WORDS, "--dtype", "bfloat16"), "cat.edited.png"),
        (("edit", *WORDS, "--clip-skip", 1), "cat.edited.png"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else value,
)
def test_info_tells_the_command_that_makes_the_same_bytes(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], output: str
) -> None:
    command, *options = words
    assert diffedit(command, "cat.png", *options).code == 0
    first = (here / output).read_bytes()
    again = command_of(output, "cat.png")
    for name in ("MODEL", "STEPS", "MAPS", "THRESHOLD"):
        monkeypatch.delenv(f"DIFFEDIT_{name}")
    (here / output).unlink()
    ran = diffedit(*again, "--no-cache")
    assert ran.code == 0, ran.err
    assert (here / output).read_bytes() == first


def test_info_asks_for_a_mask_that_the_words_do_not_make(here: Path) -> None:
    diffedit("mask", "cat.png", *WORDS)
    Image.new("L", (60, 40), 255).save(here / "drawn.png")
    for given, to in (("drawn.png", "dog"), ("cat.mask.png", "grass")):
        assert diffedit("edit", "cat.png", "--from", "cat", "--to", to, "--mask", given, "-o", "x.png").code == 0
        again = command_of("x.png", "cat.png")
        assert again[again.index("--mask") + 1] == "MASK.png"
        first = (here / "x.png").read_bytes()
        assert diffedit(*[given if word == "MASK.png" else word for word in again], "-o", "x.png").code == 0
        assert (here / "x.png").read_bytes() == first


@pytest.mark.usefixtures("here")
def test_info_as_json() -> None:
    diffedit("edit", "cat.png", *WORDS)
    found = diffedit("info", "cat.edited.png", "--json").json
    assert found["kind"] == "edit"
    assert found["mask"]["from"] == "cat"
    assert found["command"].startswith("diffedit edit PICTURE --from cat --to dog")


def test_info_does_not_know_cache_entries_as_results(here: Path) -> None:
    diffedit("invert", "cat.png", "--cache-dir", "kept")
    ran = diffedit("info", next((here / "kept").rglob("*.safetensors")))
    assert ran.code == 3
    assert "cache" in ran.err


# models, cache, doctor


def test_models_list_says_what_is_here_and_what_is_used() -> None:
    rows = {row["name"]: row for row in json.loads(diffedit("models", "list", "--json").out)}
    assert set(rows) == set(registry.NAMES) | set(SEGMENTERS)
    assert [name for name, row in rows.items() if row["here"]] == ["builtin"]
    assert [name for name, row in rows.items() if row["default"]] == ["builtin"]
    assert {row["family"] for row in rows.values()} == set(FAMILIES) | set(SEGMENTERS)
    assert all(row["licence"] and row["size"] for row in rows.values())
    assert {name for name, row in rows.items() if row["painter"]} == {"flux-fill", "flux-kontext"}
    gated = {"sd3": True, "sdxl-turbo": False, "flux2-klein": False, "flux2-klein-9b": True, "z-image": False}
    assert {name: rows[name]["gated"] for name in gated} == gated


def test_the_list_of_models_fits_a_terminal_in_groups_of_families() -> None:
    heading, *lines = diffedit("models", "list").out.decode().splitlines()
    assert heading.split() == ["NAME", "SIZE", "LICENCE", "GATED", "HERE"]
    assert max(map(len, lines)) <= 80
    groups: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("  "):
            groups[list(groups)[-1]].append(line)
        else:
            groups[line] = []
    titles = {family.title for family in FAMILIES.values()}
    assert set(groups) == titles | {"FLUX.1, for --painter", "Masks from words, for --segmenter"}
    assert [line.split()[0] for line in groups["FLUX.1"]] == ["flux-dev", "flux-krea", "flux-schnell"]
    assert groups["FLUX.2-klein"][2].split() == ["flux2-klein-9b", "34.7", "GB", "FLUX", "Non-Commercial", "yes", "no"]
    assert [line.split()[0] for line in lines if line.endswith("yes, default")] == ["builtin"]
    assert sum(map(len, groups.values())) == len(registry.NAMES) + len(SEGMENTERS)


@pytest.fixture
def users(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings file, empty, and nothing else that names a model."""
    if sys.platform != "linux":
        pytest.skip("elsewhere the settings' folder cannot be chosen")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.delenv("DIFFEDIT_MODEL", raising=False)
    return config_file.users_file()


def test_models_use_sets_the_default_of_every_command(here: Path, users: Path, tiny_v: Path) -> None:
    (here / "mine").symlink_to(tiny_v)
    assert diffedit("models", "use", "mine").code == 0
    assert diffedit("invert", "cat.png", "--json").json["model"] == str(here / "mine")
    assert diffedit("models", "show", "--json").json["name"] == str(here / "mine")
    assert f"The default is {here / 'mine'}" in diffedit("models", "list").out.decode()
    assert diffedit("models", "use", "builtin").code == 0
    assert users.read_text() == ""  # as it was before: the built-in one is named nowhere, and refuses photographs
    assert config_file.effective("model", "none") == "none"


def test_models_use_keeps_the_rest_of_the_file(here: Path, users: Path, tiny_v: Path) -> None:
    users.parent.mkdir()
    kept = here / "dotfiles.toml"
    kept.write_text("# mine\nsteps = 3  # fast\nmodel = 'sd15' # good\n")
    users.symlink_to(kept)
    assert diffedit("models", "use", tiny_v).code == 0
    assert kept.read_text() == f'# mine\nsteps = 3  # fast\nmodel = "{tiny_v}" # good\n'
    assert users.is_symlink()
    assert diffedit("models", "use", "builtin").code == 0
    assert kept.read_text() == "# mine\nsteps = 3  # fast\n"


def test_models_use_that_fails_changes_nothing(users: Path) -> None:
    assert diffedit("models", "use", "sd15").code == 4
    assert not users.exists()
    users.parent.mkdir()
    users.mkdir()
    assert diffedit("models", "use", "builtin").code == 6


@pytest.mark.usefixtures("users", "here")
def test_models_use_says_when_something_else_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFEDIT_MODEL")
    assert "warning" not in diffedit("models", "use", "builtin").err
    monkeypatch.setenv("DIFFEDIT_MODEL", "sdxl")
    assert "DIFFEDIT_MODEL is sdxl" in diffedit("models", "use", "builtin").err


def test_models_show_tells_what_a_model_is(tiny_v: Path) -> None:
    found = diffedit("models", "show", tiny_v, "--json").json
    assert found["prediction"] == "v_prediction"
    assert found["native-size"] == 64
    assert found["path"] == str(tiny_v)
    assert found["digest"] == registry.find(str(tiny_v)).digest
    weights = (tiny_v / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert found["parts"]["vae"] == weights + (tiny_v / "vae" / "config.json").stat().st_size
    assert found["bytes"] == sum(found["parts"].values())
    lines = diffedit("models", "show", "builtin").out.decode().splitlines()
    size = f"native-size: {registry.find('builtin').native_size} px"
    assert {"family: sd", "prediction: v_prediction", size, "licence: MIT"} <= set(lines)


@pytest.mark.usefixtures("here")
def test_models_save_writes_a_folder_that_is_the_same_model(tiny_epsilon: Path, tiny_v: Path) -> None:
    ran = diffedit("models", "save", "new/saved", "--model", tiny_epsilon)
    assert (ran.code, ran.out.decode().strip()) == (0, str(Path("new") / "saved"))
    assert registry.find("new/saved").digest == registry.find(str(tiny_epsilon)).digest
    assert diffedit("mask", "cat.png", *WORDS, "--model", "new/saved").code == 0
    assert diffedit("models", "save", "new/saved", "--model", tiny_v).code == 6
    assert registry.find("new/saved").digest == registry.find(str(tiny_epsilon)).digest
    assert diffedit("models", "save", "new/saved", "--model", tiny_v, "--force").code == 0
    assert registry.find("new/saved").digest == registry.find(str(tiny_v)).digest
    assert [path.name for path in Path("new").iterdir()] == ["saved"]


def test_models_save_replaces_what_it_wrote_with_a_lora(tmp_path: Path) -> None:
    """Also where the tokenizer has a chat template, which is written with the changed tokenizer."""
    folder, saved = write_flux2(tmp_path / "model"), tmp_path / "saved"
    layer = "transformer.single_transformer_blocks.0.attn.to_out"
    weight = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")[
        layer.split(".", 1)[1] + ".weight"
    ]
    factors = {"A": torch.ones(1, weight.shape[1]), "B": torch.ones(weight.shape[0], 1)}
    lora = tmp_path / "lora.safetensors"
    save_file({f"{layer}.lora_{name}.weight": factor for name, factor in factors.items()}, lora)
    for _ in range(2):
        ran = diffedit("models", "save", saved, "--model", folder, "--lora", lora, "--force")
        assert ran.code == 0, ran.err
    assert (saved / "tokenizer" / "chat_template.jinja").is_file()
    changed = load_file(saved / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(changed[layer.split(".", 1)[1] + ".weight"], weight + 1)
    assert registry.find(str(saved)).digest != registry.find(str(folder)).digest


def test_the_cache_is_listed_pruned_and_cleared(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffedit("edit", "cat.png", *WORDS, "--cache-dir", "kept")
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", "kept")
    sizes = [path.stat().st_size for path in (here / "kept").rglob("*.safetensors")]
    listed = diffedit("cache", "list").out.decode()
    assert "contrast" in listed
    assert "inversion" in listed
    assert "attention" in listed
    assert "edited" in listed
    assert "encoded" in listed
    assert "decoded" in listed
    assert "7 entries" in listed
    assert "removed 0 entries" in diffedit("cache", "prune").out.decode()
    assert "removed 6 entries" in diffedit("cache", "prune", "--keep", max(sizes) / 1e6).out.decode()
    assert "removed 1 entries" in diffedit("cache", "clear").out.decode()
    assert "0 entries" in diffedit("cache", "list").out.decode()


def age(path: Path) -> None:
    """As if nothing of it had changed for two hours."""
    for one in (*path.rglob("*"), path):
        os.utime(one, (0, time.time() - 7200))


def test_what_a_killed_writer_left_is_pruned_but_not_what_is_being_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffedit("invert", "cat.png", "--cache-dir", "kept")
    monkeypatch.setenv("DIFFEDIT_CACHE_DIR", "kept")
    entry, _ = sorted((here / "kept").rglob("*.safetensors"))
    part = ".diffedit-0-{}.part"
    left = [
        entry.with_name(f".{entry.name}{part.format('a' * 8)}"),
        here / "kept" / "digests" / f".b{part.format('b' * 8)}",
    ]
    folders = [here / "kept" / "models" / f".{name}{part.format(name * 8)}" for name in "cd"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(1000))
    for path in folders:
        path.mkdir(parents=True)
        (path / "weights").write_bytes(bytes(1000))
    everything = [*left, *folders]
    assert "removed 0 entries" in diffedit("cache", "prune").out.decode()
    assert "2 entries" in diffedit("cache", "list").out.decode()
    for path in everything[::2]:
        age(path)
    assert diffedit("cache", "list").out.decode().count("unfinished") == 2
    assert "removed 2 entries, 0.0 MB" in diffedit("cache", "prune").out.decode()
    assert [path.exists() for path in everything] == [False, True, False, True]
    for path in everything[1::2]:
        age(path)
    assert "removed 4 entries" in diffedit("cache", "clear").out.decode()
    assert {path.name for path in (here / "kept").rglob("*") if path.is_file()} == {
        ".diffedit-cache",
        ".diffedit-usage",
    }


@pytest.mark.usefixtures("here")
def test_doctor_finds_nothing_wrong_here() -> None:
    ran = diffedit("doctor", "--model", "builtin", "--json")
    findings = {finding["what"]: finding for finding in json.loads(ran.out)}
    assert set(findings) == {"diffedit", "libraries", "device", "memory", "model", "cache", "serve"}
    assert {finding["code"] for finding in findings.values()} == {0}
    assert ran.code == 0
    assert __version__ in findings["diffedit"]["detail"]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--model", "nonesuch"), 4, "model"),
        (("--device", "cuda:99"), 7, "device"),
        (("--cache-dir", "cat.png"), 6, "cache"),
    ],
)
@pytest.mark.usefixtures("here")
def test_doctor_names_the_problem_and_looks_on(words: tuple[str, ...], code: int, what: str) -> None:
    ran = diffedit("doctor", *words)
    assert ran.code == code
    rows = {line.split()[0]: line.split()[1] for line in ran.out.decode().splitlines()[1:]}
    assert rows[what] == "PROBLEM"
    assert rows["libraries"] == "ok"
    assert len(rows) == 7
