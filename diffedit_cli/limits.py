"""Drawn limits of a mask: only the white of one picture may change, the white of another may not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffedit_cli import artefacts
from diffedit_cli.artefacts import Mask
from diffedit_cli.errors import InputError, NothingToEdit
from diffedit_cli.images import Picture


@dataclass(frozen=True)
class Limits:
    """What a picture's mask is cut down to, both of the picture's size."""

    within: Mask | None = None
    exclude: Mask | None = None

    def applied(self, mask: Mask, picture: Picture) -> Mask:
        """What the limits leave of the mask; they join its record. Raises NothingToEdit if that is nothing."""
        inside = mask.pixels if self.within is None else mask.pixels & self.within.pixels
        pixels = inside if self.exclude is None else inside & ~self.exclude.pixels
        if self.within is not None and not inside.any():
            raise NothingToEdit(
                f"Nothing is left of the mask of {picture.name}: none of it lies in the white of --within "
                f"{self.within.name}; paint more of that white, or lower --threshold."
            )
        if self.exclude is not None and not pixels.any():
            raise NothingToEdit(
                f"Nothing is left of the mask of {picture.name}: the white of --exclude {self.exclude.name} covers "
                "it; paint less of that white, or lower --threshold."
            )
        return mask if self == NONE else mask.cut(pixels, self._recorded(mask))

    def _recorded(self, mask: Mask) -> dict[str, str]:
        """A mask that was already limited counts as drawn: only its file gives it again."""
        given = {"within": self.within, "exclude": self.exclude}
        digests = {name: limit.digest for name, limit in given.items() if limit is not None}
        again = mask.made is not None and ("within" in mask.made or "exclude" in mask.made)
        return ({"drawn": mask.digest} if again else mask.record()) | digests


NONE = Limits()


def load(picture: Picture, within: Path | None, exclude: Path | None) -> Limits:
    """Raises InputError for a file that is no picture of this picture's size."""

    def drawn(path: Path | None) -> Mask | None:
        if path is None:
            return None
        mask = artefacts.load_mask(path)
        check_size(mask, picture)
        return mask

    return Limits(drawn(within), drawn(exclude))


def check_size(mask: Mask, picture: Picture) -> None:
    """Raises InputError for a mask of another size than the picture's."""
    height, width = mask.pixels.shape
    if (width, height) != picture.size:
        raise InputError(
            f"The mask {mask.name} is {width} x {height} pixels and {picture.name} is "
            f"{picture.size[0]} x {picture.size[1]}; make it again with diffedit mask, or draw it on the picture."
        )
