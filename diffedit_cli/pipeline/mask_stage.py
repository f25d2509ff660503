"""Step 1: the maps that a mask is made from, taken from the cache or computed and kept, and the mask that they give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.engine import diffedit, evidence, mask_refinement, process, region
from diffedit_cli.images import pictures
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Box, Picture
from diffedit_cli.images.previews import LEAST, MOST
from diffedit_cli.pipeline import stage_cache, zoom
from diffedit_cli.pipeline.model_session import ModelSession, Remember, generator
from diffedit_cli.pipeline.params import AUTO, MASK_METHODS, Params, levels_up_to
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays
from diffedit_cli.storage.cache import Cache

USUAL = float(Params.threshold)  # what a higher one finds is a part of what this does
RIM = 0.25  # latent cells that a background takes of the thing in it, so that nothing of the old one stays around it
LOOKED_AT = 512  # pixels of the longer side, when ground is told from a thing
MOST_GROUND = 0.5  # of a thing's mask: where more of it looks like its surroundings, it is like them


@dataclass(frozen=True)
class MaskProposal:
    """A mask (H, W) as grey, the map (h, w) that it was made from, and how well --from explains it, if that was asked.

    `wide` is the mask at the usual threshold where a higher one is asked for. `explained` is (2, h, w): the error
    without a prompt, and with --from.
    """

    shown: NDArray[np.uint8]
    wide: NDArray[np.uint8]
    contrast: NDArray[np.float32]
    explained: NDArray[np.float32] | None = None

    def gain(self) -> float | None:
        """What --from explains of the region, or of the map where that gave none (engine.evidence)."""
        if self.explained is None:
            return None
        without, told = torch.from_numpy(self.explained)
        if self.shown.any():
            M = torch.from_numpy((self.shown > 0).astype(np.float32))[None]
            weights = torch.nn.functional.adaptive_avg_pool2d(M, without.shape)[0]
        else:
            weights = torch.from_numpy(self.contrast)
        return evidence.gain(without, told, weights)


@dataclass(frozen=True)
class MaskStage:
    """Finds masks with one model. `about` says what of a picture and the model all of its results depend on."""

    runtime: ModelSession
    cache: Cache | None
    about: Callable[[Picture], dict[str, Any]]
    encoded: Remember
    progress: Callable[[str, int, int], None]
    boxes: Callable[..., list[Box]]

    def sought(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> MaskProposal:
        """The mask of a picture, or of a part of it, and then of each of its parts, ever closer while that pays.

        With `explain` also how well --from explains the whole picture. Where to look closer is decided at the usual
        threshold where a higher one is asked for: in other parts other maps would be found, and a mask that is no part
        of that of a lower threshold.
        """
        found = self._found(picture, params, stats, explain)
        boxes = self.boxes(found.wide > 0, params, specks=False)
        once = params if params.zoom == AUTO else replace(params, zoom=1)
        parts = {box: self.sought(picture.cropped(box), once, stats, False) for box in boxes}
        if not parts:
            return found
        closer = {box: (part.shown, part.wide) for box, part in parts.items()}
        wider = {box: (part.wide, part.wide) for box, part in parts.items()}
        return replace(
            found,
            shown=zoom.sharpen(found.shown, found.wide, closer),
            wide=zoom.sharpen(found.wide, found.wide, wider),
        )

    def free_place(self, picture: Picture, params: Params, there: Params | None, stats: EditStats) -> MaskProposal:
        """Where the target's words are seen most, beside what is there already."""
        found = self._found(picture, params, stats, False)
        taken = None if there is None else self._found(picture, there, stats, False).shown > 0
        shown = region.best_window(found.contrast, found.shown.shape, avoid=taken)
        return replace(found, shown=shown.astype(np.uint8) * 255)

    def _found(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> MaskProposal:
        """The mask of a picture, or of a part of it, at once."""
        maps = self._maps(picture, params, stats, explain)
        explained = maps.pop("evidence").numpy() if explain else None
        contrast = used = functools.reduce(torch.mul, maps.values())
        raised = not isinstance(params.threshold, str) and params.threshold > USUAL
        usual = replace(params, threshold=USUAL) if raised else params
        wide = self._shaped(used, picture, usual)
        if len(maps) > 1 and not wide.any():
            stats.warn("No place stands out in both maps of --mask-method both; the mask is that of noise alone.")
            used = maps["contrast"]
            wide = self._shaped(used, picture, usual)
        shown = self._shaped(used, picture, params) if raised else wide
        return MaskProposal(shown, wide, contrast.numpy(), explained)

    def _maps(self, picture: Picture, params: Params, stats: EditStats, explain: bool) -> dict[str, Tensor]:
        """The maps (h, w) that the mask is made from, each kept for itself; what is missing is made in one go."""
        records = params.maps_records()
        if explain:
            records["evidence"] = params.reference_record() | {"noises": min(_at_once(params), params.most_maps)}
        abouts = {name: self.about(picture) | record for name, record in records.items()}

        def compared(missing: Collection[str]) -> Mapping[str, Arrays]:
            made = self.runtime.computed("mask", stats, lambda: self._compared(picture, params, stats, missing))
            return {name: {name: array} for name, array in made.items()}

        found = stage_cache.remembered(self.cache, "mask", abouts, stats, compared)
        return {name: torch.from_numpy(found[name][name]) for name in abouts}

    def _compared(self, picture: Picture, params: Params, stats: EditStats, names: Collection[str]) -> Arrays:
        """These maps (h, w), the attention in the very evaluations that give the contrast if both are wanted."""
        model = self.runtime.model(stats)
        told = {
            name: self.runtime.embedding(prompt, params, stats) for name, prompt in params.prompts_of(["mask"]).items()
        }
        source, target = (
            diffedit.Text(told[name], told.get(f"{name}-negative"), params.guidance or 1.0) for name in ("from", "to")
        )
        x_0 = self.runtime.latents(picture, stats, self.encoded)
        at = model.levels(params.steps, x_0.shape[-2:].numel())[_level(params)]
        noise = torch.randn((params.most_maps, *x_0.shape[1:]), generator=generator(params.seed, picture, "mask")).to(
            x_0.device
        )
        looks: list[Tensor] = []
        first_eps: list[Tensor] = []

        def reference(first: int, predicted: Callable[[], Tensor]) -> Tensor:
            known = self._reference(picture, params, stats, [first, at_once], predicted)
            if "attention" in known:
                looks.extend([torch.from_numpy(known["attention"])] * len(known["eps"]))
            eps = torch.from_numpy(known["eps"]).to(x_0.device)
            first_eps.append(eps)
            return eps

        at_once = _at_once(params)
        if names != {"evidence"} and ("contrast" in names or params.maps == AUTO):
            maps = diffedit.contrast_maps(model, x_0, at, source, target, noise, at_once, reference)
        else:
            some = noise[:at_once] if names == {"evidence"} else noise
            asked = diffedit.reference_predictions(model, x_0, at, source, some, at_once, reference)
            maps = (eps for _, some in asked for eps in some)
        settled = params.maps == AUTO and names != {"evidence"}
        maps = diffedit.until_stable(maps) if settled else maps
        contrast = torch.stack(list(self._watched(maps, len(noise)))).mean(dim=0)
        found = {"contrast": contrast} | ({"attention": torch.stack(looks).mean(dim=0)} if looks else {})
        if "evidence" in names:
            some = noise[: len(first_eps[0])]
            x_t = process.add_noise(x_0, some, at)
            without = self._without(
                picture, params, stats, len(some), lambda: model.predict(x_t, at, model.embed("")).eps
            )
            found["evidence"] = torch.stack(
                [evidence.unexplained(eps, some) for eps in (without.to(x_0.device), first_eps[0])]
            )
        return {name: found[name].cpu().numpy() for name in names}

    def _without(
        self, picture: Picture, params: Params, stats: EditStats, noises: int, predicted: Callable[[], Tensor]
    ) -> Tensor:
        """What is predicted without a prompt for the first noises, the same for all prompts."""
        record = params.bare_record() | {"dtype": self.runtime.model(stats).dtype_name, "noises": noises}
        about = self.about(picture) | record
        ask = lambda: {"eps": predicted().cpu().numpy()}  # noqa: E731
        return torch.from_numpy(stage_cache.aside(self.cache, "without", about, stats, ask)["eps"])

    def _reference(
        self,
        picture: Picture,
        params: Params,
        stats: EditStats,
        noises: Sequence[int],
        predicted: Callable[[], Tensor],
    ) -> Arrays:
        """What is predicted for --from, and where the network looks for its words: the same for many a --to."""
        model, watch = self.runtime.model(stats), "attention" in MASK_METHODS[params.mask_method]

        def ask() -> Arrays:
            if not watch:
                return {"eps": predicted().cpu().numpy()}
            with model.watching(str(params.from_), params.telling_words, params.clip_skip) as seen:
                eps = predicted()
            return {"eps": eps.cpu().numpy(), "attention": seen.map((eps.shape[-2], eps.shape[-1])).cpu().numpy()}

        about = self.about(picture) | params.reference_record() | {"dtype": model.dtype_name}
        about |= {"noises": [*noises, params.most_maps]} | ({"words": params.telling_words} if watch else {})
        return stage_cache.aside(self.cache, "watched" if watch else "reference", about, stats, ask)

    def _shaped(self, contrast: Tensor, picture: Picture, params: Params) -> NDArray[np.uint8]:
        """The mask that is made from a map (h, w), as grey."""
        (width, height), (h, w) = picture.size, contrast.shape
        guide = None
        if params.edges or params.reach_down:
            factor = self.runtime.folder.factor
            guide = torch.from_numpy(picture.fitted((w * factor, h * factor)))
        M = mask_refinement.mask(contrast, (height, width), guide=guide, **params.binarisation)
        return (M * 255).round().byte().numpy() if params.soft else M.numpy().astype(np.uint8) * 255

    def _watched(self, steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        for done, latents in enumerate(steps, start=1):
            self.progress("mask", done, total)
            yield latents


def surroundings(picture: Picture, shown: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """All but what a mask (H, W) shows, with a rim of it, and what runs into it; nothing if it shows nothing, or all.

    `cells` are the latents' along the longer side.
    """
    from scipy import ndimage

    thing = ndimage.binary_fill_holes(shown > 0)
    if thing.all() or not thing.any():
        return np.zeros_like(shown)
    outside = ndimage.distance_transform_edt(thing) <= RIM * max(shown.shape) / cells
    ground = _run_into(picture, thing)
    if np.count_nonzero(ground & thing) <= MOST_GROUND * np.count_nonzero(thing):
        outside |= ground
    return np.where(outside, np.uint8(255), np.uint8(0))


def _run_into(picture: Picture, thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is around a thing and runs into its mask (H, W), seen at no more than LOOKED_AT pixels."""
    height, width = thing.shape
    scale = min(1.0, LOOKED_AT / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(thing).resize(size, Image.Resampling.NEAREST))
    ground = region.grow_into(pictures.pixels(picture.fitted(size)).transpose(1, 2, 0), small)
    return np.asarray(Image.fromarray(ground).resize((width, height), Image.Resampling.NEAREST))


def _level(params: Params) -> int:
    assert params.mask_strength is not None
    return levels_up_to(params.mask_strength, params.steps)


def _at_once(params: Params) -> int:
    """Noises whose predictions are asked for together."""
    rows = 2 if params.guided_mask else 1  # of the batch, for each noise
    return 2 if params.maps == AUTO else diffedit.MAPS_AT_ONCE // rows


def hint(mask: Mask, picture: Picture, params: Params) -> str | None:
    """What to change where a mask that was found covers very little of the picture, or most of it; else None."""
    if LEAST <= mask.share <= MOST:
        return None
    threshold = f"--threshold ({params.threshold} now)"
    if mask.share < LEAST:
        covers, remedy = f"{100 * mask.share:.2g} %", f"too little, lower {threshold}"
    else:
        covers, remedy = f"{100 * mask.share:.0f} %", f"too much, raise {threshold}, or limit it with --within"
    return f"The mask covers {covers} of {picture.name}; if that is {remedy}."
