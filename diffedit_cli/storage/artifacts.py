"""Packs and unpacks the `.safetensors` files between stages: arrays, and the record of how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from diffedit_cli.storage import hashing, records, seals

CHECKSUM = "sha256"
Arrays = dict[str, NDArray[Any]]

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError)
TRAJECTORY = {"trajectory": 4, "timesteps": 1}
# Required arrays and their number of dimensions, by the kind of file.
RANKS = {
    "contrast": {"contrast": 2}, "attention": {"attention": 2}, "inversion": TRAJECTORY, "latents": TRAJECTORY,
    "encoded": {"latents": 4, "misfit": 1}, "edited": {"picture": 3},
    "reference": {"eps": 4}, "watched": {"eps": 4, "attention": 2}, "without": {"eps": 4},
    "batch": {"pictures": 1},
    "evidence": {"evidence": 3}, "decoded": {"picture": 3}, "segment": {"segment": 2},
}  # fmt: skip


def pack(arrays: Arrays, about: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a `.safetensors` file; its metadata holds the record and a checksum of record and arrays."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # One metadata key: safetensors writes several keys in any order, and equal arrays must give equal bytes.
    metadata = {records.KEY: seals.text_with_room({**about, CHECKSUM: checksum(arrays, about)})}
    data: bytes = safetensors.numpy.save(arrays, metadata)
    return data


def unpack(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Returns the arrays and the record of a file written by `pack`. Raises one of UNREADABLE if damaged or foreign."""
    about = _stated(path)
    stated = about.pop(CHECKSUM)
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if stated != checksum(arrays, about):
        raise ValueError("its contents do not match its checksum")
    _check(arrays, RANKS.get(about["kind"], {}))
    return arrays, about


def finite(arrays: Arrays) -> bool:
    """Whether all values of all arrays are finite."""
    return all(np.isfinite(array).all() for array in arrays.values())


def _check(arrays: Arrays, ranks: Mapping[str, int]) -> None:
    """Raises ValueError for arrays that no stage writes: a correct checksum does not show who wrote the file."""
    for name, rank in ranks.items():
        if name not in arrays or arrays[name].ndim != rank or not arrays[name].size:
            raise ValueError(f"it holds no {name} of {rank} dimensions")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"not all of its {name} is finite")
    if ranks is TRAJECTORY:
        trajectory, timesteps = arrays["trajectory"], arrays["timesteps"]
        if trajectory.dtype != np.float32 or len(trajectory) != len(timesteps) or (np.diff(timesteps) <= 0).any():
            raise ValueError("its trajectory is not a series of latents, each with a later timestep")


def read_packed_record(path: Path) -> dict[str, Any]:
    """Returns the record of a file without reading its arrays. Raises one of UNREADABLE."""
    about = _stated(path)
    del about[CHECKSUM]
    return about


def _stated(path: Path) -> dict[str, Any]:
    """Returns the record with its checksum as the file states them, without comparing the checksum."""
    with safetensors.safe_open(path, framework="np") as file:
        said = file.metadata() or {}
    if records.KEY not in said:
        raise ValueError("it was not made by diffedit")
    about: dict[str, Any] = json.loads(said[records.KEY])
    if not records.is_sound(about):
        raise ValueError("its record is damaged")
    if about.get("format") != records.FORMAT:
        raise ValueError(f"its format version is {about.get('format')}, this diffedit reads {records.FORMAT}")
    about.pop(seals.KEY, None)
    return about


def checksum(arrays: Arrays, about: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of arrays and their record."""
    total = hashlib.sha256(hashing.of_record(about).encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        total.update(arrays[name].tobytes())
    return total.hexdigest()
