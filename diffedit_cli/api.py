"""The library: DiffEdit for notebooks and programs. It prints nothing; every failure is a DiffEditError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
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
from diffedit_cli.models import adapters, registry
from diffedit_cli.models.memory import OffloadOptions, number_format
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.keywords import GivenParams
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage import files
from diffedit_cli.storage.cache import Cache, default_root
from diffedit_cli.storage.cache_folder import DIGESTS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Point = tuple[int, int]  # x, y in pixels


class DiffEdit:
    """DiffEdit with one model, loaded on first use; its arguments mean the same as the command line's options.

    Args:
        model: Name or path of the model. Default: the built-in one, which refuses pictures unlike those it knows.
        inpainter: Name or path of an inpainting model that paints in place of inversion and edit. Default: none.
        model_config: For checkpoint files, the model whose configuration they use. Default: by their content.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Default `auto`.
        dtype: `auto`, `float32`, `float16`, `bfloat16`. Default `auto`.
        offload: `none`, `model` or `sequential`: where weights wait while they are not used. Default `none`.
        quantize: `none`, `fp8`, `int8` or `nf4`: how the weights of the large networks are stored. Default `none`.
        cache: Folder for maps, inversions and edits. Default None: only converted or quantised models and digests are.
        vae_slicing: Whether the VAE takes pictures one by one, for less memory. Default false.
        vae_tiling: Whether the VAE takes pictures tile by tile, for less memory. Default false.
        lora: LoRA files, each FILE or FILE:SCALE.
        embedding: Textual inversions, each FILE or FILE:TOKEN.
        safety: Whether the model's safety checker is used, if it has one. Default true.
        max_pixels: Largest number of pixels of a picture. Default 200 million.
        on_step: Called with the stage, the steps done and the steps in total.

    Raises:
        ModelError: The model, a LoRA or a textual inversion is not on this machine or cannot be used.
        DeviceError: The device is not available.
        UsageError: An argument has a value that it cannot have.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        inpainter: str | Path | None = None,
        model_config: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        quantize: str = "none",
        cache: str | Path | None = None,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        lora: Iterable[str] = (),
        embedding: Iterable[str] = (),
        safety: bool = True,
        max_pixels: int = files.MAX_PIXELS,
        on_step: Callable[[str, int, int], object] | None = None,
    ) -> None:
        self._max_pixels = max_pixels
        kept = None if cache is None else Path(cache)
        folder = registry.find(str(model or registry.BUILTIN), kept=kept, config=model_config)
        self._pipeline = EditPipeline(
            adapters.attach(folder, lora, embedding, (kept or default_root()) / DIGESTS),
            None if kept is None else Cache(kept),
            device=device,
            dtype=number_format("dtype", dtype),
            memory=OffloadOptions(offload, vae_slicing, vae_tiling, quantize),
            progress=on_step or (lambda *_: None),
            any_picture=model is not None,
            safety=safety,
            inpainter=None if inpainter is None else registry.find(str(inpainter), kept=kept, config=model_config),
        )

    def mask(
        self,
        picture: PictureLike,
        *,
        within: MaskLike | None = None,
        exclude: MaskLike | None = None,
        box: Box | None = None,
        point: Point | None = None,
        **params: Unpack[GivenParams],
    ) -> MaskResult:
        """Finds what has to change for `from_` to become `to` (step 1 of the paper).

        Args:
            picture: Path, PIL image, array (H, W) or (H, W, C), or tensor (C, H, W); uint8, uint16 or float in [0, 1].
            within: The mask stays where this is white.
            exclude: The mask stays out of where this is white.
            box: The mask stays inside (x, y, width, height), in pixels.
            point: Of the mask only the region at (x, y), in pixels, is kept.
            params: Fields of `Params`; `from_` and `to` are required.

        Raises:
            NothingToEdit: The mask is empty, or the picture does not show what `from_` names.
            InputError: A picture cannot be read.
        """
        loaded, stats = _loaded(picture, self._max_pixels)
        allowed = _limits(loaded, self._max_pixels, within, exclude, box, point)
        with _quietly():
            found = self._pipeline.mask(loaded, params_of(params, "from_", "to"), stats, allowed)
        return MaskResult(found, stats, loaded, files_of(picture, within, exclude))

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
            mask: Mask of an earlier call, or a drawn one. Default: it is found.
            latents: Inversion of an earlier call, or its file. Default: it is computed.
            within: See `mask`.
            exclude: See `mask`.
            box: See `mask`.
            point: See `mask`.
            params: Fields of `Params`; `to` is required, and without `mask` also `from_`.

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
        checked = params_of(params, *(("to",) if mask is not None else ("from_", "to")))
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
