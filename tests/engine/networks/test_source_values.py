"""Values of a source in the self-attention of every family: which rows, tokens and channels take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import WRITERS
from torch import Tensor, nn

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.source_values import SourceValues, ValueLayer, exchange
from diffedit_cli.errors import UsageError

ONE_STREAM = ("flux", "flux2", "chroma", "z-image")
SIDE = 16  # cells of the latents


@pytest.fixture(scope="module", params=WRITERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[family](tmp_path_factory.mktemp("family") / "model")


@pytest.fixture
def model(folder: Path) -> Any:
    return families.load(folder, "cpu", torch.float32, name="tiny")


def latents(model: Any, seed: int, n: int = 1) -> Tensor:
    return torch.randn((n, model.channels, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_another_picture_changes_predictions_and_the_same_one_does_not(model: Any) -> None:
    at, text, y_t = model.levels(10, SIDE * SIDE)[5], model.embed("a cat"), latents(model, 1)
    before, spent = model.predict(y_t, at, text).x_0, model.evaluations
    own, other = (model.source_values(x_t, at, text) for x_t in (y_t, 3 * latents(model, 2)))
    assert model.evaluations == spent + 2
    with model.keeping(own):
        close(model.predict(y_t, at, text).x_0, before)
    with model.keeping(other):
        assert not torch.allclose(model.predict(y_t, at, text).x_0, before, rtol=1e-3, atol=1e-4)
    assert torch.equal(model.predict(y_t, at, text).x_0, before)
    assert not any(module._forward_hooks for module in model.network.modules())


@torch.inference_mode()
def test_each_of_a_joined_call_takes_its_own_values(model: Any) -> None:
    """Also one that takes none, one whose values are recorded, and prompts of other lengths."""
    at, words = model.levels(10, SIDE * SIDE)[5], ("a cat", "a dog on grass", "")
    sources = [model.source_values(latents(model, seed), at, model.embed("cat")) for seed in range(2)]
    asked: list[ModelInput] = []

    def ask(rows: ModelInput) -> Tensor:
        asked.append(rows)
        return torch.zeros_like(rows.x_t)

    for number, values in enumerate([*sources, None, SourceValues()]):
        view = model.beside(ask)
        view._watch = values
        view.predict(latents(model, 10 + number, 2), at, model.embed(words[number % 3]))
    for rows, answer in zip(asked, model.ask_together(asked), strict=True):
        (alone,) = model.ask_together([rows])
        close(answer, alone)
    first, half = asked[0], asked[0].halves()[1]
    (whole,), (part,) = model.ask_together([first]), model.ask_together([half])
    close(whole[1:], part)


@torch.inference_mode()
def test_values_are_those_of_the_pictures_tokens(family: str, model: Any) -> None:
    """In layers with tokens of both, those differ between pictures; text does not where it has not seen the picture."""
    at, text = model.levels(10, SIDE * SIDE)[5], model.embed("a cat")
    for name, weight in model.network.named_parameters():
        if "to_add_out" in name:
            weight.zero_()
    seen: list[Tensor] = []
    for x_t in (latents(model, 1), latents(model, 2)):
        rows = ModelInput(x_t, torch.full((1,), at.timestep), text, [None])
        first = model._value_layers(rows)[0]
        hook = first.layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        model.predict(x_t, at, text)
        hook.remove()
    differ = (seen[0] != seen[1]).any(dim=2)[0]
    inside = torch.zeros_like(differ)
    inside[first.tokens] = True
    assert inside.all() != (family in ONE_STREAM)
    assert torch.equal(differ, inside)


def test_only_the_tokens_and_channels_of_a_layer_are_exchanged() -> None:
    layer = nn.Linear(4, 6)
    text = Embedding(torch.zeros(3, 1, 1))
    source, known = SourceValues(), SourceValues()
    known.of_layers, known.complete = {0: torch.full((2, 3), 9.0)}, True
    hidden = torch.randn(3, 5, 4)
    rows = ModelInput(torch.zeros(3, 1, 1, 1), torch.zeros(3), text, [source, known, None])
    with torch.no_grad():
        plain = layer(hidden)
        with exchange(lambda: [ValueLayer(layer, slice(-2, None), slice(2, 5))], rows):
            made = layer(hidden)
    assert torch.equal(source.of_layers[0], plain[0, -2:, 2:5])
    assert (made[1, -2:, 2:5] == 9).all()
    made[1, -2:, 2:5] = plain[1, -2:, 2:5]
    assert torch.equal(made, plain)
    assert not layer._forward_hooks


def test_without_such_layers_it_is_said(tiny_epsilon: Path) -> None:
    model: Any = families.load(tiny_epsilon, "cpu", torch.float32, name="tiny")
    model._value_layers = lambda _: []
    at = model.levels(10)[8]
    with pytest.raises(UsageError, match="The model tiny has no self-attention in its decoder"):
        model.source_values(latents(model, 1), at, model.embed("a cat"))
