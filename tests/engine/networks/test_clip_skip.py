"""--clip-skip: prompts read from an earlier layer of CLIP, in every family as diffusers' pipelines read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import WORDS, diffedit, settled
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from diffedit_cli.engine.networks import families
from diffedit_cli.errors import UsageError

PIPELINES = {
    "tiny_epsilon": StableDiffusionPipeline,
    "tiny_v": StableDiffusionPipeline,
    "tiny_sdxl": StableDiffusionXLPipeline,
    "tiny_sd3": StableDiffusion3Pipeline,
}


@pytest.mark.thorough
@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("format", PIPELINES)
def test_embeddings_are_those_of_diffusers(request: pytest.FixtureRequest, format: str, clip_skip: int) -> None:
    folder = request.getfixturevalue(format)
    pipe = PIPELINES[format].from_pretrained(folder, local_files_only=True)
    if format in ("tiny_epsilon", "tiny_v"):
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)  # where it was until transformers 5
        theirs = pipe.encode_prompt("a cat", "cpu", 1, do_classifier_free_guidance=False, clip_skip=clip_skip)
    else:
        unused: dict[str, Any] = {"prompt_2": None} | ({"prompt_3": None} if format == "tiny_sd3" else {})
        theirs = pipe.encode_prompt("a cat", device="cpu", clip_skip=clip_skip, **unused)
    model = families.load(folder, "cpu", torch.float32)
    ours = model.embed("a cat", clip_skip)
    assert torch.equal(ours.tokens, model.embed("a cat").tokens) == (clip_skip == 0)
    torch.testing.assert_close(ours.tokens, theirs[0], rtol=0, atol=1e-5)
    if ours.pooled is not None:
        torch.testing.assert_close(ours.pooled, theirs[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("format", "most"), [("tiny_epsilon", 2), ("tiny_sdxl", 1), ("tiny_sd3", 1)])
def test_more_layers_than_there_are(request: pytest.FixtureRequest, format: str, most: int) -> None:
    model = families.load(request.getfixturevalue(format), "cpu", torch.float32, name="tiny")
    model.embed("a cat", most)
    with pytest.raises(UsageError, match=f"--clip-skip {most + 1} .* model tiny .* at most {most}"):
        model.embed("a cat", most + 1)


@pytest.mark.thorough
def test_every_stage_is_another_with_it(tiny_epsilon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is computed anew, the default's being in the cache, and says so; stages of both kinds do not mix."""
    settled(tmp_path, tiny_epsilon, monkeypatch)
    skip = ("--clip-skip", 1)
    guided = ("--caption", "cat", "--invert-guidance", 2)
    made: dict[str, list[bytes]] = {"cat.mask.png": [], "cat.latents.safetensors": [], "cat.edited.png": []}
    for more in ((), skip):
        for words in (("mask", *WORDS, "--from-negative", "grass"), ("invert", *guided), ("edit", *WORDS, *guided)):
            ran = diffedit(words[0], "cat.png", *words[1:], *more, "--json")
            assert ran.code == 0, ran.err
            assert set(ran.json["cache"].values()) <= {"miss", "hit"} - ({"hit"} if words[0] != "edit" else set())
        for name, contents in made.items():
            contents.append((tmp_path / name).read_bytes())
            assert ("clip-skip: 1" in diffedit("info", name).out.decode()) == bool(more)
    assert all(first != second for first, second in made.values())
    for given in (("--mask", "cat.mask.png"), ("--latents", "cat.latents.safetensors", *guided)):
        ran = diffedit("edit", "cat.png", *WORDS, *given, "-o", "x.png")
        assert ran.code == 3
        assert f"{given[1]} was made for clip-skip 1, not 0" in ran.err
        assert diffedit("edit", "cat.png", *WORDS, *given, *skip, "-o", "x.png").code == 0
