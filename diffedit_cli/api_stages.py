"""The stages of DiffEdit as methods: mask, inversion, edit, and the frames of an inversion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from diffedit_cli.api_inputs import (
    LatentsLike,
    MaskLike,
    PictureLike,
    files_of,
    latents_of,
    mask_of,
    params_of,
    picture_of,
)
from diffedit_cli.api_results import EditResult, InversionResult, MaskResult
from diffedit_cli.errors import UsageError
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.keywords import GivenParams
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.stats import EditStats

if TYPE_CHECKING:
    from typing_extensions import Unpack

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Point = tuple[int, int]  # x, y in pixels


class Stages:
    """The stages of DiffEdit with one model."""

    _pipeline: EditPipeline
    _max_pixels: int

    def mask(
        self,
        picture: PictureLike,
        *,
        mask: MaskLike | None = None,
        within: MaskLike | None = None,
        exclude: MaskLike | None = None,
        box: Box | None = None,
        point: Point | None = None,
        **params: Unpack[GivenParams],
    ) -> MaskResult:
        """Finds what has to change for `from_` to become `to` (step 1 of the paper).

        Args:
            picture: Path, PIL image, array (H, W) or (H, W, C), or tensor (C, H, W); uint8, uint16 or float in [0, 1].
            mask: What `drawn` means in `mask_method`. Default: it does not name it.
            within: The mask stays where this is white.
            exclude: The mask stays out of where this is white.
            box: The mask stays inside (x, y, width, height), in pixels.
            point: Of the mask only the region at (x, y), in pixels, is kept.
            params: Fields of `Params`; `from_` and `to` are required unless `segment` or `mask_method` finds the mask
                without them.

        Raises:
            NothingToEdit: The mask is empty, or the picture does not show what `from_` names.
            InputError: A picture cannot be read.
        """
        loaded, stats = _loaded(picture, self._max_pixels)
        drawn = mask_of(mask, self._max_pixels, params.get("soft", False))
        allowed = _limits(loaded, self._max_pixels, within, exclude, box, point)
        needs = ("from_", "to") if params_of(params).compares else ()
        with _quietly():
            found = self._pipeline.mask(loaded, params_of(params, *needs), stats, allowed, drawn)
        return MaskResult(found, stats, loaded, files_of(picture, mask, within, exclude))

    def invert(self, picture: PictureLike, **params: Unpack[GivenParams]) -> InversionResult:
        """Inverts a picture into noise under the prompt `caption` (step 2 of the paper).

        Args:
            picture: See `mask`.
            params: Fields of `Params`.

        Raises:
            InputError: The picture cannot be read.
        """
        loaded, stats = _loaded(picture, self._max_pixels)
        with _quietly():
            return InversionResult(self._pipeline.invert(loaded, params_of(params), stats), stats, files_of(picture))

    def edit(
        self,
        picture: PictureLike,
        *,
        mask: MaskLike | None = None,
        latents: LatentsLike | None = None,
        within: MaskLike | None = None,
        exclude: MaskLike | None = None,
        box: Box | None = None,
        point: Point | None = None,
        **params: Unpack[GivenParams],
    ) -> EditResult:
        """Changes what `from_` names into what `to` names; all other arguments are those of `mask`.

        Args:
            picture: See `mask`.
            mask: Mask of an earlier call, or a drawn one; or what `drawn` means in `mask_method`. Default: it is found.
            latents: Inversion of an earlier call, or its file. Default: it is computed.
            within: See `mask`.
            exclude: See `mask`.
            box: See `mask`.
            point: See `mask`.
            params: Fields of `Params`; `to` is required, unless there are `mask` and `instruction`, and also `from_` if
                prompts are compared to find the mask.

        Raises:
            NothingToEdit: The mask is empty, or the picture does not show what `from_` names.
            InputError: A picture cannot be read, or mask or latents belong to another picture or model.
            Withheld: The model's safety checker flags the result.
        """
        loaded, stats = _loaded(picture, self._max_pixels)
        drawn = mask_of(mask, self._max_pixels, params.get("soft", False))
        allowed = _limits(loaded, self._max_pixels, within, exclude, box, point)
        if latents is not None and self._pipeline.inpainting is not None:
            raise UsageError("An inpainting model paints without an inversion; leave out latents.")
        given = params_of(params)
        is_found = given.compares and (mask is None or given.draws)
        needs = ("from_", "to") if is_found else () if given.instruction else ("to",)
        checked = params_of(params, *needs)
        with _quietly():
            edited, *others = self._pipeline.edit(loaded, checked, stats, drawn, latents_of(latents), allowed)
        seed = edited.seed if checked.best and edited.seed is not None else checked.seed
        files_read = files_of(picture, mask, latents, within, exclude)
        return EditResult(edited, loaded, stats, tuple(others), seed, files_read)

    def frames(self, inversion: InversionResult) -> list[Image.Image]:
        """Returns the picture decoded at every noise level of an `inversion`, the clean one first."""
        with _quietly():
            return [Image.fromarray(frame) for frame in self._pipeline.frames(inversion.latents, inversion.stats)]


def _loaded(picture: PictureLike, max_pixels: int) -> tuple[Picture, EditStats]:
    loaded, stats = picture_of(picture, max_pixels), EditStats()
    for warning in loaded.warnings:
        stats.warn(warning)
    return loaded, stats


def _limits(
    picture: Picture,
    max_pixels: int,
    within: MaskLike | None,
    exclude: MaskLike | None,
    box: Box | None,
    point: Point | None,
) -> MaskLimits:
    allowed = MaskLimits(mask_of(within, max_pixels), mask_of(exclude, max_pixels), box, point)
    allowed.check(picture)
    return allowed


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences diffusers and transformers meanwhile."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    levels = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    bars = of_transformers.is_progress_bar_enabled()
    for library, _ in levels:
        library.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()
