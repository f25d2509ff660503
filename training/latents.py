"""Shards of encoded scenes for the UNet, made when training first asks for them."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from training.data import to_tensor
from training.scenes import PRESENT, World, edited, scene
from training.words import draw_caption, encode_all
from training.workspace import autocast, device, drawing_processes, save_atomically

SHARD_SCENES = 2000
"""Every other one of them is the one before it after an edit."""
Where = TypeVar("Where")
Number = TypeVar("Number", int, Tensor)
Content = tuple[str, tuple[str, ...], str]
"""Kind, objects, place: all that a caption needs."""
ANYTHING = ""
Wanted = tuple[str, str]
"""What a scene to learn from shows: `two` objects, `one` (or a bowl) or none, `empty`; and which, or `ANYTHING`."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Latents, those of the same scenes on the other side of an edit, (N, MAX_LENGTH) tokens."""


def draw(world: World, seed: int) -> list[tuple[NDArray[np.uint8], Content]]:
    """A scene's picture and all that a caption needs, then those of the same scene after an edit."""
    both = scene(seed, world=world), edited(seed, world)
    return [(np.asarray(drawn.picture), (drawn.kind, drawn.objects, drawn.place)) for drawn in both]


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """(N, 256, 256, 3) bytes -> (N, C, 32, 32) on the VAE's device, of a standard deviation of about 1."""
    parts = []
    at_once = 8 if device().type == "cpu" else 50
    for batch in np.split(pixels, range(at_once, len(pixels), at_once)):
        with autocast():
            parts.append(vae.encode(to_tensor(torch.from_numpy(batch).to(device()))).latent_dist.mode().float())
    scale: float = vae.config.scaling_factor
    return torch.cat(parts) * scale


def twin(at: Number) -> Number:
    """Where the other side of an edit is: scenes and edited scenes take turns."""
    return at ^ 1


class Index(Generic[Where]):
    """Where the scenes are, by what they show."""

    def __init__(self) -> None:
        self._scenes: defaultdict[Wanted, list[Where]] = defaultdict(list)

    def add(self, where: Where, content: Content) -> None:
        kind, objects, _ = content
        number = kind if kind in ("two", "empty") else "one"
        for name in (ANYTHING, *objects):
            self._scenes[number, name].append(where)

    def draw(self, wanted: Wanted, rng: random.Random) -> Where:
        """Any scene of what is wanted; of as many objects, where none shows that one; of any, where none does."""
        number, _ = wanted
        scenes = self._scenes.get(wanted) or self._scenes.get((number, ANYTHING))
        return rng.choice(scenes or next(iter(self._scenes.values())))


@dataclass(frozen=True)
class Shard:
    latents: Tensor  # (N, C, 32, 32), float16
    contents: Sequence[Content]


def make_shard(vae: AutoencoderKL, index: int, world: World = PRESENT) -> Shard:
    """Draw the scenes of a shard on one processor while the other encodes them."""
    first = world.first + index * SHARD_SCENES // 2
    seeds = range(first, first + SHARD_SCENES // 2)
    assert seeds[-1] < world.held_out
    latents: list[Tensor] = []
    contents: list[Content] = []
    pixels: list[NDArray[np.uint8]] = []
    with drawing_processes(1) as pool:
        for drawn in pool.imap(functools.partial(draw, world), seeds, chunksize=10):
            for picture, content in drawn:
                pixels.append(picture)
                contents.append(content)
            if len(pixels) == 40 or len(contents) == SHARD_SCENES:
                latents.append(encode_pictures(vae, np.stack(pixels)).half().cpu())
                pixels = []
    return Shard(torch.cat(latents), contents)


class Scenes:
    """A world's scenes learnt from so far: those of the first shards, more of them as training goes."""

    def __init__(self, vae: AutoencoderKL, folder: Path, world: World = PRESENT) -> None:
        self.vae, self.folder, self.world = vae, folder, world
        self.shards: list[Shard] = []
        self.index = Index[tuple[int, int]]()

    def grow(self, shards: int) -> None:
        """Have at least this many shards, from their files where they are there."""
        while len(self.shards) < shards:
            index = len(self.shards)
            path = self.folder / f"{self.world.shards}pairs-{index:04d}.pt"
            if not path.exists():
                made = make_shard(self.vae, index, self.world)
                save_atomically((made.latents, list(made.contents)), path)
            shard = Shard(*torch.load(path))
            self.shards.append(shard)
            for at, content in enumerate(shard.contents):
                self.index.add((index, at), content)

    def batch(self, wanted: Sequence[Wanted], rng: random.Random) -> Batch:
        """Of a scene of each kind that is wanted, with freshly drawn captions."""
        latents: list[Tensor] = []
        twins: list[Tensor] = []
        captions: list[str] = []
        for kind in wanted:
            index, at = self.index.draw(kind, rng)
            shard = self.shards[index]
            latents.append(shard.latents[at])
            twins.append(shard.latents[twin(at)])
            captions.append(draw_caption(*shard.contents[at], rng))
        return torch.stack(latents).float(), torch.stack(twins).float(), encode_all(captions)
