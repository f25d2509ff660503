"""Each parameter alone changes our result as it changes that of diffusers' pipeline, on the same noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Oracle, load_oracle
from torch import Tensor

from diffedit_cli.engine.diffedit import Text, Trajectory, binarise, contrast_maps, edit, invert
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import DDIM
from diffedit_cli.pipeline.params import Params, levels_up_to

BASE = Params(
    from_="a cat on grass", to="a dog on grass", negative="a cat on grass", steps=10, strength=0.8, maps=3, clamp=2.0,
    mask_strength=0.5, guidance=7.5,
)  # fmt: skip


@dataclass
class Sides:
    """Each stage by us and by diffusers, from the same parameters, noise and latents."""

    model: StableDiffusion
    pipe: Oracle

    def mask(self, params: Params) -> Tensor:
        at = self.model.levels(params.steps)[levels_up_to(params.mask_strength, params.steps)]
        noise = torch.randn((params.maps, *self.pipe.x_0.shape[1:]), generator=seeded(params))
        negatives = (params.from_negative, params.to_negative) if params.guided_mask else (None, None)
        source, target = (
            Text(self.model.embed(prompt), None if negative is None else self.model.embed(negative), params.guidance)
            for prompt, negative in zip((params.from_, params.to), negatives, strict=True)
        )
        maps = torch.stack(list(contrast_maps(self.model, self.pipe.x_0, at, source, target, noise)))
        return binarise(maps.mean(dim=0), params.clamp, params.threshold)

    def their_mask(self, params: Params) -> Tensor:
        prompts = {"source_prompt": params.from_, "target_prompt": params.to}
        negatives = {"source_negative_prompt": params.from_negative, "target_negative_prompt": params.to_negative}
        if params.guided_mask:  # theirs mixes them up: see test_oracle
            swapped = zip([*prompts, *negatives], [*negatives.values(), *prompts.values()], strict=True)
            prompts, negatives = dict(swapped), {}
        mask = self.pipe.generate_mask(
            image=torch.zeros(1, 3, 64, 64),
            num_maps_per_mask=params.maps,
            mask_encode_strength=params.mask_strength,
            mask_thresholding_ratio=params.clamp,
            num_inference_steps=params.steps,
            guidance_scale=params.guidance,
            generator=seeded(params),
            **prompts,
            **negatives,
        )
        return torch.from_numpy(mask[0]).bool()

    def inversion(self, params: Params) -> Trajectory:
        levels = self.model.levels(params.steps)[: levels_up_to(params.strength, params.steps) + 1]
        text = Text(self.model.embed(params.inversion_caption), self.model.embed(""), params.invert_guidance)
        weights = (params.reg_steps, params.lambda_auto_corr, params.auto_corr_rolls, params.lambda_kl)
        regularise = Regularisation(*weights, seeded(params)) if params.reg_steps else None
        inverted = invert(self.model, self.pipe.x_0, levels, text, regularise=regularise)
        return Trajectory(torch.cat([self.pipe.x_0, *inverted]), levels)

    def their_inversion(self, params: Params) -> Tensor:
        latents: Tensor = self.pipe.invert(
            prompt=params.inversion_caption,
            image=torch.zeros(1, 3, 64, 64),
            inpaint_strength=params.strength,
            num_inference_steps=params.steps,
            guidance_scale=params.invert_guidance,
            generator=seeded(params),
            num_reg_steps=params.reg_steps,
            lambda_auto_corr=params.lambda_auto_corr,
            lambda_kl=params.lambda_kl,
            num_auto_corr_rolls=params.auto_corr_rolls,
        ).latents
        return latents

    def edit(self, params: Params) -> Tensor:
        negative = self.model.embed(params.negative, params.clip_skip)
        query = Text(self.model.embed(params.to, params.clip_skip), negative, params.guidance)
        solver = DDIM(params.edit_eta, seeded(params))
        trajectory = self.inversion(params)
        *_, y_0 = edit(self.model, trajectory, torch.ones(self.pipe.x_0.shape[2:]), query, solver)
        return y_0

    def their_edit(self, params: Params) -> Tensor:
        y_0: Tensor = self.pipe(
            prompt=params.to,
            negative_prompt=params.negative,
            mask_image=torch.ones(self.pipe.x_0.shape[2:]),
            image_latents=self.inversion(params).latents[1:].flip(0)[None],
            inpaint_strength=params.strength,
            num_inference_steps=params.steps,
            guidance_scale=params.guidance,
            eta=params.edit_eta,
            generator=seeded(params),
            clip_skip=params.clip_skip or None,
            output_type="latent",
        ).images
        return y_0


def seeded(params: Params) -> torch.Generator:
    return torch.Generator().manual_seed(params.seed)


@pytest.fixture(scope="module", params=["tiny_epsilon", "tiny_v"])
def sides(request: pytest.FixtureRequest) -> Sides:
    folder: Path = request.getfixturevalue(request.param)
    model, pipe = StableDiffusion.load(folder, "cpu", torch.float32), load_oracle(folder)
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)  # where it was until transformers 5
    pipe.x_0 = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    return Sides(model, pipe)


MASK: list[dict[str, Any]] = [
    {"from_": "a cat"}, {"to": "a dog"}, {"from_negative": "grass"}, {"to_negative": "grass"},
    {"to_negative": "grass", "guidance": 3.0}, {"maps": 5}, {"mask_strength": 0.8}, {"clamp": 1.5}, {"steps": 4},
    {"seed": 1},
]  # fmt: skip
INVERT: list[dict[str, Any]] = [
    {"caption": "a dog"}, {"invert_guidance": 7.5}, {"strength": 0.5}, {"steps": 7},
]  # fmt: skip
EDIT: list[dict[str, Any]] = [
    {"to": "a dog"}, {"negative": "grass"}, {"negative": ""}, {"guidance": 3.0}, {"strength": 0.5}, {"steps": 7},
    {"eta": 0.5}, {"eta": 1.0}, {"eta": 0.5, "seed": 1}, {"caption": "a dog"},
    {"invert_guidance": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("change", MASK, ids=str)
def test_a_parameter_of_the_mask(sides: Sides, change: dict[str, Any]) -> None:
    params = replace(BASE, **change)
    M = sides.mask(params)
    assert not torch.equal(M, sides.mask(BASE))
    assert torch.equal(M, sides.their_mask(params))


@pytest.mark.parametrize("change", INVERT, ids=str)
def test_a_parameter_of_the_inversion(sides: Sides, change: dict[str, Any]) -> None:
    params = replace(BASE, **change)
    ours, before = sides.inversion(params).latents, sides.inversion(BASE).latents
    assert len(ours) != len(before) or (ours - before).abs().max() > 1e-3
    torch.testing.assert_close(ours[1:].flip(0)[None], sides.their_inversion(params), rtol=0, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("change", EDIT, ids=str)
def test_a_parameter_of_the_edit(sides: Sides, change: dict[str, Any]) -> None:
    params = replace(BASE, **change)
    ours = sides.edit(params)
    assert (ours - sides.edit(BASE)).abs().max() > 1e-3
    torch.testing.assert_close(ours, sides.their_edit(params), rtol=0, atol=1e-4)


def test_clip_skip_of_the_prompt(sides: Sides) -> None:
    """Unguided: theirs leaves the negative as it is, which then stands for another layer than the prompt."""
    before = replace(BASE, guidance=1.0)
    params = replace(before, clip_skip=1)
    ours = sides.edit(params)
    assert (ours - sides.edit(before)).abs().max() > 1e-3
    torch.testing.assert_close(ours, sides.their_edit(params), rtol=0, atol=1e-4)
