"""Shards of encoded scenes for the UNet, created when training first needs them."""

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
"""Scenes in a shard; every second scene is the scene before it after an edit."""
Where = TypeVar("Where")
Number = TypeVar("Number", int, Tensor)
Content = tuple[str, tuple[str, ...], str]
"""Kind, objects, place: everything that a caption is drawn from."""
ANYTHING = ""
Wanted = tuple[str, str]
"""Request for a scene: `two` objects, `one` (or a bowl) or `empty`; and the name of an object in it, or `ANYTHING`."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Latents, latents of the same scenes on the other side of an edit, tokens (N, MAX_LENGTH)."""


def draw(world: World, seed: int) -> list[tuple[NDArray[np.uint8], Content]]:
    """Returns picture and content of a scene, then those of the same scene after an edit."""
    both = scene(seed, world=world), edited(seed, world)
    return [(np.asarray(drawn.picture), (drawn.kind, drawn.objects, drawn.place)) for drawn in both]


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """Encodes (N, 256, 256, 3) bytes to latents (N, C, 32, 32) on the VAE's device, standard deviation about 1."""
    parts = []
    at_once = 8 if device().type == "cpu" else 50
    for batch in np.split(pixels, range(at_once, len(pixels), at_once)):
        with autocast():
            parts.append(vae.encode(to_tensor(torch.from_numpy(batch).to(device()))).latent_dist.mode().float())
    scale: float = vae.config.scaling_factor
    return torch.cat(parts) * scale


def twin(at: Number) -> Number:
    """Returns the index of the other side of an edit: scenes and edited scenes alternate."""
    return at ^ 1


class Index(Generic[Where]):
    """Locations of scenes, by their content."""

    def __init__(self) -> None:
        self._scenes: defaultdict[Wanted, list[Where]] = defaultdict(list)

    def add(self, where: Where, content: Content) -> None:
        kind, objects, _ = content
        number = kind if kind in ("two", "empty") else "one"
        for name in (ANYTHING, *objects):
            self._scenes[number, name].append(where)

    def draw(self, wanted: Wanted, rng: random.Random) -> Where:
        """Returns a random scene as requested, else one with as many objects, else, if there is none, any scene."""
        number, _ = wanted
        scenes = self._scenes.get(wanted) or self._scenes.get((number, ANYTHING))
        return rng.choice(scenes or next(iter(self._scenes.values())))


@dataclass(frozen=True)
class Shard:
    latents: Tensor  # (N, C, 32, 32), float16
    contents: Sequence[Content]


def make_shard(vae: AutoencoderKL, index: int, world: World = PRESENT) -> Shard:
    """Creates a shard: a second process draws the scenes while this one encodes them."""
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
    """A world's scenes in the shards loaded so far, whose number grows during training."""

    def __init__(self, vae: AutoencoderKL, folder: Path, world: World = PRESENT) -> None:
        self.vae, self.folder, self.world = vae, folder, world
        self.shards: list[Shard] = []
        self.index = Index[tuple[int, int]]()

    def grow(self, shards: int) -> None:
        """Loads or creates shards until there are at least this many."""
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
        """Returns a batch with one scene for each item of `wanted`, with a newly drawn caption."""
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
