"""Reads and writes latents files, which hold the trajectory of an inversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.errors import InputError, reason
from diffedit_cli.storage import files, records
from diffedit_cli.storage.artifacts import UNREADABLE, Arrays, pack, unpack


@dataclass(frozen=True)
class Latents:
    """A trajectory (T+1, C, h, w) float32 from x_0 to x_r, its timesteps (T+1,), and its record `made`."""

    trajectory: NDArray[np.float32]
    timesteps: NDArray[np.int64 | np.float64]
    made: Mapping[str, Any]
    name: str = ""  # name of the file it was read from

    @property
    def invert_every(self) -> int:
        """Levels in one step of the inversion, by its record."""
        said = self.made.get("invert-every")
        return max(1, said) if isinstance(said, int) else 1

    @property
    def invert_from(self) -> float:
        """Noise level up to which the latents hold fresh noise in place of an inversion, by its record."""
        said = self.made.get("invert-from")
        return float(said) if isinstance(said, int | float) else 0.0


def pack_latents(latents: Latents) -> bytes:
    """Returns the bytes of a latents file."""
    arrays: Arrays = {"trajectory": latents.trajectory, "timesteps": latents.timesteps}
    return pack(arrays, records.record("latents", latents.made))


def load_latents(path: Path) -> Latents:
    """Reads a latents file. Raises InputError if it cannot be used."""
    files.check_readable(path, "latents file")
    try:
        arrays, about = unpack(path)
        if about["kind"] != "latents":
            raise ValueError(f"it holds {about['kind']}, not latents")
        latents = Latents(arrays["trajectory"], arrays["timesteps"], records.body(about), str(path))
    except UNREADABLE as error:
        raise InputError(
            f"The latents file {path} cannot be used: {reason(error)}; make it again with diffedit invert."
        ) from error
    return latents
