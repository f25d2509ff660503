"""Arguments of the methods of `DiffEdit`: pictures, masks and parameters of many kinds, checked and converted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.api_results import InversionResult, MaskResult
from diffedit_cli.errors import InputError, UsageError
from diffedit_cli.images import codecs, masks
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import latents_files
from diffedit_cli.pipeline.keywords import GivenParams, fits
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.params import Params

if TYPE_CHECKING:
    from torch import Tensor

PictureLike = Union[str, Path, Image.Image, NDArray[Any], "Tensor"]
"""A path, a PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W); of uint8, uint16, or float in [0, 1]."""
MaskLike = Union[PictureLike, "MaskResult"]
"""A mask that was found, or a picture of the edited one's size: white, or true, is inside."""
LatentsLike = Union[str, Path, "InversionResult"]
"""An inversion, or the path of its file."""


def files_of(*arguments: object) -> tuple[Path, ...]:
    """Returns the absolute paths of the files that these arguments were read from."""
    names = [getattr(one, "filename", one) for one in arguments]  # PIL's images know the file they were opened from
    return tuple(Path(os.path.abspath(name)) for name in names if isinstance(name, (str, Path)) and str(name))  # noqa: PTH100


def params_of(keywords: GivenParams, *needed: str) -> Params:
    """Returns the parameters of these keywords.

    Raises UsageError for an unknown parameter, a value out of range, or a prompt of `needed` that is empty.
    """
    if unknown := sorted(keywords.keys() - Params.__dataclass_fields__.keys()):
        raise UsageError(f"There is no parameter {', '.join(unknown)}; see help(diffedit_cli.Params).")
    plain: dict[str, Any] = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in keywords.items()
    }
    for name, value in plain.items():
        if not fits(name, value):
            raise UsageError(f"The parameter {name} cannot be {str(value)[:40]!r}; see help(diffedit_cli.Params).")
    params = Params(**plain)
    for name in needed:
        if isinstance(prompt := getattr(params, name), str) and not prompt.strip():
            raise UsageError(f"The parameter {name} is empty; say it in words.")
    return params


def picture_of(argument: PictureLike, max_pixels: int, name: str = "the picture") -> Picture:
    """Returns the picture, which messages call `name`. Raises InputError, also for more than `max_pixels` pixels."""
    if isinstance(argument, (str, Path)):
        return codecs.load(Path(argument), max_pixels)
    if isinstance(argument, Image.Image):
        return codecs.from_image(argument, name, max_pixels)
    if not isinstance(argument, np.ndarray) and not hasattr(argument, "detach"):
        kind = type(argument).__name__
        raise InputError(f"{name} cannot be a {kind}; give a path, an array, a tensor or a PIL image.")
    return codecs.from_array(_array(argument), name, max_pixels)


def mask_of(argument: MaskLike | None, max_pixels: int, soft: bool = False) -> Mask | None:
    """Returns the mask, graded in [0, 1] with `soft`; None for None. Raises InputError."""
    if argument is None:
        return None
    if isinstance(argument, MaskResult):
        return argument.mask
    mask = masks.as_mask(picture_of(argument, max_pixels, "the mask"), soft)
    return mask if isinstance(argument, (str, Path)) else replace(mask, name="given")


def latents_of(argument: LatentsLike | None) -> Latents | None:
    """Returns the inversion; None for None. Raises InputError for a file that holds none."""
    if isinstance(argument, (str, Path)):
        return latents_files.load_latents(Path(argument))
    return argument.latents if isinstance(argument, InversionResult) else None


def _array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Returns an array as it is, and a tensor, (B, C, H, W) or less, as an array with its channels last."""
    if isinstance(values, np.ndarray):
        return values
    tensor = values.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    return array.transpose(1, 2, 0) if array.ndim == 3 else array
