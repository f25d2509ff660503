"""What the two models learn from: a pool of pictures for the VAE, shards of latents for the UNet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.scenes import CANVAS, HELD_OUT, scene
from training.workspace import workspace

POOL_SCENES = 6000


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) bytes -> (B, 3, H, W) in [-1, 1], channels last."""
    values = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    return (values.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) bytes."""
    bytes_ = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).cpu().numpy()


def _pixels(seed: int) -> NDArray[np.uint8]:
    return np.asarray(scene(seed).picture)


def render(seeds: Iterable[int]) -> NDArray[np.uint8]:
    """The pictures of many seeds, (N, 256, 256, 3), drawn by all processors."""
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        return np.stack(pool.map(_pixels, seeds, chunksize=25))


def held_out_pictures(count: int) -> NDArray[np.uint8]:
    return np.stack([_pixels(HELD_OUT + index) for index in range(count)])


def picture_pool() -> NDArray[np.uint8]:
    """``POOL_SCENES`` rendered scenes, kept in a file and mapped into memory."""
    path = workspace() / "pictures" / f"{CANVAS}px-{POOL_SCENES}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp.npy")
        np.save(beside, render(range(POOL_SCENES)))
        beside.replace(path)
    pool: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pool


class CropSampler:
    """Random square crops of the pool, each the busier of two, half of them mirrored."""

    def __init__(self, pool: NDArray[np.uint8], size: int) -> None:
        self.pool, self.size = pool, size

    def batch(self, count: int) -> Tensor:
        return to_tensor(np.stack([self._busier() for _ in range(count)]))

    def _busier(self) -> NDArray[np.uint8]:
        picture = self.pool[np.random.randint(len(self.pool))]
        crop = max((self._crop(picture) for _ in range(2)), key=lambda pixels: float(pixels[::4, ::4].std()))
        return crop[:, ::-1] if np.random.rand() < 0.5 else crop

    def _crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        top, left = np.random.randint(0, CANVAS - self.size + 1, 2)
        crop: NDArray[np.uint8] = picture[top : top + self.size, left : left + self.size]
        return crop
