"""The stages for notebooks and programs: pictures in, results out, nothing printed, every failure a DiffEditError."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.errors import InputError, UsageError
from diffedit_cli.images import codecs, masks, previews
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import adapters, registry
from diffedit_cli.models.memory import OffloadOptions, number_format
from diffedit_cli.pipeline import latents_files
from diffedit_cli.pipeline.composition import EditVariant
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.keywords import GivenParams, fits
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.mask_limits import MaskLimits
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage import files, records
from diffedit_cli.storage.cache import Cache, default_root
from diffedit_cli.storage.ownership import Ownership, Target

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

PictureLike = Union[str, Path, Image.Image, NDArray[Any], "Tensor"]
MaskLike = Union[PictureLike, "MaskResult"]
LatentsLike = Union[str, Path, "InversionResult"]


@dataclass(frozen=True)
class MaskResult:
    """A mask, what finding it cost, and the picture it is of."""

    mask: Mask
    stats: EditStats
    picture: Picture
    read: tuple[Path, ...] = ()

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(H, W) of the picture's size, true where an edit repaints."""
        return self.mask.pixels

    @property
    def image(self) -> Image.Image:
        """The mask as greyscale, white where an edit repaints, grey where it does in part."""
        return Image.fromarray(self.mask.shown)

    @property
    def share(self) -> float:
        """The fraction of the picture that it covers."""
        return self.mask.share

    def preview(self) -> Image.Image:
        """What `diffedit mask --preview` writes: picture, contrast and mask side by side."""
        return previews.preview(self.picture, self.mask)

    def overlay(self) -> Image.Image:
        """What `diffedit mask --overlay` writes: the mask over the picture."""
        return previews.overlay(self.picture, self.mask)

    def save(self, path: str | Path) -> None:
        """Writes the file that `diffedit mask` writes. Raises OutputError."""
        _write(path, masks.pack_mask(self.mask), self.read)


@dataclass(frozen=True)
class InversionResult:
    """A picture's way into noise, and what it cost."""

    latents: Latents
    stats: EditStats
    read: tuple[Path, ...] = ()

    @property
    def trajectory(self) -> NDArray[np.float32]:
        """(T+1, C, h, w), the picture's own latents first."""
        return self.latents.trajectory

    @property
    def timesteps(self) -> NDArray[np.int64 | np.float64]:
        """(T+1,)"""
        return self.latents.timesteps

    def save(self, path: str | Path) -> None:
        """Writes the file that `diffedit invert` writes. Raises OutputError."""
        _write(path, latents_files.pack_latents(self.latents), self.read)


@dataclass(frozen=True)
class EditResult:
    """An edited picture, the mask that it was edited in, and what both cost; the first of its variants."""

    edited: EditVariant
    picture: Picture
    stats: EditStats
    others: tuple[EditVariant, ...] = ()
    seed: int = Params.seed
    read: tuple[Path, ...] = ()

    @property
    def image(self) -> Image.Image:
        """Of the picture's size and mode; unmasked pixels are the picture's own. Of 16 bits, which `save` keeps, 8."""
        return self.edited.image

    @property
    def mask(self) -> MaskResult:
        return MaskResult(self.edited.mask, self.stats, self.picture, self.read)

    @property
    def variants(self) -> list[EditResult]:
        """All results, this one first."""
        every = enumerate((self.edited, *self.others))
        return [replace(self, edited=one, others=(), seed=self.seed + number) for number, one in every]

    def preview(self) -> Image.Image:
        """What `diffedit edit --preview` writes: picture, contrast, mask and result side by side."""
        return previews.preview(self.picture, self.edited.mask, self.edited.picture)

    def sheet(self) -> Image.Image:
        """What `diffedit edit --sheet` writes: all variants, each with its seed."""
        return previews.sheet(
            [one.edited.picture for one in self.variants], previews.seeds(self.seed, len(self.variants))
        )

    def compare(self, path: str | Path) -> None:
        """Writes what `diffedit edit --compare path` writes, a .gif or .webp. Raises UsageError or OutputError."""
        target = previews.place("compare", Path(path), "")
        record = {**self.edited.record, **records.record("compare", {})}
        _write(target, previews.animation(self.picture, self.edited.picture, target.suffix.lower(), record), self.read)

    def save(self, path: str | Path, *, metadata: bool = True, strip_metadata: bool = False) -> None:
        """Writes the file that `diffedit edit -o path` writes. Raises UsageError or OutputError.

        What the format cannot hold is among the warnings of `EditStats`.
        """
        chosen, picture = codecs.output_format(Path(path), self.picture), self.edited.picture
        if strip_metadata:
            picture = picture.stripped()
        for warning in codecs.fit_to_format(replace(picture, warnings=()), chosen).warnings:
            self.stats.warn(warning)
        record = self.edited.record if metadata and not strip_metadata else None
        _write(path, codecs.encode(picture, chosen, record), self.read)


class DiffEdit:
    """One model, loaded when first needed and once, for any number of pictures.

    Arguments are named like the options of the command line, and mean the same; without a `model` it is the built-in
    one, which then refuses pictures that are unlike all it knows. `cache` is a folder in which masks'
    comparisons and inversions are kept, or None. `on_step` is told of each step: its stage, steps done, steps in all.

    A picture is a path, a PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W); of uint8, uint16, or
    float in [0, 1]. So is a drawn mask, of the picture's size and white, or true, where the edit may repaint.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache: str | Path | None = None,
        model_config: str | None = None,
        inpainter: str | Path | None = None,
        offload: str = "none",
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        lora: Iterable[str] = (),
        embedding: Iterable[str] = (),
        safety: bool = True,
        max_pixels: int = files.MAX_PIXELS,
        on_step: Callable[[str, int, int], object] | None = None,
    ) -> None:
        """Raises ModelError for a model that is not on this machine, DeviceError for a device that is not here."""
        self._max_pixels = max_pixels
        kept = None if cache is None else Path(cache)
        memo = (kept or default_root()) / "digests"
        folder = replace(
            registry.find(str(model or registry.BUILTIN), kept=kept, config=model_config),
            loras=adapters.loras(lora, memo),
            embeddings=adapters.embeddings(embedding, memo),
        )

        def progress(stage: str, done: int, total: int) -> None:
            if on_step is not None:
                on_step(stage, done, total)

        self._pipeline = EditPipeline(
            folder,
            None if kept is None else Cache(kept),
            device=device,
            dtype=number_format("dtype", dtype),
            memory=OffloadOptions(offload, vae_slicing, vae_tiling),
            progress=progress,
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
        box: tuple[int, int, int, int] | None = None,
        point: tuple[int, int] | None = None,
        **params: Unpack[GivenParams],
    ) -> MaskResult:
        """Finds what has to change for `from_` to become `to`. Raises NothingToEdit where that is nothing.

        `box` is (x, y, width, height), `point` (x, y), in pixels.
        """
        given, stats = self._begun(picture)
        allowed = self._limits(given, within, exclude, box, point)
        with _quietly():
            found = self._pipeline.mask(given, _checked(params, "from_", "to"), stats, allowed)
        return MaskResult(found, stats, given, _files(picture, within, exclude))

    def invert(self, picture: PictureLike, **params: Unpack[GivenParams]) -> InversionResult:
        """Walks the picture back into noise, told that it shows `caption`."""
        given, stats = self._begun(picture)
        with _quietly():
            return InversionResult(self._pipeline.invert(given, _checked(params), stats), stats, _files(picture))

    def edit(
        self,
        picture: PictureLike,
        *,
        mask: MaskLike | None = None,
        latents: LatentsLike | None = None,
        within: MaskLike | None = None,
        exclude: MaskLike | None = None,
        box: tuple[int, int, int, int] | None = None,
        point: tuple[int, int] | None = None,
        **params: Unpack[GivenParams],
    ) -> EditResult:
        """Changes what `from_` names into what `to` names, computing what of mask and latents is not given.

        Raises NothingToEdit for an empty mask, InputError for a mask or latents of another picture or model, and
        Withheld for a result that the model's safety checker flags.
        """
        given, stats = self._begun(picture)
        drawn, allowed = (
            _mask(mask, self._max_pixels, params.get("soft", False)),
            self._limits(given, within, exclude, box, point),
        )
        if latents is not None and self._pipeline.inpainting is not None:
            raise UsageError("An inpainting model paints without an inversion; leave out latents.")
        inversion = latents.latents if isinstance(latents, InversionResult) else None
        if isinstance(latents, (str, Path)):
            inversion = latents_files.load_latents(Path(latents))
        checked = _checked(params, *(("to",) if mask is not None else ("from_", "to")))
        with _quietly():
            edited, *others = self._pipeline.edit(given, checked, stats, drawn, inversion, allowed)
        seed = edited.seed if checked.best else None
        read = _files(picture, mask, latents, within, exclude)
        return EditResult(edited, given, stats, tuple(others), checked.seed if seed is None else seed, read)

    def frames(self, inversion: InversionResult) -> list[Image.Image]:
        """Every level of an inversion as a picture, the clean one first."""
        with _quietly():
            return [Image.fromarray(frame) for frame in self._pipeline.frames(inversion.latents, inversion.stats)]

    def _begun(self, picture: PictureLike) -> tuple[Picture, EditStats]:
        given, stats = _picture(picture, self._max_pixels), EditStats()
        for warning in given.warnings:
            stats.warn(warning)
        return given, stats

    def _limits(
        self,
        picture: Picture,
        within: MaskLike | None,
        exclude: MaskLike | None,
        box: tuple[int, int, int, int] | None,
        point: tuple[int, int] | None,
    ) -> MaskLimits:
        allowed = MaskLimits(_mask(within, self._max_pixels), _mask(exclude, self._max_pixels), box, point)
        allowed.check(picture)
        return allowed


def _files(*given: object) -> tuple[Path, ...]:
    """The files that were read for these, also from another working folder."""
    names = [getattr(one, "filename", one) for one in given]  # that of PIL's pictures
    return tuple(Path(os.path.abspath(name)) for name in names if isinstance(name, (str, Path)) and str(name))  # noqa: PTH100


def _write(path: str | Path, data: bytes, read: Iterable[Path]) -> None:
    """Replaces what is there, but nothing that it was made from. Raises OutputError."""
    Ownership(force=True, inputs=read).publish({Target(Path(path)): data})


def _checked(params: GivenParams, *needed: str) -> Params:
    """Raises UsageError for a parameter that there is not, is out of range, or is needed and empty."""
    if unknown := sorted(params.keys() - Params.__dataclass_fields__.keys()):
        raise UsageError(f"There is no parameter {', '.join(unknown)}; see help(diffedit_cli.Params).")
    plain: dict[str, Any] = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()
    }
    for name, value in plain.items():
        if not fits(name, value):
            raise UsageError(f"The parameter {name} cannot be {str(value)[:40]!r}; see help(diffedit_cli.Params).")
    checked = Params(**plain)
    for name in needed:
        if isinstance(prompt := getattr(checked, name), str) and not prompt.strip():
            raise UsageError(f"The parameter {name} is empty; say it in words.")
    return checked


def _picture(given: PictureLike, max_pixels: int, name: str = "the picture") -> Picture:
    if isinstance(given, (str, Path)):
        return codecs.load(Path(given), max_pixels)
    if isinstance(given, Image.Image):
        return codecs.from_image(given, name, max_pixels)
    if not isinstance(given, np.ndarray) and not hasattr(given, "detach"):
        raise InputError(f"{name} cannot be a {type(given).__name__}; give a path, an array, a tensor or a PIL image.")
    return codecs.from_array(_array(given), name, max_pixels)


def _mask(given: MaskLike | None, max_pixels: int, soft: bool = False) -> Mask | None:
    if given is None:
        return None
    if isinstance(given, MaskResult):
        return given.mask
    mask = masks.as_mask(_picture(given, max_pixels, "the mask"), soft)
    return mask if isinstance(given, (str, Path)) else replace(mask, name="given")


def _array(given: NDArray[Any] | Tensor) -> NDArray[Any]:
    """An array as it is; a tensor, (B, C, H, W) or less, as an array with its channels last."""
    if isinstance(given, np.ndarray):
        return given
    tensor = given.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The libraries say nothing meanwhile."""
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
