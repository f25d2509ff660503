"""The files between stages: tensors <-> `.safetensors` and mask PNG, each with the record of how it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from diffedit_cli import __version__, digests, files, formats, metadata, paths, seals
from diffedit_cli.errors import InputError
from diffedit_cli.images import Picture

FORMAT_VERSION = 1
RECORD = "diffedit"
CHANGED = "changed"
"""In the record of the mask of what an edit changed."""
CHOSEN = ("drawn", "within", "exclude", "box", "point", CHANGED)
"""In the records of masks that somebody has chosen."""
CHECKSUM = "sha256"
Arrays = dict[str, NDArray[Any]]

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError)
TRAJECTORY = {"trajectory": 4, "timesteps": 1}
RANKS = {
    "contrast": {"contrast": 2}, "attention": {"attention": 2}, "inversion": TRAJECTORY, "latents": TRAJECTORY,
    "encoded": {"latents": 4, "misfit": 1}, "edited": {"picture": 3},
    "reference": {"eps": 4}, "watched": {"eps": 4, "attention": 2}, "without": {"eps": 4},
    "evidence": {"evidence": 3}, "decoded": {"picture": 3},
}  # fmt: skip


@dataclass(frozen=True)
class Mask:
    """A mask of the picture's size, true = repaint, and how it was made (None: drawn by hand).

    A soft one also says how much, as `grey` (H, W), 255 = fully; `pixels` are then those that are not 0.
    """

    pixels: NDArray[np.bool_]
    made: Mapping[str, Any] | None = None
    name: str = ""  # of the file it was read from
    grey: NDArray[np.uint8] | None = None
    contrast: NDArray[np.float32] | None = None  # (h, w), of the whole picture: what it was found in, for people to see

    @classmethod
    def soft(cls, grey: NDArray[np.uint8], made: Mapping[str, Any] | None = None, name: str = "") -> Mask:
        """Of grey values (H, W); of black and white it is a mask like any other."""
        return cls(grey > 0, made, name, None if np.isin(grey, (0, 255)).all() else grey)

    @property
    def shown(self) -> NDArray[np.uint8]:
        """Its pixels as grey, 255 = repaint fully."""
        return self.pixels.astype(np.uint8) * 255 if self.grey is None else self.grey

    @property
    def share(self) -> float:
        """The fraction of the picture that it covers."""
        return float(self.pixels.mean())

    @property
    def digest(self) -> str:
        """Sha256 (hex) of size and pixels."""
        values = np.packbits(self.pixels) if self.grey is None else self.grey
        return hashlib.sha256(f"{self.pixels.shape}".encode() + values.tobytes()).hexdigest()

    @property
    def is_final(self) -> bool:
        """Whether it is taken as it is: drawn by hand, cut down to what somebody chose, or what an edit changed."""
        return self.made is None or any(name in self.made for name in CHOSEN)

    def cut(self, keep: NDArray[np.bool_], made: Mapping[str, Any]) -> Mask:
        """What lies where `keep` is true."""
        grey = None if self.grey is None else self.grey * keep
        return replace(self, pixels=self.pixels & keep, made=made, grey=grey)

    def record(self) -> dict[str, Any]:
        """For the metadata of what is made with this mask."""
        if self.made is not None:
            return dict(self.made)
        return {"drawn": self.digest} | ({} if self.grey is None else {"soft": True})


def together(masks: Sequence[Mask]) -> Mask:
    """All that any of some masks of one size covers, and how the first was made."""
    first, *others = masks
    if not others:
        return first
    return Mask.soft(np.maximum.reduce([mask.shown for mask in masks]), first.made)


@dataclass(frozen=True)
class Latents:
    """A trajectory (T+1, C, h, w) float32 from x_0 to x_r, its timesteps (T+1,), and how it was made."""

    trajectory: NDArray[np.float32]
    timesteps: NDArray[np.int64 | np.float64]
    made: Mapping[str, Any]
    name: str = ""  # of the file it was read from


def record(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a file of ours."""
    return {"tool": RECORD, "version": __version__, "format": FORMAT_VERSION, "kind": kind, **body}


def pack(arrays: Arrays, about: Mapping[str, Any]) -> bytes:
    """A `.safetensors` file's bytes; its metadata holds the record and a checksum of record and tensors."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # one key: safetensors writes several in any order, and the same tensors must give the same bytes
    metadata = {RECORD: seals.told({**about, CHECKSUM: checksum(arrays, about)})}
    data: bytes = safetensors.numpy.save(arrays, metadata)
    return data


def unpack(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and record of a file that `pack` made. Raises one of UNREADABLE for a damaged or foreign one."""
    about = _stated(path)
    stated = about.pop(CHECKSUM)
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if stated != checksum(arrays, about):
        raise ValueError("its contents do not match its checksum")
    _check(arrays, RANKS.get(about["kind"], {}))
    return arrays, about


def finite(arrays: Arrays) -> bool:
    """Whether all of their values are."""
    return all(np.isfinite(array).all() for array in arrays.values())


def _check(arrays: Arrays, ranks: Mapping[str, int]) -> None:
    """A checksum that fits says nothing of who made it. Raises ValueError for what no stage makes."""
    for name, rank in ranks.items():
        if name not in arrays or arrays[name].ndim != rank or not arrays[name].size:
            raise ValueError(f"it holds no {name} of {rank} dimensions")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"not all of its {name} is finite")
    if ranks is TRAJECTORY:
        trajectory, timesteps = arrays["trajectory"], arrays["timesteps"]
        if trajectory.dtype != np.float32 or len(trajectory) != len(timesteps) or (np.diff(timesteps) <= 0).any():
            raise ValueError("its trajectory is no series of latents, each with a later timestep")


def made_by_us(path: Path) -> bool:
    """Whether diffedit wrote the file, by what the file itself says."""
    return paths.is_file(path) and read_record(path) is not None


def read_record(path: Path) -> dict[str, Any] | None:
    """How a mask, latents file or edited picture was made, or None."""
    try:
        return read_packed_record(path)
    except UNREADABLE:
        return formats.read_record(path)


def read_packed_record(path: Path) -> dict[str, Any]:
    """The record alone. Raises one of UNREADABLE."""
    about = _stated(path)
    del about[CHECKSUM]
    return about


def _stated(path: Path) -> dict[str, Any]:
    """Record and checksum, as the file states them."""
    with safetensors.safe_open(path, framework="np") as file:
        said = file.metadata() or {}
    if RECORD not in said:
        raise ValueError("it was not made by diffedit")
    about: dict[str, Any] = json.loads(said[RECORD])
    if not metadata.is_sound(about):
        raise ValueError("what it says of itself is damaged")
    if about.get("format") != FORMAT_VERSION:
        raise ValueError(f"its format version is {about.get('format')}, this diffedit reads {FORMAT_VERSION}")
    about.pop(seals.KEY, None)
    return about


def pack_latents(latents: Latents) -> bytes:
    arrays: Arrays = {"trajectory": latents.trajectory, "timesteps": latents.timesteps}
    return pack(arrays, record("latents", latents.made))


def load_latents(path: Path) -> Latents:
    """Raises InputError."""
    files.check_readable(path, "latents file")
    try:
        arrays, about = unpack(path)
        if about["kind"] != "latents":
            raise ValueError(f"it holds {about['kind']}, not latents")
        latents = Latents(arrays["trajectory"], arrays["timesteps"], _body(about), str(path))
    except UNREADABLE as error:
        raise InputError(
            f"The latents file {path} cannot be used: {reason(error)}; make it again with diffedit invert."
        ) from error
    return latents


def pack_mask(mask: Mask, *, telling: bool = True) -> bytes:
    """An 8-bit greyscale PNG, white = repaint, and grey = in part; not `telling` more than that it is ours."""
    about = {**mask.made, "pixels": mask.digest} if mask.made and telling else {}
    return formats.encode_png(mask.shown, record("mask", about) if mask.made else None)


def load_mask(path: Path, soft: bool = False, max_pixels: int = files.MAX_PIXELS) -> Mask:
    """A mask file, ours or drawn: at least half bright means repaint, or `soft` grey in part. Raises InputError."""
    return as_mask(formats.load(path, max_pixels), soft)


def as_mask(picture: Picture, soft: bool = False) -> Mask:
    """A picture as a mask: at least half bright means repaint, or `soft` grey in part; transparent means not."""
    image = picture.image
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    grey = np.array(image.convert("L"))
    drawn = Mask.soft(grey, name=picture.name) if soft else Mask(grey >= 128, name=picture.name)
    about = dict(picture.record or {})
    # painted over since: what it says of itself no longer holds
    if about.get("kind") != "mask" or about.pop("pixels", None) != drawn.digest:
        return drawn
    return replace(drawn, made=_body(about))


def _body(about: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in record("", {})}


def reason(error: Exception) -> str:
    """An error's message on one line, for a sentence."""
    return " ".join(str(error).split()) or type(error).__name__


def checksum(arrays: Arrays, about: Mapping[str, Any]) -> str:
    """Sha256 (hex) of arrays and what is said of them."""
    total = hashlib.sha256(digests.of_record(about).encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        total.update(arrays[name].tobytes())
    return total.hexdigest()
