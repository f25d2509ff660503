"""The folder of training, atomic writing, settings as options, and use of the machine."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock

NPM_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"


def workspace() -> Path:
    """Returns the training folder: ``DIFFEDIT_TRAINING_DIR``, else ``~/.cache/diffedit-training``."""
    chosen = os.environ.get("DIFFEDIT_TRAINING_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "diffedit-training"


def sprites_folder() -> Path:
    """Returns the folder of the sprites; fetches them from the npm registry the first time."""
    folder = workspace() / "sprites" / "package" / "assets"
    if not folder.is_dir():
        workspace().mkdir(parents=True, exist_ok=True)
        with FileLock(workspace() / "sprites.lock"):  # several processes draw and may fetch
            if not folder.is_dir():
                _fetch_sprites(folder.parent.parent)
    return folder


def drawing_processes(count: int) -> Pool:
    """Starts processes that draw scenes.

    The sprites are fetched before: a pool would wait for ever for a process that exits because it cannot fetch them.
    """
    sprites_folder()
    return get_context("spawn").Pool(count)


def _fetch_sprites(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise SystemExit(f"npm is needed once, to fetch {NPM_PACKAGE} into {folder}")
    beside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    subprocess.run(["npm", "pack", "--silent", NPM_PACKAGE], cwd=beside, check=True)
    with tarfile.open(next(beside.glob("*.tgz"))) as archive:
        archive.extractall(beside, filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def save_atomically(value: Any, path: Path) -> None:
    """Saves a value with torch to a temporary file and renames it, so that readers never see an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with beside.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


Settings = TypeVar("Settings")


def add_settings(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Adds an option for every field of a dataclass."""
    for field in dataclasses.fields(kind):
        many = isinstance(field.default, tuple)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default[0] if many else field.default),
            nargs="+" if many else None,
            default=field.default,
            help=f"default: {field.default}",
        )


def read_settings(options: argparse.Namespace, kind: type[Settings]) -> Settings:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def random_state() -> dict[str, Any]:
    """Returns the state of every random generator that training uses."""
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}


def restore_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])


def device() -> torch.device:
    """Returns the GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """Returns a context that computes in bfloat16 if the device does so natively; elsewhere it would be slower."""
    kind = device().type
    native = kind == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(kind, torch.bfloat16, enabled=native)


class Curve:
    """A loss curve: rows appended to a CSV file, plotted to a PNG beside it.

    Rows after ``step`` (written between the last checkpoint and an interruption) are dropped on opening.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self.path, self.columns = path, ["step", *columns]
        rows = [row for row in self.rows() if row["step"] <= step] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def rows(self) -> list[dict[str, float]]:
        with self.path.open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]

    def add(self, step: int, **values: float) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, **values})

    def draw(self) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = self.rows()
        if not rows:
            return
        names = self.columns[1:]
        figure, axes = pyplot.subplots(len(names), figsize=(9, 2.2 * len(names)), squeeze=False, sharex=True)
        for axis, name in zip(axes[:, 0], names, strict=True):
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=0.9)
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
        axes[-1, 0].set_xlabel("step")
        figure.tight_layout()
        figure.savefig(self.path.with_suffix(".png"), dpi=90)
        pyplot.close(figure)
