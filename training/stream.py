"""Scenes for training on a GPU: drawn by all processors meanwhile, encoded and stored on the GPU.

Training on a processor uses far fewer pictures than it can draw, and reads shards (``training.latents``). A GPU trains
on thousands a second, from the scenes drawn so far. The scenes come from the same seeds, in no fixed order.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from multiprocessing.pool import AsyncResult
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.latents import SHARD_SCENES, Batch, Content, Index, Wanted, draw, encode_pictures, twin
from training.scenes import CANVAS, World
from training.words import MAX_LENGTH, draw_caption, encode_all
from training.workspace import drawing_processes

BLOCK = 200
"""Scenes that a process draws at a time, including edited scenes."""
CAPTIONS = 24
"""Captions drawn with each scene; each time that a scene is used, one of them is chosen."""
Block = tuple[Path, Tensor, list[Content]]
"""File of pictures, tokens (BLOCK, CAPTIONS, MAX_LENGTH), contents of the scenes."""


def draw_block(world: World, first: int, folder: Path) -> Block:
    """Draws a block of scenes with captions. Pictures go to a file: sending them would delay the training process."""
    torch.set_num_threads(1)
    drawn = [shown for seed in range(first, first + BLOCK // 2) for shown in draw(world, seed)]
    path = folder / f"{first}.npy"
    np.save(path, np.stack([picture for picture, _ in drawn]))
    tokens = []
    for number, (_, content) in enumerate(drawn):
        rng = random.Random(2 * first + number)
        tokens.append(encode_all([draw_caption(*content, rng) for _ in range(CAPTIONS)]).short())
    return path, torch.stack(tokens), [content for _, content in drawn]


class Drawing:
    """The drawing processes, shared by the worlds."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="diffedit-scenes-"))
        self.pool = drawing_processes(max(1, (os.cpu_count() or 1) - 2))  # leaves two for the training itself
        atexit.register(self.close)

    def ask(self, world: World, first: int) -> AsyncResult[Block]:
        return self.pool.apply_async(draw_block, (world, first, self.folder))

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()
        shutil.rmtree(self.folder)


class Stream:
    """A world's scenes on the GPU, whose number grows during training."""

    def __init__(self, vae: AutoencoderKL, drawing: Drawing, world: World, most_shards: int) -> None:
        self.vae, self.drawing, self.world = vae, drawing, world
        most = most_shards * SHARD_SCENES
        side = CANVAS // 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (most, vae.config.latent_channels, side, side)
        self.latents = torch.empty(shape, dtype=torch.half, device=vae.device)
        self.tokens = torch.empty((most, CAPTIONS, MAX_LENGTH), dtype=torch.short, device=vae.device)
        self.index = Index[int]()
        self.count = self.asked = 0
        self.waiting: list[AsyncResult[Block]] = []

    def grow(self, shards: int) -> None:
        """Requests this many shards and takes in one block that is ready; waits only for the very first."""
        while self.asked < shards * SHARD_SCENES and len(self.waiting) < (os.cpu_count() or 1):
            self.waiting.append(self.drawing.ask(self.world, self.world.first + self.asked // 2))
            self.asked += BLOCK
        if not self.count:
            self.waiting[0].wait()
        ready = next((block for block in self.waiting if block.ready()), None)
        if ready is not None:
            self.waiting.remove(ready)
            self._take(*ready.get())

    def _take(self, path: Path, tokens: Tensor, contents: list[Content]) -> None:
        there = slice(self.count, self.count + BLOCK)
        self.latents[there] = encode_pictures(self.vae, np.load(path))
        self.tokens[there] = tokens.to(self.tokens.device)
        path.unlink()
        for at, content in enumerate(contents, self.count):
            self.index.add(at, content)
        self.count += BLOCK

    def batch(self, wanted: Sequence[Wanted], rng: random.Random) -> Batch:
        """Returns a batch with one scene for each item of `wanted`, with one of its captions."""
        chosen = [self.index.draw(kind, rng) for kind in wanted]
        # Pinned, since otherwise the copy would wait for the previous step.
        pinned = torch.tensor(chosen, pin_memory=self.latents.is_cuda)
        where = pinned.to(self.latents.device, non_blocking=True)
        which = torch.randint(CAPTIONS, (len(wanted),), device=where.device)
        return self.latents[where].float(), self.latents[twin(where)].float(), self.tokens[where, which].long()
