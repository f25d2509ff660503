"""What the methods of `DiffEdit` return: masks, inversions and edits, with what computing them cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli.images import codecs, masks, previews
from diffedit_cli.images.masks import Mask
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import latents_files
from diffedit_cli.pipeline.composition import EditVariant
from diffedit_cli.pipeline.latents_files import Latents
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage import records
from diffedit_cli.storage.ownership import Ownership, Target


@dataclass(frozen=True, repr=False)
class MaskResult:
    """A mask with the picture that it belongs to.

    Attributes:
        mask: The mask with its contrast map.
        stats: Seconds, network evaluations, cache hits and warnings of the computation.
        picture: The picture in which the mask was found.
        read: Absolute paths of the files that were read; `save` never replaces them.
    """

    mask: Mask
    stats: EditStats
    picture: Picture
    read: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        return f"<MaskResult: {self.share:.1%} of {self.picture.name}>"

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(H, W) in the picture's size, true where an edit repaints."""
        return self.mask.pixels

    @property
    def image(self) -> Image.Image:
        """The mask as a greyscale image: white where an edit repaints, grey where it blends."""
        return Image.fromarray(self.mask.shown)

    @property
    def share(self) -> float:
        """The fraction of the picture that the mask covers, 0 to 1."""
        return self.mask.share

    def preview(self) -> Image.Image:
        """Returns picture, contrast map and mask side by side, as `diffedit mask --preview` writes them."""
        return previews.preview(self.picture, self.mask)

    def overlay(self) -> Image.Image:
        """Returns the picture with the mask laid over it, as `diffedit mask --overlay` writes it."""
        return previews.overlay(self.picture, self.mask)

    def save(self, path: str | Path) -> None:
        """Writes the PNG file that `diffedit mask` writes.

        Args:
            path: The file to write. An existing file is replaced, unless the mask was made from it.

        Raises:
            OutputError: The file cannot be written, or is one of the inputs.
        """
        _write(path, masks.pack_mask(self.mask), self.read)


@dataclass(frozen=True, repr=False)
class InversionResult:
    """The inversion of a picture: its latents at every noise level.

    Attributes:
        latents: The trajectory with its timesteps and settings.
        stats: Seconds, network evaluations, cache hits and warnings of the computation.
        read: Absolute paths of the files that were read; `save` never replaces them.
    """

    latents: Latents
    stats: EditStats
    read: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        return f"<InversionResult: {len(self.trajectory)} levels of latents {self.trajectory.shape[1:]}>"

    @property
    def trajectory(self) -> NDArray[np.float32]:
        """(T+1, C, h, w) latents, those of the picture first."""
        return self.latents.trajectory

    @property
    def timesteps(self) -> NDArray[np.int64 | np.float64]:
        """(T+1,) timesteps of the trajectory, rising."""
        return self.latents.timesteps

    def save(self, path: str | Path) -> None:
        """Writes the `.safetensors` file that `diffedit invert` writes.

        Args:
            path: The file to write. An existing file is replaced, unless the inversion was made from it.

        Raises:
            OutputError: The file cannot be written, or is one of the inputs.
        """
        _write(path, latents_files.pack_latents(self.latents), self.read)


@dataclass(frozen=True, repr=False)
class EditResult:
    """An edited picture: of several variants the first one.

    Attributes:
        edited: The edited picture with its mask and its record.
        picture: The picture that was edited.
        stats: Seconds, network evaluations, cache hits and warnings of the computation.
        others: The further variants.
        seed: Seed of this variant.
        read: Absolute paths of the files that were read; `save` and `compare` never replace them.
    """

    edited: EditVariant
    picture: Picture
    stats: EditStats
    others: tuple[EditVariant, ...] = ()
    seed: int = Params.seed
    read: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        return f"<EditResult: {self.edited.mask.share:.1%} of {self.picture.name} changed, seed {self.seed}>"

    @property
    def image(self) -> Image.Image:
        """The result in the picture's size and mode; unmasked pixels are the picture's own.

        Of 16 bits a channel, which `save` keeps, it has 8.
        """
        return self.edited.image

    @property
    def mask(self) -> MaskResult:
        """The final mask: outside of it no pixel differs from the picture."""
        return MaskResult(self.edited.mask, self.stats, self.picture, self.read)

    @property
    def variants(self) -> list[EditResult]:
        """All variants as results of their own, this one first."""
        every = enumerate((self.edited, *self.others))
        return [replace(self, edited=one, others=(), seed=self.seed + number) for number, one in every]

    def preview(self) -> Image.Image:
        """Returns picture, contrast map, mask and result side by side, as `diffedit edit --preview` writes them."""
        return previews.preview(self.picture, self.edited.mask, self.edited.picture)

    def sheet(self) -> Image.Image:
        """Returns a sheet of all variants with their seeds, as `diffedit edit --sheet` writes it."""
        pictures = [one.edited.picture for one in self.variants]
        return previews.sheet(pictures, previews.seeds(self.seed, len(pictures)))

    def compare(self, path: str | Path) -> None:
        """Writes an animation from the picture to the result and back, as `diffedit edit --compare` does.

        Args:
            path: The file to write, a `.gif` or `.webp`.

        Raises:
            UsageError: The file has another ending.
            OutputError: The file cannot be written, or is one of the inputs.
        """
        target = previews.path_of("compare", Path(path), "")
        record = {**self.edited.record, **records.record("compare", {})}
        _write(target, previews.animation(self.picture, self.edited.picture, target.suffix.lower(), record), self.read)

    def save(self, path: str | Path, *, metadata: bool = True, strip_metadata: bool = False) -> None:
        """Writes the file that `diffedit edit -o` writes; `stats.warnings` gains what the format cannot hold.

        Args:
            path: The file to write; its ending chooses the format, without one the picture's own.
            metadata: Whether the file tells how it was made. Default true.
            strip_metadata: Whether to leave out all metadata, the picture's own included. Default false.

        Raises:
            UsageError: The format of this ending cannot be written, or cannot hold the picture.
            OutputError: The file cannot be written, or is one of the inputs.
        """
        chosen, picture = codecs.output_format(Path(path), self.picture), self.edited.picture
        if strip_metadata:
            picture = picture.strip_metadata()
        for warning in codecs.fit_to_format(replace(picture, warnings=()), chosen).warnings:
            self.stats.warn(warning)
        record = self.edited.record if metadata and not strip_metadata else None
        _write(path, codecs.encode(picture, chosen, record), self.read)


def _write(path: str | Path, data: bytes, read: Iterable[Path]) -> None:
    """Writes a file, in place of an existing one unless it is in `read`. Raises OutputError."""
    Ownership(force=True, inputs=read).publish({Target(Path(path)): data})
