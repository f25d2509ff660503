"""Masks from where the network looks for words: what is seen, that seeing changes nothing, and what it costs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import SAMPLES
from command import FAST, WORDS, diffedit, settled
from tiny_writers import write_t5

from diffedit_cli import DiffEdit
from diffedit_cli.engine.networks import cross_attention, families
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.pipeline import prompts
from diffedit_cli.pipeline.mask_expression import MASK_METHODS
from diffedit_cli.pipeline.params import Params

CAT = SAMPLES / "cat.png"


# Which words


@pytest.mark.parametrize(
    ("source", "target", "telling"),
    [
        ("cat", "dog", ["cat"]),
        ("a cat and a rose", "a dog and a rose", ["cat"]),
        ("A bowl of Apples.", "a bowl of pears", ["apples"]),
        ("a cat, on grass", "a cat", ["grass"]),
        ("a cat", "a cat with a hat", ["cat"]),  # none differs: all that say something
        ("the", "an", ["the"]),
        ("a (red)1.4 (cat on grass)0.5", "a cat on grass", ["red"]),
        ("a <toy> cat", "a cat", ["<toy>"]),
    ],
)
def test_the_words_that_tell_the_prompts_apart(source: str, target: str, telling: list[str]) -> None:
    assert prompts.telling_words(source, target) == telling


@pytest.mark.parametrize(
    ("source", "target", "attends", "method"),
    [
        ("a cat", "a dog", True, "both"),
        ("a cat on grass", "a cat", True, "both"),
        ("a cat", "a dog", False, "noise"),
        ("a cat", "a cat with a hat", True, "noise"),  # nothing gives way
        ("", "a dog", True, "noise"),
        (prompts.Embeds("0", Path("x.safetensors")), "a dog", True, "noise"),
        (prompts.Sentences("cat", ("a cat sits",), "flan"), "a dog", True, "noise"),
    ],
)
def test_by_default_both_are_asked_where_words_give_way(
    source: prompts.Prompt, target: str, attends: bool, method: str
) -> None:
    assert Params(from_=source, to=target).with_mask_method(attends).mask_method == method
    for given in MASK_METHODS:
        assert Params(from_=source, to=target, mask_method=given).with_mask_method(attends).mask_method == given


def test_what_is_no_words_is_refused() -> None:
    file = prompts.Embeds("0", Path("x.safetensors"))
    assert prompts.telling_words("a cat", file) == ["cat"]
    assert prompts.telling_words("a cat on grass", prompts.Sentences("a dog on grass", ("x",), "m")) == ["cat"]
    for given in (file, prompts.Sentences("cat", ("a cat sits",), "flan")):
        with pytest.raises(UsageError, match="--mask-method noise"):
            prompts.telling_words(given, "dog")


def test_their_places_are_those_of_their_tokens(builtin: StableDiffusion, tiny_epsilon: Path) -> None:
    assert builtin.clip.places("a cat, on grass.", ["grass", "cat"]) == [2, 4]
    spelling: Any = families.load(tiny_epsilon, "cpu", torch.float32)
    assert spelling.clip.places("a cat catty dog", ["cat"]) == [2]
    assert spelling.clip.places("a zoo", ["zoo"]) == [2, 3, 4]  # letter by letter
    assert spelling.clip.places("a (cat)1.3 dog", ["dog"]) == [3]
    with pytest.raises(ModelError, match='sees none of the words "dog"'):
        spelling.clip.places("a " * 80 + "dog", ["dog"])


# What is seen


@pytest.mark.parametrize("family", ["tiny_epsilon", "tiny_v", "tiny_sdxl"])
def test_it_is_the_networks_own_attention_and_changes_nothing(family: str, request: pytest.FixtureRequest) -> None:
    """By an attention processor that notes what the network multiplies its values by, as the oracle."""
    model: Any = families.load(request.getfixturevalue(family), "cpu", torch.float32)
    draws = torch.Generator().manual_seed(0)
    x_t, at = torch.randn((3, 4, 16, 12), generator=draws), model.levels(10)[5]
    source, target = model.embed("a cat"), model.embed("a dog")
    both = source.rows(3).followed_by(target.rows(3))
    before = model.predict(torch.cat([x_t, x_t]), at, both).eps
    with model.watching("a cat", ["cat"]) as watch:
        during = model.predict(torch.cat([x_t, x_t]), at, both).eps
        model.predict(x_t, at, target)  # another text, of which nothing is seen
    assert torch.equal(before, during)
    assert not any(module._forward_pre_hooks for module in model.unet.modules())

    noted = []

    def note(attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (attn.head_to_batch_dim(part) for part in
                             (attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told)))  # fmt: skip
        weights = attn.get_attention_scores(query, key)
        if attn in cross_attention.layers(model.unet):
            noted.append(weights[..., 2].reshape(3, -1, 8, 6))
        return attn.to_out[0](attn.batch_to_head_dim(weights @ value))

    model.unet.set_attn_processor(note)
    torch.testing.assert_close(model.predict(x_t, at, source).eps, before[:3], rtol=0, atol=1e-4)
    mean = torch.stack([one.mean(dim=(0, 1)) for one in noted]).mean(dim=0)
    seen = watch.map((8, 6))
    torch.testing.assert_close(seen, mean, rtol=1e-4, atol=1e-6)
    assert seen.std() > 0
    assert watch.map((16, 12)).shape == (16, 12)


def test_it_ends_with_an_error_too(builtin: StableDiffusion) -> None:
    with pytest.raises(KeyError), builtin.watching("a cat", ["cat"]):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in builtin.unet.modules())


@pytest.mark.parametrize(
    ("sample_size", "blocks", "block"),
    [
        (64, ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), 1),  # Stable Diffusion 1.5: 16 cells
        (96, ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), 1),  # 2.1: 24
        (128, ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), 0),  # XL: 32
        (32, ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), 1),  # the built-in model: 16
    ],
)
def test_the_layers_are_those_near_16_cells(sample_size: int, blocks: Sequence[str], block: int) -> None:
    from diffusers import UNet2DConditionModel

    down = [name.replace("Up", "Down") for name in reversed(blocks)]
    unet = UNet2DConditionModel(
        sample_size=sample_size, block_out_channels=(8,) * len(blocks), up_block_types=tuple(blocks),
        down_block_types=tuple(down), layers_per_block=1, attention_head_dim=4, cross_attention_dim=8,
        norm_num_groups=4,
    )  # fmt: skip
    names = {name for name, module in unet.named_modules() if module in cross_attention.layers(unet)}
    assert len(names) == 2
    assert all(name.startswith(f"up_blocks.{block}.") for name in names)


# The command


def found(*words: object) -> tuple[bytes, int]:
    """The mask, and what it cost, where nobody asks whether the cat is seen."""
    ran = diffedit("mask", "cat.png", *WORDS, *FAST, "--anyway", "--json", "--force", *words)
    assert ran.code == 0, ran.err
    return Path("cat.mask.png").read_bytes(), ran.json["evaluations"]["mask"]


@pytest.mark.thorough
@pytest.mark.usefixtures("sample_here")
def test_each_map_is_made_once_and_both_in_the_same_evaluations() -> None:
    masks: dict[str, bytes] = {}
    for method, cost in (("both", 4), ("noise", 0), ("attention", 0), ("both", 0)):
        mask, spent = found("--mask-method", method)
        assert spent == cost, method
        assert masks.setdefault(method, mask) == mask
    assert len(set(masks.values())) == 3
    assert found("--mask-method", "both", "--threshold", "0.6")[1] == 0
    for method in ("attention", "both"):  # first what --from predicts, then what --to does
        assert found("--mask-method", method, "--seed", 3)[1] == 2
        assert found("--mask-method", method, "--seed", 3)[1] == 0
    assert found("--mask-method", "attention", "--to", "rabbit")[1] == 0
    assert found("--mask-method", "noise", "--seed", 4)[1] == 4
    assert found("--mask-method", "both", "--seed", 4)[1] == 2


def test_alone_or_together_each_map_is_the_same(tmp_path: Path) -> None:
    kept, alone = DiffEdit(cache=tmp_path), DiffEdit()
    words = {"from_": "cat", "to": "dog", "steps": 5, "maps": 2, "threshold": 0.3}
    for method in ("both", "noise", "attention"):
        masks = [editor.mask(CAT, **words, mask_method=method).pixels for editor in (kept, alone)]
        assert (masks[0] == masks[1]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["both", "noise"])
@pytest.mark.parametrize("maps", [3, "auto"])
def test_for_another_target_the_source_is_not_predicted_again(tmp_path: Path, method: str, maps: int | str) -> None:
    """And the map is what it would be without a cache, bit for bit."""
    kept, alone = DiffEdit(cache=tmp_path), DiffEdit()
    words = {"steps": 5, "maps": maps, "threshold": 0.3, "mask_method": method, "anyway": True}
    kept.mask(CAT, from_="cat", to="dog", **words)
    masks = [editor.mask(CAT, from_="cat", to="a cake", **words) for editor in (kept, alone)]
    assert (masks[0].mask.contrast == masks[1].mask.contrast).all()
    saved, spent = (mask.stats.evaluations["mask"] for mask in masks)
    assert 2 * saved == spent > 0


@pytest.mark.parametrize("method", ["attention", "both"])
@pytest.mark.usefixtures("sample_here")
def test_info_repeats_it(method: str) -> None:
    before, _ = found("--mask-method", method)
    told = diffedit("info", "cat.mask.png").out.decode()
    (command,) = [line for line in told.splitlines() if line.startswith("diffedit mask")]
    assert f"--mask-method {method}" in command
    again = shlex.split(command.replace("PICTURE", "cat.png"))[1:]
    assert diffedit(*again).code == 0
    assert Path("cat.mask.png").read_bytes() == before


@pytest.mark.usefixtures("sample_here")
def test_an_unknown_method_is_said() -> None:
    ran = diffedit("mask", "cat.png", *WORDS, "--mask-method", "eyes")
    assert ran.code == 2
    assert "use auto, noise, attention, both" in ran.err


def test_a_file_of_embeddings_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_epsilon: Path
) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    assert diffedit("mask", "cat.png", *WORDS, "--save-embeds", "said").code == 0
    words = ("--from-embeds", "said/from.safetensors", "--to", "dog")
    ran = diffedit("mask", "cat.png", *words, "--mask-method", "both", "--force")
    assert ran.code == 2
    assert "--from-embeds leaves none" in ran.err
    words = ("--from", "cat", "--to-embeds", "said/to.safetensors")
    assert diffedit("mask", "cat.png", *words, "--mask-method", "both", "--force").code == 0


def test_sentences_cannot_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_epsilon: Path) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    flan = write_t5(tmp_path / "flan")
    ran = diffedit("mask", "cat.png", *WORDS, "--expand", 2, "--expand-model", flan, "--mask-method", "both")
    assert ran.code == 2
    assert "--expand leaves none" in ran.err


@pytest.mark.parametrize("family", ["tiny_v", "tiny_sdxl"])
def test_an_edit_by_it(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settled(tmp_path, request.getfixturevalue(family), monkeypatch)
    for method in ("attention", "both"):
        ran = diffedit("edit", "cat.png", *WORDS, "--mask-method", method, "--json", "--force")
        assert ran.code == 0, ran.err
        assert ran.json["mask_area"] > 0


def test_maps_without_a_common_place_leave_the_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_epsilon: Path
) -> None:
    settled(tmp_path, tiny_epsilon, monkeypatch)
    whole = cross_attention.Watch.map
    monkeypatch.setattr(cross_attention.Watch, "map", lambda self, grid: whole(self, grid) * 0)
    noise = diffedit("mask", "cat.png", *WORDS, "-o", "noise.png", "--json").json
    both = diffedit("mask", "cat.png", *WORDS, "-o", "both.png", "--mask-method", "both", "--json").json
    assert both["mask_area"] == noise["mask_area"]
    assert "that of noise alone" in " ".join(both["warnings"])
    from PIL import Image

    assert (np.asarray(Image.open("noise.png")) == np.asarray(Image.open("both.png"))).all()
    assert diffedit("mask", "cat.png", *WORDS, "--mask-method", "attention", "-o", "none.png").code == 5
