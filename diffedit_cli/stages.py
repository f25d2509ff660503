"""Mask, invert, edit: each taken from the cache or computed and kept. Alone knows both the cache and the engine."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffedit_cli import artefacts, composition, embeds, given, kept, limits, prompts, review, zoom
from diffedit_cli.account import Account
from diffedit_cli.artefacts import Arrays, Latents, Mask
from diffedit_cli.cache import Cache
from diffedit_cli.composition import Edited, Painted
from diffedit_cli.devices import device_errors
from diffedit_cli.engine import diffedit, refine
from diffedit_cli.engine.model import Rows
from diffedit_cli.engine.regularisation import Regularisation
from diffedit_cli.engine.solvers import SOLVERS
from diffedit_cli.errors import NothingToEdit, UsageError
from diffedit_cli.images import Box, Picture
from diffedit_cli.inpainting import Inpainting
from diffedit_cli.limits import Limits
from diffedit_cli.memory import Memory
from diffedit_cli.models import ModelFolder
from diffedit_cli.params import AUTO, MASK_METHODS, Params, levels_up_to
from diffedit_cli.runtime import Runtime, generator
from diffedit_cli.safety import Guard
from diffedit_cli.writers import Writers
from diffedit_cli.zoom import Part

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all
Found = tuple[NDArray[np.uint8], NDArray[np.float32]]  # mask (H, W) as grey, contrast map (h, w)


class Workbench:
    """One model and one cache, for any number of pictures; the model is loaded when first needed, and once."""

    def __init__(
        self,
        folder: ModelFolder,
        cache: Cache | None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: Memory = Memory(),
        progress: Progress = lambda *_: None,
        any_picture: bool = False,
        safety: bool = True,
        inpainter: ModelFolder | None = None,
    ) -> None:
        """With `any_picture` one that is unlike all that the model knows is only warned of.

        An `inpainter` paints in place of inversion and edit. Raises DeviceError for a device that is not here.
        """
        self.folder, self.cache, self.progress = folder, cache, progress
        self.runtime = Runtime(folder, device, dtype, memory, any_picture)
        self.device, self.dtype = self.runtime.device, self.runtime.dtype
        self.inpainting = Inpainting(inpainter, self.device, self.dtype) if inpainter else None
        self.guard = Guard(inpainter or folder, self.device, safety)

    def beside(self, ask: Callable[[Rows], Tensor], wait: Callable[[], None]) -> Workbench:
        """For one of several pictures at a time: it asks by `ask`, and calls `wait` while another makes the same."""
        own = copy.copy(self)
        own.runtime = self.runtime.beside(ask)
        own.cache = Cache(self.cache.root, wait) if self.cache else None
        return own

    def open_account(self) -> Account:
        """For the costs of one picture."""
        return Account()

    def mask(self, picture: Picture, params: Params, account: Account, allowed: Limits = limits.NONE) -> Mask:
        """Step 1 of the paper, cut down to what is allowed. Raises NothingToEdit for an empty mask.

        What it finds in a large picture is sought again in each part of it, closer.
        """
        with account.clock("mask"):
            params = self._writers(account).expanded(params).masked_by(self.folder.attends)
            shown, contrast = self._sought(picture, params, account)
        if not shown.any():
            raise NothingToEdit(
                f'The mask of {picture.name} is empty: the model sees no difference between "{params.from_}" and '
                f'"{params.to}" there; choose other words, or lower --threshold.'
            )
        made = Mask.soft(shown, self._about(picture) | params.mask_record())
        mask = allowed.applied(replace(made, contrast=contrast), picture)
        if hint := review.hint(mask, picture, params):
            account.warn(hint)
        return mask

    def invert(self, picture: Picture, params: Params, account: Account) -> Latents:
        """Step 2 of the paper: the whole trajectory, x_0 first."""
        with account.clock("invert"):
            params = self._writers(account).captioned(params, picture).inverted_by(self.folder.invert_from)
            about = self._about(picture) | params.inversion_record()
            trajectory = functools.partial(self._trajectory, picture, params, account)
            arrays = kept.remembered(
                self.cache, "invert", {"inversion": about}, account,
                lambda _: {"inversion": self.runtime.computed("invert", account, trajectory)},
            )["inversion"]  # fmt: skip
        return Latents(arrays["trajectory"], arrays["timesteps"], about)

    def edit(
        self,
        picture: Picture,
        params: Params,
        account: Account,
        mask: Mask | None,
        latents: Latents | None,
        allowed: Limits = limits.NONE,
    ) -> list[Edited]:
        """Step 3 of the paper, once for each variant, after whatever of mask and latents is not given.

        The variants go through the network one after the other: in a batch the last bits of each would depend on
        how many there are, and one that is repeated alone must come out the same.

        Raises NothingToEdit for an empty mask, InputError for a mask or latents of something else, and Withheld.
        """
        account.evaluations |= {"mask": 0, "invert": 0}  # what is given costs nothing
        params = self._writers(account).expanded(params)
        about = self._about(picture)
        if params.soft and self.inpainting:
            raise UsageError("An inpainting model repaints all of a cell or nothing; leave out --soft.")
        if mask is not None:
            given.check_mask(mask, picture, None if self.inpainting else params, about)
        if latents is not None:
            given.check_latents(latents, params, about)
            self.runtime.check_given(latents, picture, account)
        mask = allowed.applied(mask, picture) if mask else self.mask(picture, params, account, allowed)
        boxes = [] if latents else self._boxes(mask.pixels, params)
        parts = [Part.cut(picture, mask, box) for box in boxes] or [Part.whole(picture, mask)]
        if boxes:
            self.runtime.check(picture, account, self._encoded)
            params = self._writers(account).captioned(params, picture)
        inversions = [
            None if self.inpainting else latents or self.invert(part.picture, params, account) for part in parts
        ]
        with account.clock("edit"):
            variants = [
                [self._painted(*one, params.variant(number), account) for one in zip(parts, inversions, strict=True)]
                for number in range(params.variants)
            ]
        whole = None if boxes else inversions[0]
        results = [composition.finished(picture, mask, whole, one, about, params.feather) for one in variants]
        if self.guard.on:
            with account.clock("safety"):
                for result in results:
                    self.guard.check(result.picture)
        return results

    def frames(self, latents: Latents, account: Account) -> list[NDArray[np.uint8]]:
        """Every level of the inversion decoded, (h, w, 3), the clean one first. Costs no network evaluation."""
        trajectory = torch.split(torch.from_numpy(latents.trajectory), 1)

        def decoded() -> Arrays:
            model = self.runtime.model(account)
            pictures = (model.decode(x_t.to(self.device))[0].permute(1, 2, 0) for x_t in trajectory)
            return {"pictures": torch.stack(list(self._watched("frames", pictures, len(trajectory)))).cpu().numpy()}

        with account.clock("frames"):
            pictures = self.runtime.computed("frames", account, decoded)["pictures"]
        del account.evaluations["frames"]
        return list(composition.pixels(pictures))

    def _boxes(self, M: NDArray[np.bool_], params: Params, specks: bool = True) -> list[Box]:
        """Where to look closer."""
        model = self.inpainting.folder if self.inpainting else self.folder
        return zoom.boxes(M, params.zoom_factor, model.native_size, specks)

    def _sought(self, picture: Picture, params: Params, account: Account) -> Found:
        """The mask of a picture, or of a part of it, and then of each of its parts, ever closer while that pays."""
        shown, contrast = self._found(picture, params, account)
        boxes = self._boxes(shown > 0, params, specks=False)
        once = params if params.zoom == AUTO else replace(params, zoom=1)
        closer = {box: self._sought(picture.cropped(box), once, account)[0] for box in boxes}
        return zoom.sharpened(shown, closer) if closer else shown, contrast

    def _found(self, picture: Picture, params: Params, account: Account) -> Found:
        """The mask of a picture, or of a part of it, at once."""
        maps = self._maps(picture, params, account)
        contrast = functools.reduce(torch.mul, maps.values())
        shown = self._shaped(contrast, picture, params)
        if len(maps) > 1 and not shown.any():
            account.warn("No place stands out in both maps of --mask-method both; the mask is that of noise alone.")
            shown = self._shaped(maps["contrast"], picture, params)
        return shown, contrast.numpy()

    # What each stage computes: tensors in and out of the engine.

    def _compared(self, picture: Picture, params: Params, account: Account, names: Collection[str]) -> Arrays:
        """These maps (h, w), the attention in the very evaluations that give the contrast if both are wanted."""
        model = self.runtime.model(account)
        told = {
            name: self.runtime.embedding(prompt, params, account)
            for name, prompt in params.prompts_of(["mask"]).items()
        }
        source, target = (
            diffedit.Text(told[name], told.get(f"{name}-negative"), params.guidance) for name in ("from", "to")
        )
        x_0 = self.runtime.latents(picture, account, self._encoded)
        at = model.levels(params.steps, x_0.shape[-2:].numel())[levels_up_to(params.mask_strength, params.steps)]
        noise = torch.randn((params.most_maps, *x_0.shape[1:]), generator=generator(params.seed, picture, "mask")).to(
            x_0.device
        )
        looks: list[Tensor] = []

        def reference(first: int, predicted: Callable[[], Tensor]) -> Tensor:
            known = self._reference(picture, params, account, [first, at_once], predicted)
            if "attention" in known:
                looks.extend([torch.from_numpy(known["attention"])] * len(known["eps"]))
            return torch.from_numpy(known["eps"]).to(x_0.device)

        rows = 2 if params.guided_mask else 1  # of the batch, for each noise
        at_once = 2 if params.maps == AUTO else diffedit.MAPS_AT_ONCE // rows
        if "contrast" in names or params.maps == AUTO:
            maps = diffedit.contrast(model, x_0, at, source, target, noise, at_once, reference)
        else:
            asked = diffedit.references(model, x_0, at, source, noise, at_once, reference)
            maps = (eps for _, some in asked for eps in some)
        maps = diffedit.until_settled(maps) if params.maps == AUTO else maps
        contrast = torch.stack(list(self._watched("mask", maps, len(noise)))).mean(dim=0)
        found = {"contrast": contrast} | ({"attention": torch.stack(looks).mean(dim=0)} if looks else {})
        return {name: found[name].cpu().numpy() for name in names}

    def _reference(
        self,
        picture: Picture,
        params: Params,
        account: Account,
        noises: Sequence[int],
        predicted: Callable[[], Tensor],
    ) -> Arrays:
        """What is predicted for --from, and where the network looks for its words: the same for many a --to."""
        model, watch = self.runtime.model(account), "attention" in MASK_METHODS[params.mask_method]

        def ask() -> Arrays:
            if not watch:
                return {"eps": predicted().cpu().numpy()}
            with model.watching(str(params.from_), params.telling_words, params.clip_skip) as seen:
                eps = predicted()
            return {"eps": eps.cpu().numpy(), "attention": seen.map((eps.shape[-2], eps.shape[-1])).cpu().numpy()}

        about = self._about(picture) | params.reference_record() | {"dtype": model.dtype_name}
        about |= {"noises": [*noises, params.most_maps]} | ({"words": params.telling_words} if watch else {})
        return kept.aside(self.cache, "watched" if watch else "reference", about, account, ask)

    def _trajectory(self, picture: Picture, params: Params, account: Account) -> Arrays:
        model = self.runtime.model(account)
        x_0 = self.runtime.latents(picture, account, self._encoded)
        levels = model.levels(params.steps, x_0.shape[-2:].numel())[: levels_up_to(params.strength, params.steps) + 1]
        caption = diffedit.Text(
            self.runtime.embedding(params.inversion_caption, params, account),
            model.embed("", params.clip_skip),
            params.invert_guidance,
        )
        solver = SOLVERS[params.scheduler]()
        begun: list[Tensor] = []
        if params.invert_from:
            noise = torch.randn(x_0.shape, generator=generator(params.seed, picture, "forward")).to(x_0.device)
            begun = diffedit.noised(x_0, noise, levels, params.invert_from)
        regularise = None
        if params.reg_steps:
            weights = (params.reg_steps, params.lambda_auto_corr, params.auto_corr_rolls, params.lambda_kl)
            regularise = Regularisation(*weights, generator(params.seed, picture, "invert"))
        inversion = diffedit.invert(
            model, x_0, levels, caption, solver, regularise, params.fixed_point, params.inversion_stride, begun
        )
        steps = self._watched("invert", inversion, len(levels) - 1)
        trajectory = torch.cat([x_0, *steps])
        return {
            "trajectory": trajectory.cpu().numpy(),
            "timesteps": np.array([level.timestep for level in levels]),
        }

    def _painted(self, part: Part, latents: Latents | None, params: Params, account: Account) -> Painted:
        if latents is None:
            return self._inpainted(part, params, account)
        h, w = latents.trajectory.shape[-2:]
        # a cell is repainted when any pixel of it is: what the mask shows is then never half old
        M = F.adaptive_max_pool2d(torch.from_numpy(part.mask.shown.astype(np.float32))[None] / 255, (h, w))[0]
        said = params.edit_record() | self.guard.record
        arrays = {"trajectory": latents.trajectory, "timesteps": latents.timesteps, "mask": M.numpy()}
        about = self._about(part.picture) | params.repainting_record() | {"given": artefacts.checksum(arrays, {})}
        edited = functools.partial(self._edited, part, M, params, latents, account)
        decoded = kept.remembered(
            self.cache, "edit", {"edited": about}, account,
            lambda _: {"edited": self.runtime.computed("edit", account, edited)},
        )["edited"]  # fmt: skip
        return Painted(decoded["picture"], max(h, w), part.box, said, latents.made)

    def _inpainted(self, part: Part, params: Params, account: Account) -> Painted:
        assert self.inpainting is not None
        account.cache["edit"] = "miss"
        noise = generator(params.seed, part.picture, "inpaint")
        made = self.inpainting.paint(part.picture, part.mask, params, noise, functools.partial(self.progress, "edit"))
        account.spent("edit", made.evaluations)
        if made.overflowed:
            account.warn(f"The inpainting model overflowed in {self.dtype}; the stage was repeated in float32.")
        return Painted(made.picture, max(made.grid), part.box, self.inpainting.record(params) | self.guard.record)

    def _edited(self, part: Part, M: Tensor, params: Params, latents: Latents, account: Account) -> Arrays:
        model = self.runtime.model(account)
        levels = model.levels(params.steps, M.numel())[: len(latents.timesteps)]
        trajectory = diffedit.Trajectory(torch.from_numpy(latents.trajectory).to(self.device), levels)
        negative = self.runtime.embedding(params.negative, params, account)
        query = diffedit.Text(self.runtime.embedding(params.to, params, account), negative, params.guidance)
        solver = SOLVERS[params.scheduler](params.edit_eta, generator(params.seed, part.picture, "edit"))
        unguided = levels_up_to(1 - params.guidance_end, len(levels) - 1)
        steps = diffedit.edit(model, trajectory, M.to(self.device), query, solver, unguided, params.guidance_every)
        *_, y_0 = self._watched("edit", steps, len(levels) - 1)
        return {"picture": model.decode(y_0)[0].permute(1, 2, 0).cpu().numpy()}

    # How: the model, the cache, the clock, and what can fail.

    def embeds_file(self, name: str, picture: Picture, params: Params, account: Account) -> bytes:
        """What the model is told for the prompt of this name, as a file that --NAME-embeds takes."""
        params = self._writers(account).expanded(params)
        if name == "caption":
            params = self._writers(account).captioned(params, picture)
        prompt = params.prompts_of()[name]
        with device_errors(self.device), torch.inference_mode():
            embedding = self.runtime.embedding(prompt, params, account)
        return embeds.pack(embedding, prompts.record("prompt", prompt) | params.text_record(), self.folder)

    def _encoded(self, picture: Picture, account: Account, encode: Callable[[], Arrays]) -> Arrays:
        """A picture's latents, the same for whatever is done with it."""
        about = self._about(picture) | {"dtype": self.runtime.model(account).dtype_name}
        if limited := self.folder.fitness:
            about["noised"] = limited[0]
        return kept.aside(self.cache, "encoded", about, account, encode)

    def _writers(self, account: Account) -> Writers:
        return Writers(self.cache, self.folder.memo, account.warn)

    def _watched(self, stage: str, steps: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        for done, latents in enumerate(steps, start=1):
            self.progress(stage, done, total)
            yield latents

    def _about(self, picture: Picture) -> dict[str, Any]:
        return {
            "picture": picture.digest,
            "size": list(picture.size),
            **self.folder.record(),
            "dtype": self.dtype,
            **self.runtime.memory.record(),
        }

    def _shaped(self, contrast: Tensor, picture: Picture, params: Params) -> NDArray[np.uint8]:
        """The mask that is made from a map (h, w), as grey."""
        (width, height), (h, w) = picture.size, contrast.shape
        guide = None
        if params.edges:
            guide = torch.from_numpy(picture.fitted((w * self.folder.factor, h * self.folder.factor)))
        M = refine.mask(contrast, (height, width), guide=guide, **params.binarisation)
        return (M * 255).round().byte().numpy() if params.soft else M.numpy().astype(np.uint8) * 255

    def _maps(self, picture: Picture, params: Params, account: Account) -> dict[str, Tensor]:
        """The maps (h, w) that the mask is made from, each kept for itself; what is missing is made in one go."""
        abouts = {name: self._about(picture) | record for name, record in params.maps_records().items()}

        def compared(missing: Collection[str]) -> Mapping[str, Arrays]:
            made = self.runtime.computed("mask", account, lambda: self._compared(picture, params, account, missing))
            return {name: {name: array} for name, array in made.items()}

        found = kept.remembered(self.cache, "mask", abouts, account, compared)
        return {name: torch.from_numpy(found[name][name]) for name in abouts}
