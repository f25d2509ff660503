"""Calibrates the domain check of an exported model: run ``python -m training.fitness FOLDER``.

Writes the largest misfit that a picture may have to the folder's ``fitness.json``, from scenes of the training seeds;
held-out scenes and photographs are only used to judge it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffedit_cli.engine.networks import domain_check
from diffedit_cli.engine.networks.latent_diffusion import LatentDiffusion
from diffedit_cli.engine.networks.sd import StableDiffusion
from diffedit_cli.models.folder import FITNESS
from training.data import to_tensor
from training.evaluate import knows_wider
from training.scenes import PRESENT, WIDER, World, scene

STRENGTH = 0.25
SCENES = 1000  # per world
TAKEN = 0.999
"""Share of scenes within the limit; for a model that draws sharply, photographs begin at twice the limit."""
OWN = {
    "invert-from": 0.2,
    "last-level": 0.3,
    "guidance": 4.0,
    "paste-above": 50.0,
    "evidence": -1.0,
    "evidence-of-looks": -0.6,
}
"""Defaults of this model by option name, see docs/regions.md; `training.evidence` then sets `evidence`."""


@torch.inference_mode()
def misfits(model: LatentDiffusion, pictures: Iterable[Image.Image]) -> list[float]:
    """Returns the misfit of each picture's central square, resized to the model's native size."""
    found = []
    for number, picture in enumerate(pictures):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((model.native_size,) * 2, Image.Resampling.LANCZOS))
        generator = torch.Generator().manual_seed(number)
        found.append(domain_check.misfit(model, model.encode(to_tensor(pixels[None])), STRENGTH, generator))
    return found


def worlds(folder: Path) -> tuple[World, ...]:
    return (PRESENT, WIDER) if knows_wider(folder) else (PRESENT,)


def scenes(world: World, first: int, count: int) -> Iterable[Image.Image]:
    return (scene(seed, world=world).picture for seed in range(first, first + count))


def calibrate(folder: Path, count: int = SCENES) -> float:
    """Writes the limit from `count` scenes of each world, and returns it."""
    model = StableDiffusion.load(folder, "cpu", torch.float32)
    found = [value for world in worlds(folder) for value in misfits(model, scenes(world, world.first, count))]
    limit = float(torch.tensor(found).quantile(TAKEN))
    said = {"strength": STRENGTH, "limit": round(limit, 4), **OWN}
    (folder / FITNESS).write_text(json.dumps(said) + "\n")
    return limit


def photographs() -> dict[str, Image.Image]:
    """Returns the photographs that scikit-image ships, by name, without its diagrams, textures and depth maps."""
    from skimage import data

    names = (
        "astronaut brick camera cat cell coffee coins grass gravel hubble_deep_field immunohistochemistry "
        "microaneurysms moon retina rocket"
    )
    found = {name: getattr(data, name)() for name in names.split()}
    left, right, _ = data.stereo_motorcycle()
    return {name: Image.fromarray(pixels) for name, pixels in {**found, "left": left, "right": right}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judge", action="store_true", help="only judge the existing limit")
    options = parser.parse_args()
    if not options.judge:
        calibrate(options.folder)
    limit = json.loads((options.folder / FITNESS).read_text())["limit"]
    model = StableDiffusion.load(options.folder, "cpu", torch.float32)
    print(f"limit {limit}")
    for world in worlds(options.folder):
        held_out = misfits(model, scenes(world, world.held_out + 3_000_000, 200))
        taken = sum(value <= limit for value in held_out)
        print(f"held-out scenes taken: {taken} of {len(held_out)}, the worst at {max(held_out):.4f}")
    photos = photographs()
    for name, value in sorted(zip(photos, misfits(model, photos.values()), strict=True), key=lambda row: row[1]):
        print(f"{'TAKEN' if value <= limit else 'refused':8} {value:.4f} {name}")


if __name__ == "__main__":
    main()
