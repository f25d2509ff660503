"""Models that are distilled to few steps: how they are recognised, and what an edit with them costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_transformers
from command import WORDS, diffedit, settled
from PIL import Image
from safetensors.torch import load_file
from tiny import write_json

from diffedit_cli.errors import UsageError
from diffedit_cli.models import registry
from diffedit_cli.models.folder import ModelFolder


def renamed(folder: Path, name: Path, **scheduler: Any) -> Path:
    """A copy of a model under another name, with other settings of its scheduler."""
    copy = Path(shutil.copytree(folder, name))
    path = copy / "scheduler" / "scheduler_config.json"
    write_json(path, json.loads(path.read_text()) | scheduler)
    return copy


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("sdxl-turbo", "turbo", 4),
        ("SDXL_Lightning_8step", "lightning", 8),
        ("dreamshaper-xl-lightning-2-steps", "lightning", 2),
        ("lcm-dreamshaper", "lcm", 4),
        ("sdxl-dmd2", "dmd2", 4),
        ("Hyper-SDXL-12steps", "hyper", 12),
        ("filmcam", None, None),  # lcm inside of a word
        ("hyper-realistic_v2", None, None),
        ("flux-dev-not-distilled", None, None),
        ("turbocharged_cars", None, None),
        ("juggernaut", None, None),
    ],
)
def test_names_tell(name: str, kind: str | None, steps: int | None, tiny_sdxl: Path, tmp_path: Path) -> None:
    model = registry.find(str(renamed(tiny_sdxl, tmp_path / name)))
    assert (model.profile and (model.profile.kind, model.profile.steps)) == (kind and (kind, steps))


def test_names_of_loras_tell(tiny_sdxl: Path) -> None:
    from diffedit_cli.models.adapters import Lora

    model = replace(registry.find(str(tiny_sdxl)), loras=(Lora(Path("lcm-lora-sdxl.safetensors"), 1.0, "0"),))
    assert model.profile is not None
    assert model.profile.why == "as the name lcm-lora-sdxl says"


def test_guidance_that_a_network_reads_stays(tmp_path: Path) -> None:
    folder = tiny_transformers.write_flux(tmp_path / "FLUX.1-Turbo-Alpha")
    model = registry.find(str(folder))
    assert model.profile is not None
    assert model.defaults == {"steps": 4, "maps": 2, "invert_every": 1, "guidance": 2.5}


def test_what_the_index_says_is_part_of_the_model(tmp_path: Path) -> None:
    """Both folders have the same files but for is_distilled, which results depend on."""
    base, distilled = (
        registry.find(str(tiny_transformers.write_flux2(tmp_path / str(said), is_distilled=said)))
        for said in (False, True)
    )
    assert base.digest != distilled.digest


def test_schedulers_tell(tiny_epsilon: Path, tmp_path: Path) -> None:
    model = registry.find(str(renamed(tiny_epsilon, tmp_path / "model", _class_name="LCMScheduler")))
    assert model.profile is not None
    assert str(model.profile) == "lcm: 4 steps, without guidance, as its scheduler LCMScheduler says"


WRITERS: dict[str, tuple[Callable[[Path], Path], str, str | None]] = {
    "klein": (tiny_transformers.write_flux2, "classifier-free", None),
    "klein-distilled": (lambda path: tiny_transformers.write_flux2(path, is_distilled=True), "none", "distilled"),
    "dev": (tiny_transformers.write_flux, "embedded", None),
    "schnell": (lambda path: tiny_transformers.write_flux(path, guidance_embeds=False), "none", "distilled"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_settings_tell(kind: str, tmp_path: Path) -> None:
    write, guidance, profile = WRITERS[kind]
    model = registry.find(str(write(tmp_path / "model")))
    assert (model.guidance, model.profile and model.profile.kind) == (guidance, profile)


def test_the_user_has_the_last_word(tiny_sdxl: Path, tmp_path: Path) -> None:
    model = registry.find(str(renamed(tiny_sdxl, tmp_path / "sdxl-turbo")))
    assert model.as_distilled("no").profile is None
    other = model.as_distilled("lcm").profile
    assert other is not None
    assert other.why == "as --distilled says"
    with pytest.raises(UsageError, match=r"^--distilled fast is unknown; use auto, no, turbo"):
        model.as_distilled("fast")


def test_the_spacing_of_timesteps_is_part_of_the_model(tiny_epsilon: Path, tmp_path: Path) -> None:
    """Distilled models begin at pure noise; a scheduler that says so itself is left alone."""
    plain = registry.find(str(tiny_epsilon))
    turbo = plain.as_distilled("turbo")
    said = registry.find(str(renamed(tiny_epsilon, tmp_path / "model", timestep_spacing="trailing")))
    assert (plain.spacing, turbo.spacing, said.as_distilled("turbo").spacing) == (None, "trailing", None)
    assert plain.digest != turbo.digest
    assert said.digest == said.as_distilled("turbo").digest


def spent(ran: Any) -> int:
    return sum(ran.json["evaluations"].values())


@pytest.mark.parametrize("family", ["tiny_sdxl", "klein-distilled", "schnell", "z-image"])
def test_an_edit_takes_few_evaluations(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if family == "z-image":
        folder = tiny_transformers.write_z_image(tmp_path / "Z-Image-Turbo")
    else:
        folder = request.getfixturevalue(family) if family in ("tiny_sdxl",) else WRITERS[family][0](tmp_path / "model")
    settled(tmp_path, folder, monkeypatch)
    for name in ("STEPS", "MAPS", "GUIDANCE"):
        monkeypatch.delenv(f"DIFFEDIT_{name}", raising=False)
    said = ["--distilled", "turbo"] if family == "tiny_sdxl" else []
    steps = 8 if family == "z-image" else 4
    ran = diffedit("invert", "cat.png", "--caption", "a cat", *said)
    assert ran.code == 0, ran.err
    levels = load_file(tmp_path / "cat.latents.safetensors")["timesteps"]
    assert len(levels) == int(0.9 * steps) + 1
    ran = diffedit("edit", "cat.png", *WORDS, *said, "--json", "--no-cache", "--room", 0, "--threshold", 0.3)
    assert ran.code == 0, ran.err
    evaluations = ran.json["evaluations"]
    assert evaluations["mask"] == 4
    assert evaluations["invert"] == evaluations["edit"] == int(0.9 * steps)
    assert steps > 4 or spent(ran) <= 12
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("cat.png", "cat.edited.png"))
    assert (before != after).any()
    ran = diffedit("edit", "cat.png", *WORDS, *said, "--steps", 6, "--json", "--room", 0, "--threshold", 0.3, "--force")
    assert ran.json["evaluations"]["edit"] == 5


@pytest.mark.parametrize(
    ("family", "options", "warnings"),
    [
        ("schnell", ["--guidance", "5"], ["--guidance has no effect: the model"]),
        ("schnell", ["--guidance", "1"], []),
        ("dev", ["--guidance", "5"], []),
        ("dev", ["--negative", "a dog"], ["--negative has no effect: the model"]),
        ("klein", ["--guidance", "5", "--negative", "a dog"], []),
    ],
)
def test_what_has_no_effect_is_said(
    family: str, options: list[str], warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(tmp_path, WRITERS[family][0](tmp_path / "model"), monkeypatch)
    ran = diffedit("edit", "cat.png", *WORDS, *options, "--threshold", 0.3, "--json", "--room", 0)
    assert ran.code == 0, ran.err
    said = [warning for warning in ran.warnings if "has no effect" in warning]
    assert len(said) == len(warnings)
    assert all(one.startswith(start) for one, start in zip(said, warnings, strict=True))


def test_show_tells_the_profile_and_why(tmp_path: Path, tiny_sdxl: Path) -> None:
    folder = renamed(tiny_sdxl, tmp_path / "sdxl-turbo")
    ran = diffedit("models", "show", folder)
    assert "profile: turbo: 4 steps, without guidance, as the name sdxl-turbo says" in ran.out.decode()
    assert "guidance: classifier-free" in ran.out.decode()
    assert "\nprofile: " not in diffedit("models", "show", folder, "--distilled", "no").out.decode()


@pytest.mark.usefixtures("here")
def test_the_record_repeats_the_edit() -> None:
    ran = diffedit("edit", "cat.png", *WORDS, "--distilled", "turbo", "--threshold", 0.3, "--room", 0)
    assert ran.code == 0, ran.err
    said = diffedit("info", "cat.edited.png").out.decode()
    assert "--distilled turbo" in said


def test_models_without_a_profile_keep_their_defaults(tiny_epsilon: Path) -> None:
    model: ModelFolder = registry.find(str(tiny_epsilon))
    assert model.defaults == {}


def test_a_saved_model_is_still_distilled(tiny_sdxl: Path, tmp_path: Path) -> None:
    folder = renamed(tiny_sdxl, tmp_path / "sdxl-lightning-2step")
    ran = diffedit("models", "save", tmp_path / "mine", "--model", folder)
    assert ran.code == 0, ran.err
    profile = registry.find(str(tmp_path / "mine")).profile
    assert profile is not None
    assert (profile.kind, profile.steps) == ("lightning", 2)
