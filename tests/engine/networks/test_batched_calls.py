"""Calls of the network: several who ask in one, halved where memory ends, and each sees its own rows only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Embedding, ModelInput
from diffedit_cli.engine.networks import families
from diffedit_cli.engine.networks.batched_calls import PAIR, Calls, is_out_of_memory
from diffedit_cli.errors import DeviceError
from diffedit_cli.models.devices import device_errors

OUT_OF_MEMORY = (torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("MPS backend out of memory (MPS allocated)"),
                 RuntimeError("DefaultCPUAllocator: can't allocate memory"))  # fmt: skip


class Network:
    """Adds label and prompt to each row; fails at more than `most` rows, and at rows that `refuses` says."""

    def __init__(self, most: float = torch.inf, error: Exception = OUT_OF_MEMORY[0]) -> None:
        self.most, self.error = most, error
        self.tried: list[int] = []
        self.refuses: Callable[[ModelInput], bool] = lambda _: False

    def __call__(self, rows: ModelInput) -> Tensor:
        self.tried.append(len(rows))
        if len(rows) > self.most or self.refuses(rows):
            raise self.error
        return rows.x_t + (rows.timesteps + rows.text.tokens[:, 0, 0])[:, None, None, None]


def rows(count: int, *, label: int = 0, side: int = 2, length: int = 1) -> ModelInput:
    x_t = torch.arange(count * side * side).float().reshape(count, 1, side, side)
    text = Embedding(torch.full((count, length, 1), 0.5), torch.ones(count, 3))
    return ModelInput(x_t, torch.full((count,), label), text, [None] * count)


def expected(asked: ModelInput) -> Tensor:
    return Network()(asked)


def test_what_fits_together_is_one_call() -> None:
    network = Network()
    asked = [rows(2, label=3), rows(1, label=7), rows(2, side=4), rows(1), rows(1, length=2), rows(2, side=4, label=9)]
    answers = Calls(network).ask_together(asked)
    assert network.tried == [4, 4, 1]
    for one, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, Tensor)
        assert torch.equal(answer, expected(one))


def test_one_alone_asks_for_all_its_rows_and_several_for_a_pair_each() -> None:
    network = Network()
    calls = Calls(network)
    calls.ask(rows(9))
    assert network.tried == [9]
    calls.ask_together([rows(8)] * 8)
    assert network.tried[1:] == [8 * PAIR] * 4


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__}")
def test_what_is_too_much_is_halved_and_remembered(error: Exception) -> None:
    network = Network(most=3, error=error)
    calls = Calls(network)
    assert torch.equal(calls.ask(rows(9, label=2)), expected(rows(9, label=2)))
    assert network.tried == [9, 5, 3, 2, 2, 2]
    network.tried.clear()
    answers = calls.ask_together([rows(2), rows(2, label=1)])
    assert network.tried == [2, 2]
    assert [torch.equal(answer, expected(rows(2, label=label))) for label, answer in enumerate(answers)] == [True] * 2  # type: ignore[arg-type]


def test_only_a_single_row_that_is_too_much_is_an_error() -> None:
    network = Network(most=0)
    with pytest.raises(DeviceError, match="Out of memory on cpu"), device_errors("cpu"):
        Calls(network).ask(rows(4))
    assert network.tried == [4, 2, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), ValueError("bug")], ids=str)
def test_who_asks_too_much_is_told_so_alone(error: Exception) -> None:
    network = Network(error=error)
    network.refuses = lambda asked: bool((asked.timesteps == 13).any())
    first, second, third = Calls(network).ask_together([rows(1), rows(1, label=13), rows(1, label=2)])
    assert second is error
    assert torch.equal(first, expected(rows(1)))  # type: ignore[arg-type]
    assert torch.equal(third, expected(rows(1, label=2)))  # type: ignore[arg-type]


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    network = Network(most=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        Calls(network).ask(rows(4))
    assert network.tried == [4]


# Real networks


@pytest.fixture(params=["tiny_epsilon", "tiny_v", "tiny_sdxl", "tiny_sd3"])
def model(request: pytest.FixtureRequest) -> Any:
    return families.load(request.getfixturevalue(request.param), "cpu", torch.float32)


class Asker:
    """Keeps what is asked through a view of a model, which is answered with nothing yet."""

    def __init__(self, model: Any) -> None:
        self.asked: list[ModelInput] = []
        self.view = model.beside(self)

    def __call__(self, asked: ModelInput) -> Tensor:
        self.asked.append(asked)
        return torch.zeros_like(asked.x_t)


def test_a_network_says_the_same_to_several_at_different_levels(model: Any) -> None:
    levels, askers = model.levels(10), [Asker(model) for _ in range(3)]
    draws = torch.Generator().manual_seed(0)
    for number, (asker, prompt) in enumerate(zip(askers, ("a cat", "a dog", "a cat"), strict=True)):
        x_t = torch.randn((number + 1, model.vae.config["latent_channels"], 16, 12), generator=draws)
        asker.view.predict(x_t, levels[3 + number], model.embed(prompt))
        assert (asker.view.evaluations, model.evaluations) == (number + 1, 0)
    asked = [asker.asked[0] for asker in askers]
    for rows, answer in zip(asked, model.ask_together(asked), strict=True):
        (alone,) = model.ask_together([rows])
        torch.testing.assert_close(answer, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [4, 3], ids=["whole", "halved"])
def test_each_sees_where_the_network_looks_in_its_own_rows(tiny_epsilon: Path, most: int) -> None:
    """Of the same prompt, while another that does not look is told it, too; a call that fails is not counted."""
    model: Any = families.load(tiny_epsilon, "cpu", torch.float32)
    at, text = model.levels(10)[5], model.embed("a cat")
    draws = torch.Generator().manual_seed(0)
    pictures = [torch.randn((count, 4, 16, 16), generator=draws) for count in (2, 1, 1)]
    alone = []
    for x_t in pictures[:2]:
        with model.watching("a cat", ["cat"]) as watch:
            model.predict(x_t, at, text)
        alone.append(watch.map((16, 16)))
    forward = model.unet.conv_out.forward  # the last of all: what is seen is seen before

    def limited(hidden: Tensor) -> Tensor:
        if len(hidden) > most:
            raise torch.OutOfMemoryError
        return forward(hidden)

    model.unet.conv_out.forward = limited
    askers, watches = [Asker(model) for _ in pictures], []
    for asker, x_t in zip(askers, pictures, strict=True):
        if asker is askers[-1]:
            asker.view.predict(x_t, at, text)
            continue
        with asker.view.watching("a cat", ["cat"]) as watch:
            asker.view.predict(x_t, at, text)
        watches.append(watch)
    assert all(isinstance(answer, Tensor) for answer in model.ask_together([asker.asked[0] for asker in askers]))
    for watch, seen in zip(watches, alone, strict=True):
        torch.testing.assert_close(watch.map((16, 16)), seen, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1], rtol=1e-3)
    assert not any(module._forward_pre_hooks for module in model.unet.modules())
