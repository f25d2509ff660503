"""What a batch of training shows, and what becomes of two checkpoints: their mean, and the words of each."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.blend import blend
from training.latents import ANYTHING, Index, Scenes
from training.loss import EDITS_FROM, attention_to, drawn_levels, half_edited, loss_of, mixed
from training.settings import UnetTraining
from training.unet import Mix, build_scheduler
from training.words import CAPACITY, TOKEN
from training.workspace import save_atomically

RNG = random.Random(0)


def drawn(index: Index[int], *wanted: tuple[str, str]) -> set[int]:
    return {index.draw(kind, RNG) for kind in wanted for _ in range(50)}


def test_scenes_are_found_by_what_they_show() -> None:
    index = Index[int]()
    scenes = [("one", ("cat",)), ("one", ("dog",)), ("two", ("dog", "cat")), ("two", ("hat", "car")), ("empty", ())]
    scenes += [("bowl", ("fruits",))]
    for at, (kind, objects) in enumerate(scenes):
        index.add(at, (kind, objects, "grass"))
    assert drawn(index, ("one", ANYTHING)) == {0, 1, 5}
    assert drawn(index, ("two", ANYTHING)) == {2, 3}
    assert drawn(index, ("empty", ANYTHING)) == {4}
    assert drawn(index, ("one", "dog"), ("two", "dog")) == {1, 2}
    assert drawn(index, ("one", "hat")) == {0, 1, 5}  # none shows it alone
    few = Index[int]()
    few.add(0, ("one", ("cat",), "grass"))
    assert drawn(few, ("empty", ANYTHING), ("two", "dog")) == {0}


def test_what_is_weak_is_shown_more_often() -> None:
    mix = Mix([], [], UnetTraining(often=("dog", "dog", "hat"), often_share=0.3))
    wanted = [mix.wanted(two_share=0.25) for _ in range(20_000)]
    names = Counter(name for _, name in wanted)
    shares = {name: round(count / len(wanted), 1) for name, count in names.items()}
    assert shares == {ANYTHING: 0.7, "dog": 0.2, "hat": 0.1}
    numbers = Counter(number for number, _ in wanted)
    assert {number: round(count / len(wanted), 2) for number, count in numbers.items()} == {
        "one": 0.65, "two": 0.25, "empty": 0.1,
    }  # fmt: skip
    assert {name for number, name in wanted if number == "empty"} == {ANYTHING}
    mix = Mix([], [], UnetTraining(empty_share=0.0))
    assert {mix.wanted(0.0) for _ in range(100)} == {("one", ANYTHING)}


def test_a_blend_is_the_mean_of_what_both_know() -> None:
    embedding = "text_encoder.token_embedding.weight"

    def checkpoint(value: float, wider_pictures: int) -> dict[str, object]:
        weights = {"unet.weight": torch.full((2, 2), value), embedding: torch.full((CAPACITY, 3), value)}
        return {"settings": {}, "pictures": 10, "wider_pictures": wider_pictures, "average": weights, "optimizer": {}}

    mixed = blend(checkpoint(0.0, 0), checkpoint(1.0, 4), 0.75)
    assert mixed["average"]["unet.weight"].tolist() == [[0.75] * 2] * 2
    rows = mixed["average"][embedding][:, 0]
    assert (rows[TOKEN["cat"]], rows[TOKEN["fox"]]) == (0.75, 1.0)  # the first has never seen a fox
    assert mixed["model"] is mixed["average"]
    assert (mixed["step"], mixed["wider_pictures"], "optimizer" in mixed) == (0, 4, False)
    both = blend(checkpoint(0.0, 1), checkpoint(1.0, 4), 0.75)
    assert both["average"][embedding][TOKEN["fox"], 0] == 0.75


def test_a_mixed_scene_holds_a_rectangle_of_the_one_before() -> None:
    torch.manual_seed(0)
    x_0 = torch.arange(200.0).view(200, 1, 1, 1).expand(-1, 3, 32, 32)
    seen = mixed(x_0)
    other = seen != x_0
    assert torch.equal(seen[other], x_0.roll(1, 0)[other])
    assert torch.equal(other, other[:, :1].expand_as(other))
    rows, columns = other[:, 0].any(2), other[:, 0].any(1)
    assert torch.equal(other[:, 0], rows[:, :, None] & columns[:, None])  # a rectangle
    for sides in (rows.sum(1), columns.sum(1)):
        assert (sides.min(), sides.max()) == (8, 24)


def test_an_edit_shows_less_of_what_was_there_the_less_noise_there_is() -> None:
    """With DDIM and a perfect model: the very latents of each step down."""
    levels = build_scheduler().alphas_cumprod
    new, old, noise = torch.randn((3, 1, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    a, b = levels.sqrt(), (1 - levels).sqrt()
    begun = 900
    y_t = a[begun] * old + b[begun] * noise
    under: dict[int, Tensor] = {begun: old}
    for higher, lower in pairwise([begun, 800, 600, 300]):
        eps = (y_t - a[higher] * new) / b[higher]
        y_t = a[lower] * new + b[lower] * eps
        under[lower] = (y_t - b[lower] * noise) / a[lower]
    torch.manual_seed(0)
    for t, expected in under.items():
        many = torch.full((4000,), t)
        shares = (half_edited(new, old, many, levels) - new).mean((1, 2, 3)) / (old - new).mean()
        least, wanted, most = (
            float(value) for value in (shares.min(), ((expected - new) / (old - new)).mean(), shares.max())
        )
        assert 0 < least <= wanted + 1e-4 <= most + 2e-4
        assert most == pytest.approx(1.0 if t >= EDITS_FROM else float(a[450] * b[t] / (b[450] * a[t])), rel=1e-4)


def test_levels_are_drawn_from_all_and_more_from_those_that_decide() -> None:
    torch.manual_seed(0)
    levels = build_scheduler().alphas_cumprod
    for share, clean in ((0.0, 0.02), (0.5, 0.06), (1.0, 0.1)):
        drawn = drawn_levels(40_000, levels, UnetTraining(uniform_share=share))
        assert 0 <= drawn.min() <= drawn.max() < 1000
        assert float((drawn < 100).float().mean()) == pytest.approx(clean, abs=0.02)


def test_what_an_edit_changes_counts_more() -> None:
    x_0 = torch.zeros(2, 4, 8, 8)
    before = x_0.clone()
    before[0, :, :4] = 1.0
    before[1, 0, 0, 0] = 0.1  # less than an edit makes
    found = attention_to(x_0, before, UnetTraining(changed_weight=3.0))
    assert found.shape == (2, 1, 8, 8)
    assert (found[0, 0, :4] == 3).all()
    assert (found[0, 0, 4:] == 1).all()
    assert (found[1] == 1).all()
    assert (attention_to(x_0, before, UnetTraining()) == 1).all()


NOTHING = {"mixed_share": 0.0, "edit_share": 0.0}


@pytest.mark.parametrize("shares", [NOTHING, {**NOTHING, "mixed_share": 0.5}, {**NOTHING, "edit_share": 0.5}], ids=str)
def test_the_loss_asks_for_the_scene_of_the_words_whatever_is_seen(shares: dict[str, float]) -> None:
    levels = build_scheduler().alphas_cumprod
    x_0, before = 4 * torch.randn((2, 64, 2, 32, 32), generator=torch.Generator().manual_seed(0))
    contradicted: list[bool] = []

    def oracle(x_t: Tensor, t: Tensor, _: Tensor) -> Tensor:
        """Knows the scene, and looks how near the noisy one is to it."""
        signal = levels[t].view(-1, 1, 1, 1)
        noise = (x_t - signal.sqrt() * x_0) / (1 - signal).sqrt()
        contradicted.extend((noise.var((1, 2, 3)) > 1.3).tolist())
        return (signal.sqrt() * x_t - x_0) / (1 - signal).sqrt()

    torch.manual_seed(0)
    batch = x_0, before, torch.zeros(64, 16)
    loss, error = loss_of(oracle, batch, levels, UnetTraining(centre=0.6, spread=1.0, **shares))
    assert loss < 1e-9
    assert error < 1e-9
    assert any(contradicted) == any(shares.values())


def test_scenes_lie_beside_what_an_edit_makes_of_them(tmp_path: Path) -> None:
    """Shards and streams alike: a scene, then the edited one, and each is the other side of the other."""
    contents = [("one", (name,), "snow") for name in ("cat", "dog", "pig", "cow")]
    scenes = Scenes(AutoencoderKL(), tmp_path)
    save_atomically((torch.arange(4.0).view(4, 1, 1, 1), contents), tmp_path / "pairs-0000.pt")
    scenes.grow(1)
    latents, twins, _ = scenes.batch([("one", ANYTHING)] * 50, random.Random(0))
    assert set(zip(latents.flatten().tolist(), twins.flatten().tolist(), strict=True)) == {
        (0, 1),
        (1, 0),
        (2, 3),
        (3, 2),
    }
