"""Measures edits of large pictures with known truth: 12-megapixel scenes of the built-in world with a small object.

``python -m benchmarks.large --cases 20 --out DIR`` edits each scene with zoom, without zoom, and at 256 pixels, each by
a command in its own process. Writes DIR/large.jsonl, DIR/large.md and pictures to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.cases import FIRST_SEED, Case
from benchmarks.scenebench import Interval, interval, overlap, rows_of
from training.scenes import OBJECTS, OPAQUE, scene, sprite, stand, with_article

SIZE = (4000, 3000)
SHARE = 0.03  # share of the picture that the object covers
MEASURES = {
    "iou": "mask IoU (old object)",
    "changed_iou": "mask IoU (both objects)",
    "sharpness": "gradient energy / true",
    "seconds": "seconds",
    "memory": "peak GB",
}
WAYS = {
    "zoom": ("12 megapixels, --zoom auto", ()),
    "off": ("12 megapixels, --zoom off", ("--zoom", "off")),
    "small": ("the scene at 256 px", ()),
}


def draw_case(number: int, size: tuple[int, int] = SIZE, share: float = SHARE) -> Case:
    """Returns a case that exchanges the only object of a place; the same number is the same scene at any size."""
    rng = random.Random(number)
    old, new = rng.sample(list(OBJECTS), 2)
    width, height = size
    longer = max(size)
    place = scene(FIRST_SEED + number, kind="empty").picture.resize((longer, longer), Image.Resampling.BICUBIC)
    left, top = (longer - width) // 2, (longer - height) // 2
    place = place.crop((left, top, left + width, top + height))
    centre, bottom, flipped = width * rng.uniform(0.2, 0.8), height * rng.uniform(0.6, 0.95), rng.random() < 0.5
    (picture, mask), (result, new_mask) = (
        _stood(place, name, centre, bottom, share * width * height, flipped) for name in (old, new)
    )
    return Case(
        number=number, kind="one", source=with_article(old), target=with_article(new), old=old, new=new,
        picture=np.asarray(picture), result=np.asarray(result), mask=mask, new_mask=new_mask, kept={},
        empty=np.asarray(place), seed=FIRST_SEED + number,
    )  # fmt: skip


def _stood(
    place: Image.Image, name: str, centre: float, bottom: float, area: float, flipped: bool
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Returns the place with an object of `area` pixels, and the object's mask."""
    image = sprite(OBJECTS[name])
    opaque = (np.asarray(image.getchannel("A")) > OPAQUE).mean() * image.width * image.height
    scale = (area / opaque) ** 0.5
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x, y = round(centre - image.width / 2), round(bottom - image.height)
    picture, mask = place.copy(), Image.new("L", place.size, 0)
    stand(picture, mask, image, x, y, bottom)
    return picture, np.asarray(mask) > 0


def gradient_energy(picture: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Returns the mean squared gradient, in grey levels per pixel, over the pixels `where`."""
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=float)
    down, across = np.gradient(grey)
    return float((down**2 + across**2)[where].mean())


def edited(case: Case, folder: Path, words: Sequence[str]) -> dict[str, float]:
    """Edits a case by the command, in its own process, and returns every figure."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{case.number:03}.jpg"
    Image.fromarray(case.picture).save(picture, quality=95)
    command = [sys.executable, "-m", "diffedit_cli", "run", str(picture), "--from", case.source, "--to", case.target]
    command += ["--out", str(folder / "out"), "--model", "builtin", "--no-cache", "--quiet", "--force", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        return {"iou": 0.0, "changed_iou": 0.0, "seconds": seconds, "memory": usage.ru_maxrss / 2**20}
    result = np.asarray(Image.open(folder / "out" / picture.name))
    mask = np.asarray(Image.open(folder / "out" / f"{picture.stem}.mask.png")) > 127
    truths = {"iou": case.mask, "changed_iou": case.mask | case.new_mask}
    return {
        **{name: overlap(mask, true) for name, true in truths.items()},
        "sharpness": gradient_energy(result, case.new_mask) / gradient_energy(case.result, case.new_mask),
        "seconds": seconds,
        "memory": usage.ru_maxrss / 2**20,
    }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Returns each measure's mean and interval; a failed edit has no sharpness."""
    values = {name: [row[name] for row in rows if name in row] for name in MEASURES}
    return {name: interval(found) for name, found in values.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.cases):
        for way, (_, words) in WAYS.items():
            case = draw_case(number, (256, 192), SHARE) if way == "small" else draw_case(number)
            row = edited(case, options.out / way, words)
            found[way].append(row)
            with (options.out / "large.jsonl").open("a") as file:
                file.write(json.dumps({"case": number, "way": way, **row}) + "\n")
    figures = {WAYS[way][0]: summary(rows) for way, rows in found.items()}
    (options.out / "large.md").write_text(rows_of("way", figures, MEASURES))
    print((options.out / "large.md").read_text())


if __name__ == "__main__":
    main()
