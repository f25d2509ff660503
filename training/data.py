"""Pictures for training: conversion to and from tensors, and the pool from which the VAE learns."""

from __future__ import annotations

import functools
import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.scenes import CANVAS, PRESENT, WIDER, World, scene
from training.workspace import device, drawing_processes, workspace

POOL_SCENES = 6000


def to_tensor(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Converts (B, H, W, 3) bytes to (B, 3, H, W) in [-1, 1], in channels-last memory format."""
    values = (pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))).permute(0, 3, 1, 2)
    return (values.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Converts (B, 3, H, W) in [-1, 1] to (B, H, W, 3) bytes."""
    bytes_ = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).cpu().numpy()


def _pixels(world: World, seed: int) -> NDArray[np.uint8]:
    return np.asarray(scene(seed, world=world).picture)


def held_out_pictures(count: int, world: World = PRESENT) -> NDArray[np.uint8]:
    return np.stack([_pixels(world, world.held_out + index) for index in range(count)])


def picture_pool() -> NDArray[np.uint8]:
    """Returns ``POOL_SCENES`` scenes of each world (N, H, W, 3), memory-mapped from a file that is drawn once."""
    path = workspace() / "pictures" / f"{CANVAS}px-{2 * POOL_SCENES}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp.npy")
        pool = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=(2 * POOL_SCENES, CANVAS, CANVAS, 3))
        with drawing_processes(os.cpu_count() or 1) as drawing:
            for half, world in enumerate((PRESENT, WIDER)):
                seeds = range(world.first, world.first + POOL_SCENES)
                drawn = drawing.imap(functools.partial(_pixels, world), seeds, chunksize=25)
                for at, pixels in enumerate(drawn, half * POOL_SCENES):
                    pool[at] = pixels
        pool.flush()
        beside.replace(path)
    kept: NDArray[np.uint8] = np.load(path, mmap_mode="c")
    return kept


class CropSampler:
    """Random square crops of the pool, each the one of two with more contrast, half of them mirrored.

    On a GPU the pool lies in its memory and crops are cut there.
    """

    def __init__(self, pool: NDArray[np.uint8], size: int) -> None:
        self.pool = torch.from_numpy(pool).to(device())
        self.size = size

    def batch(self, count: int) -> Tensor:
        """Returns `count` crops (B, 3, size, size) in [-1, 1]."""
        both = torch.stack([self._crops(count), self._crops(count)])
        busy = both[:, :, ::4, ::4].float().flatten(2).std(2)
        chosen = both[busy.argmax(0), torch.arange(count, device=both.device)]
        return to_tensor(chosen)

    def _crops(self, count: int) -> Tensor:
        where = self.pool.device
        along = torch.arange(self.size, device=where)
        picture = torch.randint(len(self.pool), (count, 1, 1), device=where)
        top, left = torch.randint(CANVAS - self.size + 1, (2, count, 1), device=where)
        columns = left + torch.where(torch.rand(count, 1, device=where) < 0.5, along, along.flip(0))
        return self.pool[picture, (top + along)[:, :, None], columns[:, None]]
