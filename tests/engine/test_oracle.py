"""diffusers' deprecated DiffEdit pipeline as an oracle: what we take from it, and where we differ on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Oracle, load_oracle
from tiny import BUILTIN
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, binarise, contrast_maps, edit, invert
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.pipeline.params import levels_up_to

STEPS, MAPS = 10, 5
SOURCE, TARGET = "a cat on grass", "a dog on grass"
R = levels_up_to(0.8, STEPS)


@dataclass
class Pair:
    """One model loaded by both sides, and a picture's latents."""

    model: StableDiffusion
    pipe: Oracle
    x_0: Tensor

    def mask(self, R: Text, Q: Text, clamp: float) -> Tensor:
        at = self.model.levels(STEPS)[levels_up_to(0.5, STEPS)]
        noise = torch.randn((MAPS, *self.x_0.shape[1:]), generator=seeded())
        maps = list(contrast_maps(self.model, self.x_0, at, R, Q, noise))
        return binarise(torch.stack(maps).mean(dim=0), clamp)

    def their_mask(self, clamp: float, **prompts: Any) -> Tensor:
        """Of the first picture, where lists of prompts make the picture stand in the batch several times."""
        pictures = len(prompts["source_prompt"]) if isinstance(prompts["source_prompt"], list) else 1
        masks = self.pipe.generate_mask(
            image=torch.zeros(pictures, 3, 64, 64),
            num_maps_per_mask=MAPS,
            mask_thresholding_ratio=clamp,
            num_inference_steps=STEPS,
            generator=seeded(),
            **prompts,
        )
        return torch.from_numpy(masks[0]).bool()

    def trajectory(self, guidance: float = 1.0, regularise: Regularisation | None = None) -> Trajectory:
        levels = self.model.levels(STEPS)[: R + 1]
        text = Text(self.model.embed(SOURCE), self.model.embed(""), guidance)
        inverted = invert(self.model, self.x_0, levels, text, regularise=regularise)
        return Trajectory(torch.cat([self.x_0, *inverted]), levels)

    def edit(self, trajectory: Trajectory, M: Tensor, guidance: float = 7.5) -> Tensor:
        query = Text(self.model.embed(TARGET), self.model.embed(SOURCE), guidance)
        *_, y_0 = edit(self.model, trajectory, M, query)
        return y_0

    def their_edit(self, trajectory: Trajectory, M: Tensor, guidance: float = 7.5) -> Tensor:
        y_0: Tensor = self.pipe(
            prompt=TARGET,
            negative_prompt=SOURCE,
            mask_image=M.clone(),
            image_latents=trajectory.latents[1:].flip(0)[None],
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="latent",
        ).images
        return y_0


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@contextmanager
def counted_rows(model: StableDiffusion | Oracle) -> Iterator[list[int]]:
    """Collects the number of pictures in every batch that the network sees."""
    rows: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    yield rows
    hook.remove()


def picture(size: int) -> Tensor:
    """A shaded ground with a red square: (1, 3, size, size) in [-1, 1]."""
    picture = torch.linspace(-0.8, 0.8, size).expand(1, 3, size, size).clone()
    inside = slice(size // 4, 3 * size // 4)
    picture[0, :, inside, inside] = torch.tensor([0.9, -0.7, -0.5])[:, None, None]
    return picture


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "builtin"])
def pair(request: pytest.FixtureRequest, tiny_epsilon: Path, tiny_v: Path) -> Pair:
    folder = {"epsilon": tiny_epsilon, "v_prediction": tiny_v, "builtin": BUILTIN}[request.param]
    model = StableDiffusion.load(folder, "cpu", torch.float32)
    assert request.param in ("builtin", model.prediction_type)
    pipe = load_oracle(folder)
    pipe.x_0 = model.encode(picture(model.native_size // 2 if request.param == "builtin" else model.native_size))
    return Pair(model, pipe, pipe.x_0)


@pytest.fixture(scope="module")
def given(pair: Pair) -> Trajectory:
    return pair.trajectory()


@pytest.fixture(scope="module")
def ones(pair: Pair) -> Tensor:
    return torch.ones(pair.x_0.shape[2:])


def test_the_mask_is_theirs_for_half_the_evaluations(pair: Pair) -> None:
    with counted_rows(pair.model) as ours:
        M = pair.mask(Text(pair.model.embed(SOURCE)), Text(pair.model.embed(TARGET)), clamp=2.0)
    with counted_rows(pair.pipe) as theirs:
        their_mask = pair.their_mask(2.0, source_prompt=SOURCE, target_prompt=TARGET, guidance_scale=7.5)
    assert 0 < M.sum() < M.numel()
    assert torch.equal(M, their_mask)
    assert (sum(ours), sum(theirs)) == (2 * MAPS, 4 * MAPS)


def test_the_mask_is_theirs_with_different_negatives(pair: Pair) -> None:
    """Theirs mixes up prompts and negatives, which equal negatives hide; so the oracle is given them mixed up."""
    embed, negatives = pair.model.embed, {"source_prompt": "grass", "target_prompt": "a cat"}
    prompts = {"source_negative_prompt": SOURCE, "target_negative_prompt": TARGET}
    R, Q = Text(embed(SOURCE), embed("grass"), 7.5), Text(embed(TARGET), embed("a cat"), 7.5)
    with counted_rows(pair.model) as rows:
        M = pair.mask(R, Q, clamp=2.0)
    assert torch.equal(M, pair.their_mask(2.0, **negatives, **prompts, guidance_scale=7.5))
    assert sum(rows) == 4 * MAPS
    unguided = pair.mask(Text(R.prompt), Text(Q.prompt), clamp=2.0)
    assert (unguided != M).any()


def test_the_mask_does_not_depend_on_a_picture_beside_it(pair: Pair) -> None:
    """Theirs does: beside one without contrast their mean halves, and with it the clamp and the threshold."""
    M = pair.mask(Text(pair.model.embed(SOURCE)), Text(pair.model.embed(TARGET)), clamp=3.0)
    assert torch.equal(M, pair.their_mask(3.0, source_prompt=SOURCE, target_prompt=TARGET))
    beside = pair.their_mask(3.0, source_prompt=[SOURCE, SOURCE], target_prompt=[TARGET, SOURCE])
    assert beside.sum() > M.sum()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_inversion_is_theirs_at_every_level(pair: Pair, guidance: float) -> None:
    with counted_rows(pair.model) as rows:
        ours = pair.trajectory(guidance=guidance).latents
    theirs = pair.pipe.invert(
        prompt=SOURCE, image=torch.zeros(1, 3, 64, 64), num_inference_steps=STEPS, guidance_scale=guidance
    ).latents
    assert len(ours) == R + 1
    assert (ours[-1] - ours[0]).abs().max() > 0.1
    torch.testing.assert_close(ours[1:].flip(0)[None], theirs, rtol=0, atol=1e-4)
    assert sum(rows) == (R if guidance == 1.0 else 2 * R)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changed",
    [{}, {"lambda_kl": 5.0}, {"lambda_kl": 0.0}, {"lambda_auto_corr": 5.0}, {"lambda_auto_corr": 0.0}, {"rolls": 2}],
    ids=str,
)
def test_the_regularised_inversion_is_theirs_for_networks_that_predict_noise(
    pair: Pair, given: Trajectory, changed: dict[str, Any]
) -> None:
    """With v theirs reads the network's output at one level for the losses and at another for the step."""
    chosen = {"lambda_kl": 20.0, "lambda_auto_corr": 20.0, "rolls": 5} | changed
    with torch.inference_mode():
        regularise = Regularisation(2, chosen["lambda_auto_corr"], chosen["rolls"], chosen["lambda_kl"], seeded())
        ours = pair.trajectory(regularise=regularise).latents
    theirs = pair.pipe.invert(
        prompt=SOURCE,
        image=torch.zeros(1, 3, 64, 64),
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        num_reg_steps=2,
        num_auto_corr_rolls=chosen.pop("rolls"),
        generator=seeded(),
        **chosen,
    ).latents
    difference = (ours[1:].flip(0)[None] - theirs).abs().max()
    assert (ours - given.latents).abs().max() > 1e-3
    assert difference < 1e-4 if pair.model.prediction_type == "epsilon" else difference > 1e-4


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_whole_edit_is_theirs(pair: Pair, given: Trajectory, ones: Tensor, guidance: float) -> None:
    """To 1e-4, or twice as far as their own result moves with a millionth more in its start: guidance enlarges
    what float32 leaves out, theirs in the noise schedule and ours elsewhere."""
    ours, theirs = pair.edit(given, ones, guidance), pair.their_edit(given, ones, guidance)
    nudged = replace(given, latents=given.latents * (1 + 1e-6))
    rounding = float((pair.their_edit(nudged, ones, guidance) - theirs).abs().max())
    assert (ours - pair.x_0).abs().max() > 0.01
    assert rounding < 2e-4
    torch.testing.assert_close(ours, theirs, rtol=0, atol=max(1e-4, 2 * rounding))


def test_embeddings_in_place_of_words_are_theirs(pair: Pair, given: Trajectory, ones: Tensor) -> None:
    """The mean of two prompts, as no words have it: *_prompt_embeds of their mask and their edit."""
    said = [pair.model.embed(prompt).tokens for prompt in ("a cat", TARGET)]
    target = Embedding(torch.cat(said).mean(0, keepdim=True))
    source, nothing = pair.model.embed(SOURCE), pair.model.embed("")
    M = pair.mask(Text(source), Text(target), clamp=2.0)
    embeds = {"source_prompt_embeds": source.tokens, "target_prompt_embeds": target.tokens}
    negatives = {f"{side}_negative_prompt_embeds": nothing.tokens for side in ("source", "target")}
    prompts = {"source_prompt": None, "target_prompt": None}
    assert torch.equal(M, pair.their_mask(2.0, **prompts, **embeds, **negatives))
    *_, ours = edit(pair.model, given, ones, Text(target, source, 7.5))
    theirs = pair.pipe(
        mask_image=ones.clone(),
        image_latents=given.latents[1:].flip(0)[None],
        prompt_embeds=target.tokens,
        negative_prompt_embeds=source.tokens,
        num_inference_steps=STEPS,
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_background_is_ours_and_one_level_too_noisy_theirs(pair: Pair, given: Trajectory, ones: Tensor) -> None:
    M = ones.clone()
    M[:, : M.shape[1] // 2] = 0
    ours, theirs = pair.edit(given, M)[0], pair.their_edit(given, M)[0]
    assert torch.equal(ours[:, M == 0], pair.x_0[0, :, M == 0])
    assert torch.equal(theirs[:, M == 0], given.latents[1, :, M == 0])
    assert (theirs - ours)[:, M == 0].abs().max() > 1e-3
    assert (theirs - ours)[:, M == 1].abs().max() > 1e-4


def test_an_empty_mask_is_the_picture_for_us_and_not_for_them(pair: Pair, given: Trajectory, ones: Tensor) -> None:
    assert torch.equal(pair.edit(given, 0 * ones), pair.x_0)
    assert (pair.their_edit(given, 0 * ones) - pair.x_0).abs().max() > 1e-3
