"""The figures of PIE-Bench's evaluation (arXiv:2310.01506, evaluation/evaluate.py), of one result.

The background is what the mask leaves out: both pictures times 1 - mask, and then compared as whole frames. The mask
has its outermost ring of one pixel set before. A figure is None where it means nothing: no background if the mask is
the whole picture, no edited part and no background if the data set has no masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.regression import mean_squared_error

from benchmarks.piebench.backbones import Backbone
from benchmarks.piebench.cases import Mask, Size, ringed
from diffedit_cli.storage import hashing

Pixels = NDArray[np.uint8]
Background = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Compared:
    """A result beside its source: pictures (h, w, 3), the mask as the data set has it, and the target prompt."""

    source: Pixels
    made: Pixels
    mask: Mask | None
    target: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that the figures depend on, but for the backbones."""
        total = hashlib.sha256(f"{self.source.shape} {self.target}".encode())
        for part in (self.source, self.made, *(() if self.mask is None else (self.mask,))):
            total.update(part.tobytes())
        return total.hexdigest()

    @cached_property
    def background(self) -> Background | None:
        """Both pictures of 0 to 1 with black inside of the mask, None if the mask leaves nothing out."""
        if self.mask is None or (inside := ringed(self.mask)).all():
            return None
        outside = (~inside[..., None]).astype(np.float32)
        source, made = (picture.astype(np.float32) / 255 * outside for picture in (self.source, self.made))
        return source, made

    def edited(self) -> Pixels | None:
        """Returns the result with black outside of the mask, None without a mask."""
        return None if self.mask is None else self.made * ringed(self.mask)[..., None]


@dataclass(frozen=True)
class Figure:
    """How a figure is shown, multiplied by `times`, and the backbone that it needs."""

    title: str
    times: float
    digits: int
    backbone: str = ""


FIGURES = {
    "structure": Figure("structure x 10^3", 1e3, 2, "dino"),
    "psnr": Figure("PSNR", 1, 2),
    "lpips": Figure("LPIPS x 10^3", 1e3, 2, "squeezenet"),
    "mse": Figure("MSE x 10^4", 1e4, 2),
    "ssim": Figure("SSIM x 10^2", 1e2, 2),
    "clip_whole": Figure("CLIP whole", 1, 2, "clip"),
    "clip_edited": Figure("CLIP edited", 1, 2, "clip"),
}
"""The columns of PIE-Bench's table, in its order."""


def measure(compared: Compared, name: str, backbone: Backbone | None) -> float | None:
    """Returns one of FIGURES of a result, infinity for the PSNR of an unchanged background, None where it has none."""
    if name == "structure":
        return backbone(compared.source, compared.made)
    if name.startswith("clip"):
        shown = compared.made if name == "clip_whole" else compared.edited()
        return None if shown is None or not compared.target else backbone(shown, compared.target)
    pictures = compared.background
    if pictures is None:
        return None
    if name == "lpips":
        return backbone(*pictures)
    source, made = (torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous() for picture in pictures)
    return float(PLAIN[name](source, made))


def _ssim(source: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Returns SSIM over the windows that lie within the picture, as torchmetrics did until 1.4; later ones take all."""
    _, everywhere = structural_similarity_index_measure(source, made, data_range=1.0, return_full_image=True)
    return everywhere[..., WINDOW:-WINDOW, WINDOW:-WINDOW].mean()


WINDOW = 5  # pixels from the middle of one of SSIM's windows to its edge
PLAIN: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "psnr": partial(peak_signal_noise_ratio, data_range=1.0),
    "ssim": _ssim,
    "mse": mean_squared_error,
}


def aligned(result: Image.Image, size: Size) -> tuple[Pixels, bool]:
    """Returns a result in the size (h, w) of its source, and whether it had to be scaled.

    As in PIE-Bench's evaluation, of a sheet with several pictures the one in the lower right corner is the result.
    """
    result, (height, width) = result.convert("RGB"), size
    if result.width != result.height and result.width >= width and result.height >= height:
        result = result.crop((result.width - width, result.height - height, *result.size))
    scaled = result.size != (width, height)
    if scaled:
        result = result.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(result), scaled


def figures_digest(compared: Compared, backbone: Backbone | None) -> str:
    """Returns what identifies a figure: the pictures, and the weights of its backbone."""
    return hashing.of_record({"compared": compared.digest, "backbone": getattr(backbone, "digest", "")})
