"""Words with weights, `(word)1.3`, against compel itself; and prompts without any, which nothing changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import FAST, diffedit, picture
from compel import Compel, ReturnedEmbeddingsType

from diffedit_cli.engine.networks import families, prompt_weighting
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.networks.sdxl import StableDiffusionXL
from diffedit_cli.errors import ModelError

PENULTIMATE = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
WEIGHTED = [
    "a (cat)1.3 on grass",
    "(a cat)1.5 on grass",
    "a cat on (grass)0.5",
    "((cat)1.2 on grass)1.1",
    "a (cat)0 dog",
]


@pytest.fixture(scope="module")
def sd(tiny_epsilon: Path) -> StableDiffusion:
    return StableDiffusion.load(tiny_epsilon, "cpu", torch.float32)


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl: Path) -> StableDiffusionXL:
    return StableDiffusionXL.load(tiny_sdxl, "cpu", torch.float32)


@pytest.mark.parametrize("prompt", WEIGHTED)
def test_sd_reads_them_as_compel_does(sd: StableDiffusion, prompt: str) -> None:
    theirs = Compel(sd.tokenizer, sd.text_encoder)(prompt)
    torch.testing.assert_close(sd.embed(prompt).tokens, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(theirs, sd.embed(prompt_weighting.plain(prompt)).tokens, atol=1e-3)


@pytest.mark.parametrize("prompt", WEIGHTED)
def test_sdxl_reads_them_as_compel_does(sdxl: StableDiffusionXL, prompt: str) -> None:
    ours, plain = sdxl.embed(prompt), sdxl.embed(prompt_weighting.plain(prompt))
    theirs = [
        Compel(clip.tokenizer, clip.network, returned_embeddings_type=PENULTIMATE)(prompt)
        for clip in (sdxl.clip, sdxl.clip_2)
    ]
    torch.testing.assert_close(ours.tokens, torch.cat(theirs, dim=-1), rtol=0, atol=1e-5)
    assert not torch.allclose(ours.tokens, plain.tokens, atol=1e-3)
    assert ours.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(ours.pooled, plain.pooled)


def test_a_weight_is_the_distance_from_the_empty_prompt(sd: StableDiffusion) -> None:
    """Also for an earlier layer: the second place holds the only token of `cat`."""
    for clip_skip in (0, 1):
        empty, once, more = (sd.embed(prompt, clip_skip).tokens[0] for prompt in ("", "cat", "(cat)1.3"))
        expected = once.clone()
        expected[1] = empty[1] + 1.3 * (once[1] - empty[1])
        torch.testing.assert_close(more, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", ["(cat)1.0 on grass", "(cat on)1 grass", "((cat)2 on grass)0.5"])
def test_a_weight_of_one_is_none(sd: StableDiffusion, prompt: str) -> None:
    same = torch.equal(sd.embed(prompt).tokens, sd.embed("cat on grass").tokens)
    assert same == ("0.5" not in prompt)


@pytest.mark.parametrize(
    "text", ["a (small) cat", "a cat (1.3)", "cat) 1.3 (", "(cat", "cat)1.3", "()", "c++ (a) 2", ""]
)
def test_parentheses_without_a_number_are_text(text: str) -> None:
    assert not prompt_weighting.is_weighted(text)
    assert prompt_weighting.plain(text) == text


def test_the_pieces() -> None:
    assert prompt_weighting.fragments("a (cat)1.3, (or (dog)2) here") == [
        ("a ", 1.0), ("cat", 1.3), (", (or ", 1.0), ("dog", 2.0), (") here", 1.0),
    ]  # fmt: skip
    assert prompt_weighting.fragments("((a)2 b)3") == [("a", 6.0), (" b", 3.0)]
    assert prompt_weighting.fragments("((a)2 b") == [("(", 1.0), ("a", 2.0), (" b", 1.0)]


def test_sd3_has_no_weights_and_says_so(tiny_sd3: Path) -> None:
    model = families.load(tiny_sd3, "cpu", torch.float32, "tiny")
    with pytest.raises(
        ModelError, match=r'tiny does not support word weights, as in "\(cat\)1\.3"; leave out the numbers'
    ):
        model.embed("(cat)1.3")
    assert torch.isfinite(model.embed("(small) cat").tokens).all()


def test_what_to_install_is_said(sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compel.embeddings_provider", None)
    with pytest.raises(ModelError, match=r"need compel, which is not installed; .* 'diffedit-cli\[weighting\]'"):
        sd._embedded("(dog)1.7", 0)


@pytest.mark.thorough
def test_prompts_without_weights_do_not_import_it(tmp_path: Path) -> None:
    words = ["edit", str(picture(tmp_path / "cat.png")), "--from", "a cat", "--to", "dog", *FAST, "--threshold", "0"]
    words += ["--model", "builtin", "--anyway"]
    code = f"""
import sys
from diffedit_cli.cli import commands
sys.argv = ["diffedit", *{words}]
code = commands.main()
print(code, "compel" in sys.modules, "torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["0", "False", "True"]


def test_the_command_takes_them(tmp_path: Path, tiny_epsilon: Path) -> None:
    image = picture(tmp_path / "cat.png")
    words = ("edit", image, "--from", "cat", *FAST, "--threshold", 0.1, "--model", tiny_epsilon, "--no-metadata")
    assert diffedit(*words, "--to", "(dog)1.4", "-o", tmp_path / "more.png").code == 0
    assert diffedit(*words, "--to", "dog", "-o", tmp_path / "once.png").code == 0
    assert (tmp_path / "more.png").read_bytes() != (tmp_path / "once.png").read_bytes()


# the closed vocabulary of the built-in model


def test_punctuation_says_nothing_to_the_built_in_model(builtin: StableDiffusion) -> None:
    for prompt in ("a cat.", "a cat!", "A cat,", '"a cat"', "a (cat)"):
        assert torch.equal(builtin.embed(prompt).tokens, builtin.embed("a cat").tokens)
    assert torch.equal(builtin.embed("a cat,on grass").tokens, builtin.embed("a cat on grass").tokens)


@pytest.mark.parametrize(
    ("prompt", "unknown"), [("a cat, please", "please"), ("a zebra.", "zebra"), ("(yak)1.3", "yak")]
)
def test_unknown_words_are_still_refused(builtin: StableDiffusion, prompt: str, unknown: str) -> None:
    with pytest.raises(ModelError, match=f'does not know "{unknown}"; it knows only'):
        builtin.embed(prompt)


def test_the_built_in_model_reads_weights(builtin: StableDiffusion) -> None:
    theirs = Compel(builtin.tokenizer, builtin.text_encoder)("a (cat)1.3 on grass")
    for prompt in ("a (cat)1.3 on grass", "a (cat)1.3, on grass."):
        torch.testing.assert_close(builtin.embed(prompt).tokens, theirs, rtol=0, atol=1e-5)
