"""A model of a small world refuses the pictures that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import SAMPLES
from command import FAST, WORDS, diffedit, picture
from PIL import Image
from skimage import data

from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks.domain_check import DRAWS, misfit
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.process import Level, Prediction
from diffedit_cli.errors import ModelError
from diffedit_cli.models import registry


class Knows:
    """Predicts all of the noise in one picture, and none in any other."""

    def __init__(self, x_0: torch.Tensor) -> None:
        self.x_0 = x_0

    def levels(self, steps: int, cells: int | None = None) -> list[Level]:  # noqa: ARG002
        return [Level(t, (1 - t / steps) ** 0.5, (t / steps) ** 0.5) for t in range(steps + 1)]

    def embed(self, prompt: str) -> Embedding:
        assert prompt == ""
        return Embedding(torch.zeros(1, 1, 1))

    def predict(self, x_t: torch.Tensor, at: Level, text: Embedding) -> Prediction:  # noqa: ARG002
        return Prediction(self.x_0, (x_t - at.a * self.x_0) / at.b)


def test_misfit_is_the_error_of_the_predicted_noise() -> None:
    """Analytic: a picture that is off by d has its noise missed by d a / b."""
    x_0 = torch.randn(1, 4, 8, 8)
    look = Knows(x_0)
    assert misfit(look, x_0, 0.25, torch.Generator().manual_seed(0)) == pytest.approx(0, abs=1e-10)
    assert misfit(look, x_0 + 0.5, 0.25, torch.Generator().manual_seed(0)) == pytest.approx(0.25 * 3, rel=1e-4)


@pytest.fixture
def as_default(choosy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it what a command takes that names no model."""
    monkeypatch.setattr(registry, "BUILTIN_FOLDER", choosy)


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("command", ["mask", "invert", "edit"])
def test_an_unknown_picture_is_refused_with_advice(tmp_path: Path, command: str) -> None:
    path = picture(tmp_path / "photo.png")
    words = ("--steps", 5) if command == "invert" else (*WORDS, *FAST)
    output = tmp_path / ("out.safetensors" if command == "invert" else "out.png")
    ran = diffedit(command, path, *words, "-o", output, "--no-cache")
    assert ran.code == 4
    assert len(ran.lines) == 1
    assert "photo.png" in ran.err
    assert "diffedit models pull sd15" in ran.err
    assert not output.exists()


@pytest.mark.usefixtures("as_default")
def test_whoever_names_the_model_is_only_warned_and_told_the_cost(tmp_path: Path) -> None:
    path = picture(tmp_path / "photo.png")
    words = (
        "edit",
        path,
        *WORDS,
        *FAST,
        "--model",
        "builtin",
        "-o",
        tmp_path / "out.png",
        "--cache-dir",
        tmp_path / "c",
    )
    ran = diffedit(*words, "--json")
    assert ran.code == 0
    assert any("photo.png is unlike" in warning for warning in ran.json["warnings"])
    assert ran.json["evaluations"] == {"mask": 4, "invert": 2, "edit": 6, "fitness": DRAWS}
    again = diffedit(*words, "--json", "--force")
    assert again.json["evaluations"] == {"mask": 0, "invert": 0, "edit": 0}
    assert again.json["warnings"] == ran.json["warnings"]
    unnamed = [word for word in words if word not in ("--model", "builtin")]
    for command in ("mask", "invert", "edit"):  # all of which is in the cache
        line = [command, path, "--steps", 3] if command == "invert" else [command, *unnamed[1:]]
        ran = diffedit(*line, "--cache-dir", tmp_path / "c", "--force")
        assert ran.code == 4, command
        assert "diffedit models pull sd15" in ran.err


@pytest.mark.usefixtures("as_default")
def test_a_picture_is_encoded_and_judged_once_whatever_becomes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, words = picture(tmp_path / "photo.png"), ("--model", "builtin", *FAST, "--json")
    kept = (*words, "--cache-dir", tmp_path / "c")
    assert diffedit("edit", path, *WORDS, *kept, "-o", tmp_path / "1.png").code == 0
    other = ("edit", path, "--from", "cat", "--to", "rabbit")
    with monkeypatch.context() as once:
        once.setattr(LatentDiffusion, "encode", lambda *_: pytest.fail("encoded again"))
        ran = diffedit(*other, *kept, "-o", tmp_path / "2.png")
    assert ran.code == 0, ran.err
    assert any("photo.png is unlike" in warning for warning in ran.json["warnings"])
    assert ran.json["evaluations"] == {"mask": 2, "invert": 0, "edit": 6}
    diffedit(*other, *words, "--no-cache", "-o", tmp_path / "3.png")
    assert Image.open(tmp_path / "2.png").tobytes() == Image.open(tmp_path / "3.png").tobytes()


def test_a_model_that_takes_anything_is_not_asked(tiny_epsilon: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "photo.png")
    ran = diffedit("mask", path, *WORDS, *FAST, "--model", tiny_epsilon, "--json", "--no-cache")
    assert ran.json["evaluations"] == {"mask": 4}


@pytest.mark.parametrize("content", ["{}", "[]", '{"strength": "much", "limit": 1}', "not json"])
def test_a_damaged_fitness_file_is_named(choosy: Path, content: str) -> None:
    (choosy / "fitness.json").write_text(content)
    with pytest.raises(ModelError, match=r"fitness\.json"):
        _ = registry.find(str(choosy)).fitness


@pytest.mark.parametrize("said", [None, "much", 2, -0.1, float("nan")])
def test_a_damaged_level_to_invert_from_is_named(choosy: Path, said: object) -> None:
    (choosy / "fitness.json").write_text(json.dumps({"strength": 0.25, "limit": 9.0, "invert-from": said}))
    with pytest.raises(ModelError, match=r"fitness\.json"):
        _ = registry.find(str(choosy)).defaults


def test_a_model_may_say_from_where_it_inverts(choosy: Path, tmp_path: Path) -> None:
    """An option says it, too; noise is drawn up to there, so that the network is asked less often."""
    path, plain = picture(tmp_path / "photo.png"), {"strength": 0.25, "limit": 9.0}

    def asked(said: dict[str, float], *told: object) -> int:
        (choosy / "fitness.json").write_text(json.dumps(plain | said))
        ran = diffedit("edit", path, *WORDS, *FAST, *told, "--model", choosy, "--json", "--no-cache", "--force")
        return int(ran.json["evaluations"]["invert"])

    from_noise = asked({}, "--invert-from", 0.5)
    assert from_noise < asked({})
    assert asked({"invert-from": 0.5}) == from_noise
    assert asked({"invert-from": 0.5}, "--invert-from", 0) == asked({})


def test_a_saved_model_stays_choosy(choosy: Path, tmp_path: Path) -> None:
    registry.find(str(choosy)).save(tmp_path / "copy")
    assert registry.find(str(tmp_path / "copy")).fitness == (0.25, 0.0)


@pytest.mark.thorough
def test_the_built_in_model_takes_its_world_and_no_photograph(tmp_path: Path) -> None:
    """What it learnt; `python -m training.fitness` has the whole table."""
    for sample in sorted(SAMPLES.glob("*.png")):
        ran = diffedit("invert", sample, "--steps", 2, "-o", tmp_path / f"{sample.stem}.safetensors", "--no-cache")
        assert ran.code == 0, ran.err
    for photo in ("astronaut", "cat", "coffee", "rocket"):
        path = tmp_path / f"{photo}.png"
        Image.fromarray(np.asarray(getattr(data, photo)())).save(path)
        assert diffedit("invert", path, "--steps", 2, "--no-cache").code == 4, photo
