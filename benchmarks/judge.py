"""An independent judge: a small classifier trained on drawn scenes, never on output of the diffusion model.

``python -m benchmarks.judge`` trains it into the training folder and reports its accuracy on held-out crops.
"""

from __future__ import annotations

import argparse
import functools
import random
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from training.scenes import FRUIT, HELD_OUT, MIXED_FRUIT, OBJECTS, scene
from training.workspace import save_atomically, workspace

CLASSES = (*OBJECTS, *FRUIT, MIXED_FRUIT, "nothing")
SIZE = 64  # side of a crop in pixels
MARGIN = 0.12  # share of the box added around it


class Judge(nn.Module):
    """Classifier of crops (B, 3, 64, 64) in [-1, 1]; returns logits over CLASSES."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2),
            )
            for before, after in pairwise(widths)
        )  # fmt: skip
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def features(self, crops: Tensor) -> list[Tensor]:
        """Returns the output of every block."""
        found = []
        for block in self.blocks:
            crops = block(crops)
            found.append(crops)
        return found

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.features(crops)[-1].mean(dim=(2, 3)))


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns left, top, right, bottom of a square around the mask, with a margin."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    half = max(bottom - top, right - left) * (0.5 + MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def crop(picture: NDArray[np.uint8], box: tuple[int, int, int, int]) -> Tensor:
    """Returns a crop (3, 64, 64) in [-1, 1]; outside of the picture its edge is repeated."""
    reach = max(0, -box[0], -box[1], box[2] - picture.shape[1], box[3] - picture.shape[0])
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    piece = Image.fromarray(padded).crop([side + reach for side in box]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(piece).copy()).permute(2, 0, 1).float() / 127.5 - 1


def example(seed: int) -> tuple[Tensor, int]:
    """Returns a crop of a scene and its class: an object, slightly off centre, or a place without objects."""
    rng = random.Random(seed)
    drawn = scene(seed)
    picture = np.asarray(drawn.picture)
    name = rng.choice(["nothing", *drawn.objects] if rng.random() < 0.15 or not drawn.objects else drawn.objects)
    if name == "nothing":
        empty = np.asarray(scene(seed, kind="empty").picture)
        size, x, y = rng.randint(60, 160), rng.randint(40, 216), rng.randint(60, 216)
        return crop(empty, (x - size // 2, y - size // 2, x + size // 2, y + size // 2)), CLASSES.index(name)
    left, top, right, bottom = box_of(np.asarray(drawn.masks[name]) > 127)
    reach = (right - left) // 8
    x, y, grow = rng.randint(-reach, reach), rng.randint(-reach, reach), rng.randint(-reach, reach)
    return crop(picture, (left + x - grow, top + y - grow, right + x + grow, bottom + y + grow)), CLASSES.index(name)


def examples(first: int, count: int) -> tuple[Tensor, Tensor]:
    crops, labels = zip(*(example(first + index) for index in range(count)), strict=True)
    return torch.stack(crops), torch.tensor(labels)


def train(count: int, epochs: int) -> tuple[Judge, float]:
    """Returns a trained judge and its accuracy on 1,000 crops of held-out scenes."""
    torch.manual_seed(0)
    judge, (crops, labels) = Judge(), examples(0, count)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02)
    steps = epochs * (count // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(0, count, (64,))
        batch = crops[chosen]
        batch = torch.where(torch.rand(64, 1, 1, 1) < 0.5, batch.flip(3), batch)
        batch = batch + 0.08 * torch.rand(64, 1, 1, 1) * torch.randn_like(batch)  # robust to a soft decoder
        if step % 3 == 0:
            batch = F.interpolate(F.avg_pool2d(batch, 2), SIZE, mode="bilinear")
        loss = F.cross_entropy(judge(batch), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    judge.eval()
    crops, labels = examples(HELD_OUT + 5_000_000, 1000)
    with torch.inference_mode():
        accuracy = (judge(crops).argmax(1) == labels).float().mean().item()
    return judge, accuracy


@functools.cache
def trained() -> tuple[Judge, float]:
    """Returns the judge and its accuracy, from the training folder. Raises SystemExit if it is not trained."""
    path = workspace() / "judge" / "judge.pt"
    if not path.is_file():
        raise SystemExit("There is no judge yet; train it with: python -m benchmarks.judge")
    kept = torch.load(path, weights_only=True)
    judge = Judge()
    judge.load_state_dict(kept["weights"])
    return judge.eval(), float(kept["accuracy"])


@torch.inference_mode()
def verdict(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> str:
    """Returns the class that the judge assigns to the area of the mask."""
    judge, _ = trained()
    return CLASSES[int(judge(crop(picture, box_of(mask))[None]).argmax())]


@torch.inference_mode()
def distance(picture: NDArray[np.uint8], other: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Returns a distance like LPIPS (arXiv:1801.03924) on the judge's features: unit-normalised, squared, averaged."""
    judge, _ = trained()
    box = box_of(mask)
    pairs = zip(*(judge.features(crop(pixels, box)[None]) for pixels in (picture, other)), strict=True)
    return sum(float((F.normalize(a) - F.normalize(b)).square().sum(1).mean()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    judge, accuracy = train(options.scenes, options.epochs)
    save_atomically({"weights": judge.state_dict(), "accuracy": accuracy}, workspace() / "judge" / "judge.pt")
    print(f"accuracy on held-out crops {accuracy:.4f}")


if __name__ == "__main__":
    main()
